//! A shared directory, or a file that is shared alone, under a hostile driver.

#![no_main]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use nix::sys::resource::{Resource, setrlimit};
use rvm::devices::virtio::fs::Fs;
use rvm::devices::virtio::testing::{Driver, Part};
use rvm_config::{CachePolicy, Share};
use rvm_fuzz::{Input, attack, slot};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const INIT: u32 = 26;
const GETATTR: u32 = 3;
const WRITE: u32 = 16;
/// Operations that Linux has, and some that it has not.
const OPCODES: u8 = 56;
const HEADER: u32 = 40;
const REQUESTS: usize = 1;
/// Longest file: what the fuzzer asks to be allocated would fill the disk.
const LONGEST_FILE: u64 = 16 << 20;
/// What INIT offers: everything.
const OFFERED: [u8; 8] = [0xff; 8];
const NAMES: [&[u8]; 13] = [
    b"a\0",
    b"b\0",
    b"d\0",
    b"out\0",
    b"file\0",
    b"pipe\0",
    b"..\0",
    b".\0",
    b"\0",
    b"/etc/passwd\0",
    b"a/b\0",
    b"a",
    b"user.x\0",
];

/// The shared directory, and beside it what must stay as it is.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        rvm::file_limit::is_an_error();
        setrlimit(Resource::RLIMIT_FSIZE, LONGEST_FILE, LONGEST_FILE).expect("a limit");
        let place = std::env::temp_dir().join(format!("rvm-fuzz-fs-{}", std::process::id()));
        fs::create_dir_all(place.join("shared")).expect("a place for files");
        fs::write(place.join("secret"), "secret").expect("a file");
        place
    })
}

/// The directory as the fuzzer finds it each time.
fn fill(shared: &Path) {
    // Nothing that was made there is in the way of its removal: everything belongs to this process.
    fs::remove_dir_all(shared).expect("the old directory is removed");
    fs::create_dir(shared).expect("a directory");
    fs::create_dir(shared.join("d")).expect("a directory");
    fs::write(shared.join("a"), "contents").expect("a file");
    symlink("../secret", shared.join("out")).expect("a link");
    nix::unistd::mkfifo(&shared.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
}

/// A request of any kind with numbers that may well mean something, names, and room for an answer.
fn request(memory: &GuestMemoryMmap, input: &mut Input) -> Vec<Part> {
    let (header, arguments) = (slot(input.u8()), slot(input.u8()));
    let opcode = u32::from(input.u8() % OPCODES);
    let mut bytes = Vec::new();
    if opcode == INIT {
        bytes.extend([7_u32, 41, 1 << 17].map(u32::to_le_bytes).as_flattened());
        bytes.extend(OFFERED);
        bytes.extend([0; 44]);
    } else {
        for _ in 0..input.u8() % 8 {
            bytes.extend(number(input).to_le_bytes());
        }
        for _ in 0..input.u8() % 3 {
            bytes.extend(NAMES[usize::from(input.u8()) % NAMES.len()]);
        }
    }
    let length = HEADER + bytes.len() as u32;
    let mut start = Vec::new();
    start.extend(if input.u8() == 0 { input.length() } else { length }.to_le_bytes());
    start.extend(opcode.to_le_bytes());
    start.extend(1_u64.to_le_bytes());
    start.extend(u64::from(1 + input.u8() % 8).to_le_bytes());
    start.extend([0; 16]);
    memory.write_slice(&start, GuestAddress(header)).expect("slots are in memory");
    memory.write_slice(&bytes, GuestAddress(arguments)).expect("slots are in memory");
    let mut parts = vec![Part::Readable(header, HEADER), Part::Readable(arguments, bytes.len() as u32)];
    if opcode == WRITE {
        parts.push(Part::Readable(input.address(), input.length()));
    }
    parts.retain(|part| !matches!(part, Part::Readable(_, 0)));
    parts.push(Part::Writable(slot(input.u8()), 16));
    parts.push(Part::Writable(input.address(), input.length()));
    parts
}

/// Two fields or one: small numbers, flags, and those that sums and comparisons go wrong at.
fn number(input: &mut Input) -> u64 {
    match input.u8() {
        0 => u64::MAX,
        1 => 1 << 63,
        2 => u64::from(input.u32()),
        3 => u64::from(input.u32()) << 32,
        small => u64::from(small % 16),
    }
}

/// Asks for something without arguments of meaning; gives the error in the reply.
fn ask(driver: &mut Driver, opcode: u32, arguments: &[u8]) -> i32 {
    let mut request = (HEADER + arguments.len() as u32).to_le_bytes().to_vec();
    request.extend(opcode.to_le_bytes());
    request.extend([1_u64, 1, 0, 0].map(u64::to_le_bytes).as_flattened());
    request.extend(arguments);
    let request = (driver.place(&request), request.len() as u32);
    let answer = driver.allocate(256);
    driver.request(REQUESTS, &[Part::Readable(request.0, request.1), Part::Writable(answer, 256)]);
    let error = driver.bytes(answer + 4, 4);
    i32::from_le_bytes([error[0], error[1], error[2], error[3]])
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let (place, shared) = (place(), place().join("shared"));
    fill(&shared);
    let cache = if choice & 1 == 0 { CachePolicy::Auto } else { CachePolicy::Never };
    let (read_only, file) = (choice & 2 != 0, choice & 4 != 0);
    let path = if file { shared.join("a") } else { shared.clone() };
    let share = Share { path, file, tag: "fuzz".into(), read_only, cache };
    let device = Fs::open(&share, 128).expect("it can be shared");
    let mut driver = attack(Box::new(device), input, request);

    assert_eq!(fs::read(place.join("secret")).expect("the file outside"), b"secret");
    assert_eq!(fs::read_dir(place).expect("the directory outside").count(), 2);
    if read_only || file {
        assert_eq!(fs::read_dir(&shared).expect("the directory").count(), 4);
    }
    if read_only {
        assert_eq!(fs::read(shared.join("a")).expect("the file"), b"contents");
    }
    driver.initialise(u64::MAX);
    let offer = [[7_u32, 41, 1 << 17].map(u32::to_le_bytes).as_flattened(), &OFFERED, &[0; 44]].concat();
    assert_eq!(ask(&mut driver, INIT, &offer), 0);
    assert_eq!(ask(&mut driver, GETATTR, &[0; 16]), 0);
});
