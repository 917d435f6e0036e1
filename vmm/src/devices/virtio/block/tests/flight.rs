//! Many requests at once: batches, and what is in flight when the device is stopped.

use super::*;

#[test]
fn a_batch_is_one_interrupt() {
    // With io_uring it is as many as there are moments at which something completes.
    let mut machine = Machine::new(IoEngine::Sync);
    let (data, status) = (machine.driver.allocate(512), machine.driver.allocate(16));
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    machine.driver.transport.pause();
    let before = machine.stats.interrupts.get();
    for _ in 0..16 {
        let parts = [header, Part::Writable(data, 512), Part::Writable(status, 1)];
        machine.driver.submit(0, &parts);
    }
    machine.driver.kick(0);
    machine.driver.transport.resume();
    for _ in 0..16 {
        machine.driver.wait_used(0);
    }
    machine.driver.transport.pause();
    assert_eq!(machine.stats.interrupts.get(), before + 1);
}

#[test]
fn every_request_of_a_full_queue_is_answered_with_and_without_event_idx() {
    on_every_engine(|engine| {
        for features in [u64::MAX, !(1 << VIRTIO_RING_F_EVENT_IDX)] {
            let mut machine = Machine::new(engine);
            machine.driver.initialise(features);
            let header = machine.header(VIRTIO_BLK_T_IN, 5);
            let status = machine.driver.allocate(64);
            for round in 0..40 {
                let mut heads = Vec::new();
                for index in 0..21 {
                    let parts = [header, Part::Writable(0x80_0000 + 512 * index, 512)];
                    let parts = [parts[0], parts[1], Part::Writable(status + index, 1)];
                    heads.push(machine.driver.submit(0, &parts));
                    if index % 7 == 0 {
                        machine.driver.kick(0);
                    }
                }
                machine.driver.kick(0);
                let mut done: Vec<u16> = heads.iter().map(|_| machine.driver.wait_used(0).0).collect();
                done.sort_unstable();
                heads.sort_unstable();
                assert_eq!(done, heads, "round {round}");
                assert_eq!(machine.driver.bytes(status, 21), [OK; 21]);
            }
            assert_eq!(machine.driver.bytes(0x80_0000, 21 * 512), [5; 21 * 512]);
        }
    });
}

#[test]
fn a_paused_disk_goes_on_with_what_was_asked_meanwhile() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        machine.driver.transport.pause();
        let header = machine.header(VIRTIO_BLK_T_IN, 6);
        let (data, status) = (machine.driver.allocate(512), machine.driver.place(&[0xff]));
        machine.driver.submit(0, &[header, Part::Writable(data, 512), Part::Writable(status, 1)]);
        // No kick: a resumed device looks by itself.
        assert_eq!(machine.driver.used(0), None);
        machine.driver.transport.resume();
        assert_eq!(machine.driver.wait_used(0).1, 513);
        assert_eq!(machine.driver.bytes(data, 512), [6; 512]);
    });
}

#[test]
fn a_reset_under_load_leaves_nothing_in_flight() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let header = machine.header(VIRTIO_BLK_T_IN, 8);
        let status = machine.driver.allocate(1);
        for _ in 0..50 {
            for index in 0..21 {
                let data = Part::Writable(0x80_0000 + 0x2_0000 * index, 0x2_0000);
                machine.driver.submit(0, &[header, data, Part::Writable(status, 1)]);
            }
            machine.driver.kick(0);
            machine.driver.initialise(u64::MAX);
            // Nobody writes here any more: what the driver puts there stays.
            let memory = &machine.driver.memory;
            memory.write_slice(&[0x5a; 21 * 0x2_0000], GuestAddress(0x80_0000)).unwrap();
            let bytes = machine.driver.bytes(0x80_0000, 21 * 0x2_0000);
            assert!(bytes.iter().all(|byte| *byte == 0x5a));
        }
        assert_eq!(machine.read(9, 512), (OK, vec![9; 512]));
    });
}

/// A machine whose reads stay in flight until something is written to the pipe beside it.
fn machine_on_a_pipe() -> Option<(Machine, File)> {
    let (reader, writer) = std::io::pipe().unwrap();
    let file = File::from(OwnedFd::from(reader));
    match ring() {
        Ok(ring) => Some((machine_on(file, Some(ring)), File::from(OwnedFd::from(writer)))),
        Err(error) => {
            println!("\nrvm-tests: cannot run: this host has no io_uring: {error}");
            None
        }
    }
}

#[test]
fn what_the_host_does_in_part_is_asked_for_again() {
    let Some((mut machine, mut pipe)) = machine_on_a_pipe() else { return };
    let (data, status) = (machine.driver.allocate(1024), machine.driver.place(&[0xff]));
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    let parts =
        [header, Part::Writable(data, 300), Part::Writable(data + 300, 724), Part::Writable(status, 1)];
    machine.driver.submit(0, &parts);
    machine.driver.kick(0);
    let bytes: Vec<u8> = (0..1024_u16).map(|at| at.to_le_bytes()[0]).collect();
    for piece in bytes.chunks(100) {
        pipe.write_all(piece).unwrap();
    }
    assert_eq!(machine.driver.wait_used(0).1, 1025);
    assert_eq!(machine.driver.bytes(status, 1), [OK]);
    assert_eq!(machine.driver.bytes(data, 1024), bytes);
}

#[test]
fn a_head_that_is_in_flight_cannot_be_so_twice() {
    let Some((mut machine, mut pipe)) = machine_on_a_pipe() else { return };
    let (data, status) = (machine.driver.allocate(512), machine.driver.place(&[0xff]));
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    machine.driver.transport.pause();
    let head = machine.driver.submit(0, &[header, Part::Writable(data, 512), Part::Writable(status, 1)]);
    machine.driver.repost(0, head);
    // The one that is in flight comes to its end before the device gives up.
    pipe.write_all(&[7; 1024]).unwrap();
    machine.driver.transport.resume();
    machine.driver.wait_needs_reset();
    assert_eq!(machine.driver.used(0), Some((head, 513)));
    assert_eq!(machine.driver.used(0), None);
    assert_eq!(machine.driver.bytes(data, 512), [7; 512]);

    machine.driver.initialise(u64::MAX);
    assert_eq!(machine.read(0, 512), (OK, vec![7; 512]), "after a reset");
}

#[test]
fn a_reset_waits_for_what_is_in_flight() {
    let Some((mut machine, mut pipe)) = machine_on_a_pipe() else { return };
    // With tables of their own, as many in flight as the device has descriptors.
    machine.driver.queue_size = config::QUEUE_SIZE;
    machine.driver.initialise(u64::MAX);
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    let (count, length) = (u64::from(config::QUEUE_SIZE), 512 * usize::from(config::QUEUE_SIZE));
    let (data, status) = (machine.driver.allocate(length), machine.driver.allocate(length / 512));
    for index in 0..count {
        let parts = [header, Part::Writable(data + 512 * index, 512), Part::Writable(status + index, 1)];
        let table = table(&mut machine.driver, &parts);
        machine.driver.submit(0, &[table]);
    }
    machine.driver.kick(0);
    // The first answer tells that all are in flight: they were taken as one batch.
    pipe.write_all(&[1; 512]).unwrap();
    machine.driver.wait_used(0);
    let feeder = std::thread::spawn(move || pipe.write_all(&vec![1; length - 512]));
    machine.driver.initialise(u64::MAX);
    feeder.join().unwrap().unwrap();
    assert_eq!(machine.driver.bytes(data, length), vec![1; length], "the reset came after all of it");
    assert_eq!(machine.stats.operations.get(), count);
}

#[test]
fn a_pause_finishes_what_is_in_flight_and_keeps_the_rest() {
    let Some((mut machine, mut pipe)) = machine_on_a_pipe() else { return };
    let (data, status) = (machine.driver.allocate(1024), machine.driver.allocate(2));
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    for index in 0..2 {
        let parts = [header, Part::Writable(data + 512 * index, 512), Part::Writable(status + index, 1)];
        machine.driver.submit(0, &parts);
    }
    machine.driver.kick(0);
    pipe.write_all(&[1; 512]).unwrap();
    machine.driver.wait_used(0);
    let feeder = std::thread::spawn(move || pipe.write_all(&[2; 512]).map(|()| pipe));
    machine.driver.transport.pause();
    assert!(machine.driver.used(0).is_some(), "answered before the pause was over");
    let mut pipe = feeder.join().unwrap().unwrap();
    machine.driver.transport.resume();
    pipe.write_all(&[3; 512]).unwrap();
    assert_eq!(machine.read(0, 512), (OK, vec![3; 512]));
}
