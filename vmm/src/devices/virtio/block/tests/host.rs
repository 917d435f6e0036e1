//! The host's side: files that end, fill up or are protected, block devices, and the thread's confinement.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rvm_config::control::Layout;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use super::parts::{open, placeholder};
use super::*;

#[test]
fn a_read_only_disk_is_never_written_to() {
    on_every_engine(|engine| {
        let mut machine = Machine::read_only(engine);
        assert!(machine.offers(VIRTIO_BLK_F_RO));
        assert!(!machine.offers(VIRTIO_BLK_F_DISCARD));
        assert_eq!(machine.write(0, &[1; 512]), IO_ERROR);
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 1, 8, 0), IO_ERROR);
        assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, 1, 8, 0), IO_ERROR);
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        assert_eq!(machine.read(1, 512), (OK, vec![1; 512]));
        assert_eq!(machine.image.read(512, 8 * 512), Image::new(SIZE).read(512, 8 * 512));
    });
}

#[test]
fn a_file_cut_off_under_the_disk_is_an_error_of_the_read() {
    on_every_engine(|engine| {
        let mut machine = Machine::new(engine);
        File::options().write(true).open(&machine.image.0).unwrap().set_len(1024 + 100).unwrap();
        assert_eq!(machine.read(0, 1024).0, OK);
        assert_eq!(machine.read(1, 1024).0, IO_ERROR);
        assert_eq!(machine.read(100, 512).0, IO_ERROR);
    });
}

#[test]
fn a_full_host_is_an_error_of_the_write() {
    for with_ring in [false, true] {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let ring = match with_ring.then(ring).transpose() {
            Ok(ring) => ring,
            Err(error) => return println!("\nrvm-tests: cannot run: this host has no io_uring: {error}"),
        };
        let mut machine = machine_on(full, ring);
        assert_eq!(machine.write(1, &[1; 512]), IO_ERROR);
        assert_eq!(machine.read(1, 512), (OK, vec![0; 512]));
        // Several at once.
        let header = machine.header(VIRTIO_BLK_T_OUT, 1);
        let (data, status) = (machine.driver.allocate(512), machine.driver.allocate(16));
        for index in 0..16 {
            let parts = [header, Part::Readable(data, 512), Part::Writable(status + index, 1)];
            machine.driver.submit(0, &parts);
        }
        machine.driver.kick(0);
        for _ in 0..16 {
            assert_eq!(machine.driver.wait_used(0).1, 1);
        }
        assert_eq!(machine.driver.bytes(status, 16), [IO_ERROR; 16]);
        assert_eq!((machine.stats.operations.get(), machine.stats.errors.get()), (18, 17));
    }
}

#[test]
fn a_file_longer_than_the_hosts_limit_is_an_error_of_the_write() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Of this process: no other test's files are as long.
    const LIMIT: u64 = 1 << 40;
    crate::file_limit::is_an_error();
    setrlimit(Resource::RLIMIT_FSIZE, LIMIT, getrlimit(Resource::RLIMIT_FSIZE).unwrap().1).unwrap();
    on_every_engine(|engine| {
        let ring = (engine == IoEngine::IoUring).then(|| ring().unwrap());
        let file = DiskFile { file: Arc::new(tempfile::tempfile().unwrap()), block_device: false };
        let block = Block::new(Tray::with(Medium::whole(file, 2 * LIMIT)), ring, engine, false);
        let stats = block.stats();
        let driver = Driver::start(Box::new(block), u64::MAX);
        let mut machine = Machine { driver, stats, image: Image::new(512) };
        assert_eq!(machine.write(LIMIT / 512, &[1; 512]), IO_ERROR);
        assert_eq!(machine.write(0, &[1; 512]), OK);
        assert_eq!(machine.read(0, 512), (OK, vec![1; 512]));
    });
}

/// A block device of the host on an image.
struct Loop {
    device: PathBuf,
    _image: Image,
}

impl Loop {
    /// `None`, told to the runner, where the host lets nobody have one.
    fn new(arguments: &[&str]) -> Option<Self> {
        let image = Image::new(SIZE);
        let output =
            Command::new("losetup").args(arguments).args(["--find", "--show"]).arg(&image.0).output();
        match output {
            Ok(output) if output.status.success() => {
                let device = String::from_utf8(output.stdout).unwrap().trim().into();
                Some(Self { device, _image: image })
            }
            failed => {
                println!("\nrvm-tests: cannot run: there is no loop device to be had: {failed:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").arg("--detach").arg(&self.device).status().unwrap();
    }
}

#[test]
fn a_block_device_is_a_disk() {
    on_every_engine(|engine| {
        let Some(device) = Loop::new(&[]) else { return };
        let disk = disk_at(&device.device, engine);
        let mut machine = Machine::with(&disk, Image::new(512));
        assert_eq!(machine.driver.register(VIRTIO_MMIO_CONFIG), u32::try_from(SIZE / 512).unwrap());
        assert_eq!(machine.write(8, &[0xaa; 8 * 512]), OK);
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
        assert_eq!(machine.read(15, 512), (OK, vec![0xaa; 512]));
        assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 1024, 128, 0), OK);
        for (sector, unmap) in [(8, 0), (12, 1)] {
            assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, sector, 4, unmap), OK);
            assert_eq!(machine.read(sector, 4 * 512), (OK, vec![0; 4 * 512]));
        }
    });
}

#[test]
fn a_write_protected_block_device_is_not_opened_for_writing() {
    let Some(device) = Loop::new(&["--read-only"]) else { return };
    let disk = disk_at(&device.device, IoEngine::Sync);
    let error = Block::open(&disk).err().unwrap();
    assert!(matches!(error, BlockError::ReadOnly { .. } | BlockError::Permission { .. }), "{error}");
    Block::open(&Disk { read_only: true, ..disk }).unwrap();
}

#[test]
fn a_disk_is_free_again_as_soon_as_its_process_was_killed() {
    const NAME: &str =
        "devices::virtio::block::tests::host::a_disk_is_free_again_as_soon_as_its_process_was_killed";
    const DISK: &str = "RVM_TEST_DISK";
    if let Some(path) = std::env::var_os(DISK) {
        let disk = disk_at(Path::new(&path), IoEngine::Auto);
        read_without_end(&disk);
    }
    for _ in 0..10 {
        let image = Image::new(SIZE);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(DISK, &image.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "reading"));
        assert!(Block::open(&image.disk(IoEngine::Auto)).is_err(), "it is locked");
        child.kill().unwrap();
        child.wait().unwrap();
        // Fails where the kernel still holds the file, as for a ring that it takes apart later.
        Block::open(&image.disk(IoEngine::Auto)).unwrap();
    }
}

/// Keeps requests in flight, until the process is killed.
fn read_without_end(disk: &Disk) -> ! {
    let mut driver = Driver::start(Box::new(Block::open(disk).unwrap()), u64::MAX);
    let header = driver.place(&[0; 16]);
    let data = driver.allocate(0x1_0001);
    println!("\nreading");
    loop {
        for _ in 0..16 {
            driver.submit(0, &[Part::Readable(header, 16), Part::Writable(data, 0x1_0001)]);
        }
        driver.kick(0);
        for _ in 0..16 {
            driver.wait_used(0);
        }
    }
}

/// Everything that a disk does, by a thread under its seccomp filter: one that asks for more ends the tests.
fn do_everything_confined(disk: &Disk) {
    let block = Block::open(disk).unwrap();
    let stats = block.stats();
    let confine = Filters::new(true).unwrap().confine(ThreadKind::Block);
    let memory = [(GuestAddress(0), MEMORY_SIZE)];
    let mut driver = Driver::confined(Box::new(block), &memory, confine);
    // Without FLUSH first: durable writes.
    driver.initialise(!(1 << VIRTIO_BLK_F_FLUSH));
    let mut machine = Machine { driver, stats, image: Image::new(512) };
    assert_eq!(machine.write(0, &[1; 512]), OK);
    machine.driver.initialise(u64::MAX);
    assert_eq!(machine.write(0, &[1; 512]), OK);
    assert_eq!(machine.read(0, 512), (OK, vec![1; 512]));
    assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    assert_eq!(machine.range(VIRTIO_BLK_T_DISCARD, 8, 8, 0), OK);
    assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0), OK);
    assert_eq!(machine.range(VIRTIO_BLK_T_WRITE_ZEROES, 16, 8, 1), OK);
    // A batch, with the most segments there are.
    let header = machine.header(VIRTIO_BLK_T_IN, 0);
    let (data, status) = (machine.driver.allocate(254 * 512), machine.driver.allocate(8));
    let segments = (0..254).map(|index| Part::Writable(data + 512 * index, 512));
    for index in 0..8 {
        let end = Part::Writable(status + index, 1);
        let parts: Vec<Part> = [header].into_iter().chain(segments.clone()).chain([end]).collect();
        let table = table(&mut machine.driver, &parts);
        machine.driver.submit(0, &[table]);
    }
    machine.driver.kick(0);
    for _ in 0..8 {
        machine.driver.wait_used(0);
    }
    assert_eq!(machine.driver.bytes(status, 8), [OK; 8]);
    assert_eq!(machine.read(SIZE, 512).0, IO_ERROR);
    machine.driver.transport.pause();
    machine.driver.transport.resume();
    assert_eq!(machine.read(0, 512), (OK, vec![1; 512]));
}

#[test]
fn a_disk_needs_no_call_that_its_filter_forbids() {
    on_every_engine(|engine| do_everything_confined(&Image::new(SIZE).disk(engine)));
}

#[test]
fn a_block_device_needs_no_call_that_its_filter_forbids() {
    on_every_engine(|engine| {
        let Some(device) = Loop::new(&[]) else { return };
        do_everything_confined(&disk_at(&device.device, engine));
    });
}

/// Runs `test` as on a host that answers `errno` to who wants an io_uring.
fn without_io_uring(errno: libc::c_int, test: impl FnOnce() + Send) {
    let calls = BTreeMap::from([(libc::SYS_io_uring_setup, vec![])]);
    let refuse = SeccompAction::Errno(errno.try_into().unwrap());
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, refuse, TargetArch::x86_64).unwrap();
    let filter = BpfProgram::try_from(filter).unwrap();
    // A filter holds for one thread and those that it starts.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            apply_filter(&filter).unwrap();
            test();
        });
    });
}

#[test]
fn a_host_without_io_uring_serves_disks_one_request_after_the_other() {
    // A kernel without it, and one that lets this process have none.
    for errno in [libc::ENOSYS, libc::EPERM] {
        without_io_uring(errno, || {
            let image = Image::new(SIZE);
            let refused = Block::open(&image.disk(IoEngine::IoUring)).err().unwrap();
            assert!(
                matches!(&refused, BlockError::Engine { source, .. } if source.raw_os_error() == Some(errno)),
                "{refused}"
            );

            let mut machine = Machine::with(&image.disk(IoEngine::Auto), image);
            assert_eq!(machine.read(5, 1024), (OK, [[5; 512], [6; 512]].concat()));
            assert_eq!(machine.write(7, &[0xaa; 512]), OK);
            assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
            assert_eq!(machine.image.read(7 * 512, 512), [0xaa; 512]);

            // The one above is never asked for a ring where it lies in memory.
            let (mut machine, placeholder) = placeholder(IoEngine::Auto, false);
            let image = Image::new(SIZE);
            machine.attach(&placeholder, Layout::Whole, vec![open(&image, true)]).unwrap();
            assert_eq!(machine.read(5, 512), (OK, vec![5; 512]));
        });
    }
}
