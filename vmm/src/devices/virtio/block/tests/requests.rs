//! Requests that a driver may make, and what they do to the disk.

use super::*;

#[test]
fn what_is_read_is_in_the_file_and_what_is_written_goes_there() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        assert_eq!(machine.read(3, 1024), (OK, machine.image.read(3 * 512, 1024)));
        assert_eq!(machine.write(5, &[0xab; 4096]), OK);
        assert_eq!(machine.image.read(5 * 512, 4096), [0xab; 4096]);
        assert_eq!(machine.image.read(4 * 512, 512), [4; 512], "the sector before");
        assert_eq!(machine.image.read(13 * 512, 512), [13; 512], "the sector behind");
        let stats = &machine.stats;
        assert_eq!((stats.operations.get(), stats.errors.get()), (2, 0));
        assert_eq!((stats.bytes_in.get(), stats.bytes_out.get()), (1024, 4096));
    });
}

#[test]
fn the_last_sector_is_there_and_the_next_one_is_not() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let sectors = SIZE / 512;
        assert_eq!(machine.read(sectors - 1, 512).0, OK);
        for (sector, length) in [
            (sectors, 512),
            (sectors - 1, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (1 << 55, 512),
            ((1 << 55) - 1, 512),
        ] {
            assert_eq!(machine.read(sector, length).0, IO_ERROR, "reading {length} at {sector:#x}");
            assert_eq!(machine.write(sector, &vec![1; length as usize]), IO_ERROR, "writing at {sector:#x}");
        }
        assert_eq!(fs::metadata(&machine.image.0).unwrap().len(), SIZE);
        assert_eq!(machine.stats.errors.get(), 12);
    });
}

#[test]
fn lengths_that_are_no_sectors_are_refused_and_nothing_is_nothing() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        assert_eq!(machine.read(0, 511).0, IO_ERROR);
        assert_eq!(machine.write(0, &[1; 513]), IO_ERROR);
        assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, &[]), (OK, 1));
        assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 0, &[]), (OK, 1));
        assert_eq!(machine.image.read(0, 512), [0; 512]);
    });
}

#[test]
fn header_data_and_status_may_be_cut_anywhere() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let Part::Readable(header, _) = machine.header(VIRTIO_BLK_T_OUT, 7) else { unreachable!() };
        let data = machine.driver.place(&[0xcd; 512]);
        let status = machine.driver.place(&[0xff]);
        let parts = [
            Part::Readable(header, 5),
            Part::Readable(header + 5, 11),
            Part::Readable(data, 1),
            Part::Readable(data, 0),
            Part::Readable(data, 511),
            Part::Writable(status, 1),
        ];
        assert_eq!(machine.driver.request(0, &parts), 1);
        assert_eq!(machine.driver.bytes(status, 1), [OK]);
        assert_eq!(machine.image.read(7 * 512, 512), [0xcd; 512]);

        // Header and data in one readable descriptor, data and status in one writable one.
        let buffer = machine.driver.allocate(513);
        let header = machine.header(VIRTIO_BLK_T_IN, 9);
        assert_eq!(machine.driver.request(0, &[header, Part::Writable(buffer, 513)]), 513);
        assert_eq!(machine.driver.bytes(buffer, 513), [vec![9; 512], vec![OK]].concat());
        let mut together = VIRTIO_BLK_T_OUT.to_le_bytes().to_vec();
        together.extend([0; 12]);
        together.extend([0xef; 512]);
        let together = machine.driver.place(&together);
        let status = machine.driver.place(&[0xff]);
        let parts = [Part::Readable(together, 528), Part::Writable(status, 1)];
        assert_eq!(machine.driver.request(0, &parts), 1);
        assert_eq!(machine.image.read(0, 512), [0xef; 512]);
    });
}

#[test]
fn a_chain_may_be_in_a_table_of_its_own() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let header = machine.header(VIRTIO_BLK_T_IN, 2);
        let (data, status) = (machine.driver.allocate(1024), machine.driver.place(&[0xff]));
        // As many data segments as the device says it takes.
        let mut parts = vec![header];
        parts.extend((0..253).map(|index| Part::Writable(data + index, 1)));
        parts.extend([Part::Writable(data + 253, 1024 - 253), Part::Writable(status, 1)]);
        let table = table(&mut machine.driver, &parts);
        assert_eq!(machine.driver.request(0, &[table]), 1025);
        assert_eq!(machine.driver.bytes(status, 1), [OK]);
        assert_eq!(machine.driver.bytes(data, 1024), machine.image.read(1024, 1024));
    });
}

#[test]
fn a_flush_is_done() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        assert!(machine.offers(VIRTIO_BLK_F_FLUSH));
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    });
}

#[test]
fn without_flush_a_write_is_durable_and_still_a_write() {
    on_every_engine(|engine| {
        let image = Image::new(SIZE);
        let block = Box::new(Block::open(&image.disk(engine)).unwrap());
        let stats = block.stats();
        let driver = Driver::start(block, !(1 << VIRTIO_BLK_F_FLUSH));
        let mut machine = Machine { driver, stats, image };
        assert_eq!(machine.write(2, &[7; 1024]), OK);
        assert_eq!(machine.image.read(1024, 1024), [7; 1024]);
    });
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let stored = |machine: &Machine| fs::metadata(&machine.image.0).unwrap().blocks();
        let before = stored(&machine);
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 256, 128, 0), OK);
        assert_eq!(machine.image.read(256 * 512, 128 * 512), [0; 128 * 512]);
        assert!(stored(&machine) < before, "the host has the blocks back");
        for (unmap, sector) in [(0, 1024), (1, 1280)] {
            assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, sector, 3, unmap), OK);
            assert_eq!(machine.image.read(sector * 512, 3 * 512), [0; 3 * 512]);
            assert_eq!(machine.image.read((sector + 3) * 512, 1)[0], 3, "the sector behind");
        }
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 0, 0, 0), OK);
        assert_eq!(fs::metadata(&machine.image.0).unwrap().len(), SIZE);
    });
}

#[test]
fn ranges_and_flags_out_of_bounds_are_refused() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            assert_eq!(machine.range(kind, 2047, 2, 0), IO_ERROR);
            assert_eq!(machine.range(kind, u64::MAX, u32::MAX, 0), IO_ERROR);
            assert_eq!(machine.range(kind, u64::MAX / 512, 1, 0), IO_ERROR);
            assert_eq!(machine.range(kind, 0, 1, 2), UNSUPPORTED);
        }
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 0, 1, 1), UNSUPPORTED);
        assert_eq!(machine.image.read(512, 512), [1; 512]);
    });
}

#[test]
fn the_serial_number_is_the_id_and_fills_what_room_there_is() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        let buffer = machine.driver.place(&[0xff; 24]);
        let parts = [Part::Writable(buffer, 3), Part::Writable(buffer + 3, 17)];
        assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, &parts), (OK, 21));
        assert_eq!(machine.driver.bytes(buffer, 21), [b"root".as_slice(), &[0; 16], &[0xff]].concat());
        assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, &[Part::Writable(buffer, 2)]), (OK, 3));
        assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, &[Part::Writable(buffer, 24)]), (OK, 20));
        assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, &[Part::Writable(u64::MAX, 20)]).0, IO_ERROR);
    });
}

#[test]
fn the_configuration_tells_the_capacity_and_cannot_be_written() {
    let mut machine = Machine::new(IoEngine::Sync);
    machine.driver.set_register(VIRTIO_MMIO_CONFIG, 0);
    assert_eq!(machine.driver.register(VIRTIO_MMIO_CONFIG), u32::try_from(SIZE / 512).unwrap());
    assert_eq!(machine.driver.register(VIRTIO_MMIO_CONFIG + 12), 254);
    assert_eq!(machine.driver.register(VIRTIO_MMIO_CONFIG + 20), 512);
}

#[test]
fn any_batches_of_requests_do_what_a_disk_does() {
    on_every_engine(|engine| {
        let mut random = Random::new(1);
        let mut machine = Machine::new(engine);
        let mut model = machine.image.read(0, usize::try_from(SIZE).unwrap());
        let start = machine.driver.allocate(16);
        for _ in 0..300 {
            machine.driver.rewind(start);
            let mut expected = Vec::new();
            // Up to 12 requests on as many stretches of the disk: what is in flight has no order.
            let count = 1 + random.below(12);
            for stretch in 0..count {
                let sector = stretch * 170 + random.below(100);
                let sectors = 1 + random.below(60);
                let bytes = usize::try_from(sector * 512).unwrap()
                    ..usize::try_from((sector + sectors) * 512).unwrap();
                let length = u32::try_from(bytes.len()).unwrap();
                let data = machine.driver.allocate(bytes.len());
                let cut = u32::try_from(random.below(length.into())).unwrap();
                let status = machine.driver.place(&[0xff]);
                let (kind, content) = match random.below(3) {
                    0 => (VIRTIO_BLK_T_FLUSH, None),
                    1 => (VIRTIO_BLK_T_IN, Some(model[bytes.clone()].to_vec())),
                    _ => {
                        let content: Vec<u8> =
                            bytes.clone().map(|_| random.below(256).to_le_bytes()[0]).collect();
                        machine.driver.memory.write_slice(&content, GuestAddress(data)).unwrap();
                        model[bytes].copy_from_slice(&content);
                        (VIRTIO_BLK_T_OUT, None)
                    }
                };
                let part = match kind {
                    VIRTIO_BLK_T_IN => Part::Writable,
                    _ => Part::Readable,
                };
                let parts = [
                    machine.header(kind, sector),
                    part(data, cut),
                    part(data + u64::from(cut), length - cut),
                    Part::Writable(status, 1),
                ];
                machine.driver.submit(0, &parts);
                expected.push((status, data, content));
            }
            machine.driver.kick(0);
            for _ in 0..count {
                machine.driver.wait_used(0);
            }
            for (status, data, content) in expected {
                assert_eq!(machine.driver.bytes(status, 1), [OK]);
                let content = content.unwrap_or_default();
                assert!(
                    machine.driver.bytes(data, content.len()) == content,
                    "what was read is what was there"
                );
            }
        }
        assert!(machine.image.read(0, model.len()) == model, "the file is what was written");
        assert_eq!(machine.stats.errors.get(), 0);
    });
}
