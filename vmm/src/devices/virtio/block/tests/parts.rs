//! Disks made of several images, and disks that are there before what is on them.

use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use rvm_config::control::Layout;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG_GENERATION;

use super::*;
use crate::devices::virtio::block::{AttachError, Placeholder};
use crate::devices::virtio::interrupt::CONFIG_CHANGE;

/// A sector where a part starts; they start at multiples.
const MIB: u64 = 2048;

/// A machine whose disk is made of images of these sizes in bytes: of part i every byte is i + 1.
fn machine(engine: IoEngine, sizes: &[usize]) -> (Machine, Vec<Image>) {
    let images: Vec<Image> = (1..).zip(sizes).map(|(byte, size)| filled(byte, *size)).collect();
    let parts = images.iter().map(|image| image.0.clone()).collect();
    let disk = Disk { source: DiskSource::Parts(parts), read_only: false, id: Some("layers".into()), engine };
    (Machine::with(&disk, Image::new(512)), images)
}

fn filled(byte: u8, size: usize) -> Image {
    let image = Image::new(0);
    fs::write(&image.0, vec![byte; size]).unwrap();
    image
}

fn capacity(machine: &mut Machine) -> u64 {
    let [low, high] = [0, 4].map(|offset| machine.driver.register(VIRTIO_MMIO_CONFIG + offset));
    u64::from(high) << 32 | u64::from(low)
}

#[test]
fn parts_lie_behind_each_other_with_zeroes_between() {
    on_every_engine(|engine| {
        let (mut machine, _images) = machine(engine, &[1 << 20, 1000, 513 << 10]);
        assert_eq!(capacity(&mut machine), 4 * MIB + 33);
        assert_eq!(machine.read(MIB, 1 << 20), (OK, vec![1; 1 << 20]), "a part that fills its place");
        let mut second = vec![2; 1000];
        second.resize(4 * 512, 0);
        assert_eq!(machine.read(2 * MIB, 4 * 512), (OK, second), "a part that ends within a sector");
        assert_eq!(machine.read(3 * MIB - 8, 8 * 512), (OK, vec![0; 8 * 512]));
        assert_eq!(machine.read(3 * MIB + 1025, 512), (OK, vec![3; 512]));
    });
}

#[test]
fn a_request_over_several_parts_is_all_of_them() {
    on_every_engine(|engine| {
        let (mut machine, _images) = machine(engine, &[1 << 20, 512, 512]);
        let (status, bytes) = machine.read(2 * MIB - 2, 5 * 512 + (1 << 20));
        let expected = [vec![1; 1024], vec![2; 512], vec![0; (1 << 20) - 512], vec![3; 512], vec![0; 1024]];
        assert_eq!(status, OK);
        assert!(bytes == expected.concat());
        // The whole disk, through both partition tables.
        let (status, bytes) = machine.read(0, u32::try_from((4 * MIB + 33) * 512).unwrap());
        assert_eq!(status, OK);
        assert_eq!(
            (&bytes[512..520], &bytes[bytes.len() - 512..][..8]),
            (&b"EFI PART"[..], &b"EFI PART"[..])
        );
        assert!(bytes[1 << 20..2 << 20].iter().all(|byte| *byte == 1));
    });
}

#[test]
fn a_read_that_is_cut_into_segments_crosses_parts_anywhere() {
    on_every_engine(|engine| {
        let (mut machine, _images) = machine(engine, &[1 << 20, 700, 512]);
        let mut expected = [vec![1; 512], vec![2; 700]].concat();
        expected.resize(4 * 512, 0);
        for cut in [1, 511, 512, 513, 1000, 1211, 1212, 1213, 2047] {
            let data = machine.driver.allocate(4 * 512);
            let parts = [Part::Writable(data, cut), Part::Writable(data + u64::from(cut), 4 * 512 - cut)];
            assert_eq!(machine.request(VIRTIO_BLK_T_IN, 2 * MIB - 1, &parts), (OK, 4 * 512 + 1));
            assert_eq!(machine.driver.bytes(data, 4 * 512), expected, "cut at {cut}");
        }
    });
}

#[test]
fn nothing_is_written_to_parts_and_nothing_lies_past_the_end() {
    on_every_engine(|engine| {
        let (mut machine, images) = machine(engine, &[512, 1024]);
        assert!(machine.offers(VIRTIO_BLK_F_RO));
        for sector in [0, MIB, 2 * MIB, 3 * MIB] {
            assert_eq!(machine.write(sector, &[9; 512]), IO_ERROR);
            assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, sector, 1, 0), IO_ERROR);
            assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, sector, 1, 0), IO_ERROR);
        }
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        let end = 3 * MIB + 33;
        assert_eq!(machine.read(end - 1, 512).0, OK);
        for sector in [end, end - 1, u64::MAX / 512, u64::MAX] {
            assert_eq!(machine.read(sector, 1024).0, IO_ERROR, "{sector}");
        }
        assert_eq!(images[1].read(0, 1024), [2; 1024]);
    });
}

#[test]
fn a_part_cut_off_under_the_disk_is_an_error_of_the_read() {
    on_every_engine(|engine| {
        let (mut machine, images) = machine(engine, &[4096, 4096]);
        File::options().write(true).open(&images[0].0).unwrap().set_len(1024).unwrap();
        assert_eq!(machine.read(MIB, 1024), (OK, vec![1; 1024]));
        assert_eq!(machine.read(MIB, 2048).0, IO_ERROR);
        assert_eq!(machine.read(2 * MIB, 4096), (OK, vec![2; 4096]));
    });
}

#[test]
fn many_disks_share_an_image_and_nobody_writes_to_it() {
    let image = filled(1, 4096);
    let parts = || DiskSource::Parts(vec![image.0.clone(), image.0.clone()]);
    let disk = || Disk { source: parts(), read_only: false, id: None, engine: IoEngine::Sync };
    let _readers = [Block::open(&disk()).unwrap(), Block::open(&disk()).unwrap()];
    let writer = Block::open(&disk_at(&image.0, IoEngine::Sync)).err().unwrap();
    assert!(matches!(writer, BlockError::Locked { .. }), "{writer}");
}

#[test]
fn an_empty_part_is_refused() {
    let image = Image::new(0);
    let disk = Disk { source: DiskSource::Parts(vec![image.0.clone()]), ..image.disk(IoEngine::Sync) };
    assert!(matches!(Block::open(&disk), Err(BlockError::Empty(_))));
}

#[test]
fn as_many_parts_as_there_may_be_are_served() {
    on_every_engine(|engine| {
        let (mut machine, _images) = machine(engine, &[512; 128]);
        for part in [1, 2, 127, 128] {
            let byte = u8::try_from(part).unwrap();
            assert_eq!(machine.read(part * MIB, 512), (OK, vec![byte; 512]));
        }
    });
}

#[test]
fn parts_need_no_call_that_the_filter_forbids() {
    on_every_engine(|engine| {
        let image = filled(1, 4096);
        let parts = DiskSource::Parts(vec![image.0.clone(), image.0.clone()]);
        let block = Block::open(&Disk { source: parts, ..image.disk(engine) }).unwrap();
        let stats = block.stats();
        let confine = Filters::new(true).unwrap().confine(ThreadKind::Block);
        let driver = Driver::confined(Box::new(block), &[(GuestAddress(0), MEMORY_SIZE)], confine);
        let mut machine = Machine { driver, stats, image: Image::new(512) };
        machine.driver.initialise(u64::MAX);
        assert_eq!(machine.read(MIB - 8, 2 << 20).0, OK);
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    });
}

/// A machine whose disk is a placeholder, and what gives it a medium.
pub fn placeholder(engine: IoEngine, read_only: bool) -> (Machine, Placeholder) {
    let disk = Disk { source: DiskSource::Placeholder, read_only, id: Some("later".into()), engine };
    let block = Block::open(&disk).unwrap();
    let (placeholder, stats) = (block.placeholder(&disk).unwrap(), block.stats());
    let driver = Driver::start(Box::new(block), u64::MAX);
    (Machine { driver, stats, image: Image::new(512) }, placeholder)
}

impl Machine {
    /// Attaches `files`, as the main thread does.
    pub fn attach(
        &self,
        placeholder: &Placeholder,
        layout: Layout,
        files: Vec<OwnedFd>,
    ) -> Result<(), AttachError> {
        placeholder.attach(layout, files, self.driver.transport.interrupt())
    }
}

pub fn open(image: &Image, write: bool) -> OwnedFd {
    File::options().read(true).write(write).append(write).open(&image.0).unwrap().into()
}

#[test]
fn a_placeholder_has_no_bytes() {
    on_every_engine(|engine| {
        let (mut machine, _placeholder) = placeholder(engine, false);
        assert_eq!(capacity(&mut machine), 0);
        assert_eq!(machine.read(0, 512).0, IO_ERROR);
        assert_eq!(machine.write(0, &[1; 512]), IO_ERROR);
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 0, 1, 0), IO_ERROR);
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 0, 0, 0), OK);
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        assert_eq!(machine.read(0, 0), (OK, Vec::new()));
    });
}

#[test]
fn what_is_attached_appears_and_stays() {
    on_every_engine(|engine| {
        let (mut machine, placeholder) = placeholder(engine, false);
        let generation = machine.driver.register(VIRTIO_MMIO_CONFIG_GENERATION);
        let image = Image::new(SIZE);
        machine.attach(&placeholder, Layout::Whole, vec![open(&image, true)]).unwrap();
        assert_ne!(machine.driver.transport.interrupt().status() & CONFIG_CHANGE, 0);
        assert_ne!(machine.driver.register(VIRTIO_MMIO_CONFIG_GENERATION), generation);
        assert_eq!(capacity(&mut machine), SIZE / 512);
        assert_eq!(machine.read(5, 512), (OK, vec![5; 512]));
        assert_eq!(machine.write(6, &[0xaa; 512]), OK);
        assert_eq!(image.read(6 * 512, 512), [0xaa; 512], "not appended, although its descriptor would");
        assert_eq!(machine.read(SIZE / 512, 512).0, IO_ERROR);

        machine.driver.initialise(u64::MAX);
        assert_eq!((capacity(&mut machine), machine.read(5, 512).0), (SIZE / 512, OK), "after a reset");
        let again = machine.attach(&placeholder, Layout::Whole, vec![open(&Image::new(512), true)]);
        assert!(matches!(again, Err(AttachError::Occupied(_))));
    });
}

#[test]
fn what_is_detached_is_gone_and_makes_room() {
    on_every_engine(|engine| {
        let (mut machine, mut placeholder) = placeholder(engine, false);
        let interrupt = machine.driver.transport.interrupt().clone();
        assert!(matches!(placeholder.detach(&interrupt), Err(AttachError::Vacant(_))));
        for byte in [1, 2] {
            let image = filled(byte, usize::from(byte) * 4096);
            machine.attach(&placeholder, Layout::Whole, vec![open(&image, true)]).unwrap();
            assert_eq!(capacity(&mut machine), u64::from(byte) * 8);
            assert_eq!(machine.read(0, 4096), (OK, vec![byte; 4096]));
            assert_eq!(machine.write(0, &[0xaa; 512]), OK);

            placeholder.detach(&interrupt).unwrap();
            assert_eq!(capacity(&mut machine), 0);
            assert_eq!((machine.read(0, 512).0, machine.write(1, &[1; 512])), (IO_ERROR, IO_ERROR));
            assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
            assert_eq!(image.read(0, 513), [&[0xaa; 512][..], &[byte]].concat());
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let mut open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
            assert!(open.all(|path| path != image.0), "its file is still open");
        }
    });
}

#[test]
fn requests_under_way_end_before_their_disk_is_detached() {
    on_every_engine(|engine| {
        let (mut machine, mut placeholder) = placeholder(engine, false);
        let interrupt = machine.driver.transport.interrupt().clone();
        let image = filled(7, 1 << 20);
        machine.attach(&placeholder, Layout::Whole, vec![open(&image, true)]).unwrap();
        assert_eq!(machine.read(0, 512).0, OK);
        let detaching = std::thread::spawn(move || placeholder.detach(&interrupt).unwrap());
        // A read has all of its bytes, or is refused.
        loop {
            let (status, bytes) = machine.read(0, 1 << 20);
            if status != OK {
                break;
            }
            assert_eq!(bytes, vec![7; 1 << 20]);
        }
        detaching.join().unwrap();
    });
}

#[test]
fn parts_are_attached_to_a_read_only_placeholder() {
    on_every_engine(|engine| {
        let images = [filled(1, 512), filled(2, 512)];
        let files = || images.iter().map(|image| open(image, false)).collect::<Vec<_>>();
        let (machine, writable) = placeholder(engine, false);
        let refused = machine.attach(&writable, Layout::Parts, files());
        assert!(matches!(refused, Err(AttachError::Writable(_))));

        let (mut machine, placeholder) = placeholder(engine, true);
        machine.attach(&placeholder, Layout::Parts, files()).unwrap();
        assert_eq!(capacity(&mut machine), 3 * MIB + 33);
        assert_eq!(machine.read(2 * MIB, 512), (OK, vec![2; 512]));
        assert_eq!(machine.write(2 * MIB, &[1; 512]), IO_ERROR);
    });
}

#[test]
fn what_cannot_be_attached_leaves_the_placeholder_as_it_was() {
    let (mut machine, placeholder) = placeholder(IoEngine::Sync, false);
    let (image, odd) = (Image::new(SIZE), Image::new(513));
    let write_only = File::options().write(true).open(&image.0).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let memory = memfd_create("empty", MFdFlags::empty()).unwrap();
    for (files, why) in [
        (vec![], "cannot attach 0 descriptors to disk 'later'"),
        (vec![open(&image, true), open(&image, true)], "cannot attach 2 descriptors to disk 'later'"),
        (
            vec![open(&image, false)],
            "cannot open disk 'later' for writing: its descriptor is open for reading only",
        ),
        (vec![write_only.into()], "cannot read disk 'later'"),
        (vec![socket.into()], "cannot open disk 'later': it is a character device, a pipe or a socket"),
        (vec![File::open("/").unwrap().into()], "its descriptor is open for reading only"),
        (vec![open(&odd, true)], "cannot use 'later' as a disk: its length of 513 bytes"),
        (vec![memory], "cannot use 'later' as a disk: its length of 0 bytes"),
    ] {
        let error = machine.attach(&placeholder, Layout::Whole, files).unwrap_err().to_string();
        assert!(error.contains(why), "{error}, not {why}");
        assert_eq!(capacity(&mut machine), 0);
    }
    let locked = Block::open(&image.disk(IoEngine::Sync)).unwrap();
    let error = machine.attach(&placeholder, Layout::Whole, vec![open(&image, true)]).unwrap_err();
    assert!(matches!(error, AttachError::Block(BlockError::Locked { .. })), "{error}");
    drop(locked);
    machine.attach(&placeholder, Layout::Whole, vec![open(&image, true)]).unwrap();
    assert_eq!(machine.read(1, 512), (OK, vec![1; 512]));
}

#[test]
fn a_disk_that_appears_under_load_is_whole_at_once() {
    on_every_engine(|engine| {
        let (mut machine, placeholder) = placeholder(engine, false);
        let image = filled(7, 1 << 20);
        let interrupt = machine.driver.transport.interrupt().clone();
        let attaching = std::thread::spawn({
            let file = open(&image, true);
            move || placeholder.attach(Layout::Whole, vec![file], &interrupt).unwrap()
        });
        // Until it has appeared every read is refused, and from then on none.
        while machine.read(1, 512).0 != OK {}
        assert_eq!(machine.read(0, 1 << 20), (OK, vec![7; 1 << 20]));
        attaching.join().unwrap();
        assert_eq!(capacity(&mut machine), 2048);
    });
}
