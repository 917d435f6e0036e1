//! Chains that no driver makes.

use super::*;

#[test]
fn data_outside_of_memory_is_an_error_of_that_request_only() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        for address in [MEMORY_SIZE as u64, MEMORY_SIZE as u64 - 511, u64::MAX - 511, u64::MAX] {
            let read = machine.request(VIRTIO_BLK_T_IN, 0, &[Part::Writable(address, 512)]);
            assert_eq!(read, (IO_ERROR, 0), "reading to {address:#x}");
            let write = machine.request(VIRTIO_BLK_T_OUT, 0, &[Part::Readable(address, 512)]);
            assert_eq!(write, (IO_ERROR, 1), "writing from {address:#x}");
        }
        let status = machine.driver.place(&[0xff]);
        let parts = [Part::Readable(u64::MAX - 3, 16), Part::Writable(status, 1)];
        machine.driver.request(0, &parts);
        assert_eq!(machine.driver.bytes(status, 1), [IO_ERROR], "a header outside of memory");
        assert_eq!(machine.image.read(0, 512), [0; 512]);
        assert_eq!(machine.read(1, 512), (OK, vec![1; 512]));
    });
}

#[test]
fn requests_that_are_none_are_refused() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let data = machine.driver.allocate(512);
        let (to, from) = (Part::Readable(data, 512), Part::Writable(data, 512));
        assert_eq!(machine.request(99, 0, &[]), (UNSUPPORTED, 1), "an unknown type");
        assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, &[to]), (IO_ERROR, 1), "reading into readable memory");
        assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 0, &[from]), (IO_ERROR, 0), "writing what is writable");
        assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, &[to, from]), (IO_ERROR, 0), "both");
        assert_eq!(machine.request(VIRTIO_BLK_T_DISCARD, 0, &[to]), (IO_ERROR, 1), "32 ranges");
        let status = machine.driver.place(&[0xff]);
        let parts = [Part::Readable(data, 15), Part::Writable(status, 1)];
        assert_eq!(machine.driver.request(0, &parts), 1);
        assert_eq!(machine.driver.bytes(status, 1), [IO_ERROR], "a header that is too short");
    });
}

#[test]
fn a_chain_that_cannot_be_answered_asks_for_a_reset() {
    type Fields = (u64, u32, u16, u16);
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let chains: [(&str, &[Fields]); 8] = [
        ("no status", &[(0x10_0000, 16, 0, 0)]),
        ("a status of no length", &[(0x10_0000, 16, NEXT, 1), (0x10_0100, 0, WRITE, 0)]),
        ("a status outside of memory", &[(0x10_0000, 16, NEXT, 1), (MEMORY_SIZE as u64, 1, WRITE, 0)]),
        ("a status beyond every address", &[(0x10_0000, 16, NEXT, 1), (u64::MAX - 1, 4, WRITE, 0)]),
        ("a loop", &[(0x10_0000, 16, NEXT, 1), (0x10_0100, 1, WRITE | NEXT, 1)]),
        ("a descriptor that is not there", &[(0x10_0000, 16, NEXT, 1), (0x10_0100, 1, WRITE | NEXT, 300)]),
        ("readable after writable", &[(0x10_0000, 1, WRITE | NEXT, 1), (0x10_0100, 16, 0, 0)]),
        ("a table outside of memory", &[(MEMORY_SIZE as u64, 32, INDIRECT, 0)]),
    ];
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        for (what, chain) in chains {
            for (index, fields) in (0..).zip(chain) {
                machine.driver.set_descriptor(0, index, *fields);
            }
            machine.driver.repost(0, 0);
            machine.driver.kick(0);
            machine.driver.wait_needs_reset();
            assert_eq!(machine.driver.used(0), None, "{what}");
            machine.driver.initialise(u64::MAX);
            assert_eq!(machine.read(1, 512), (OK, vec![1; 512]), "after a reset from {what}");
        }
        assert_eq!(machine.image.read(0, 512), [0; 512]);
    });
}

#[test]
fn a_head_beyond_the_queue_asks_for_a_reset() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        machine.driver.repost(0, u16::MAX);
        machine.driver.kick(0);
        machine.driver.wait_needs_reset();
    });
}

#[test]
fn a_chain_longer_than_the_device_takes_asks_for_a_reset() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let buffer = machine.driver.allocate(16);
        let table = table(&mut machine.driver, &[Part::Writable(buffer, 2); 4096]);
        machine.driver.submit(0, &[table]);
        machine.driver.kick(0);
        machine.driver.wait_needs_reset();
    });
}
