//! Disks made of several images, and disks that appear while the VM runs, seen from inside.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use rvm_config::control::{Command, Layout, Outcome, Reason};
use tempfile::TempDir;

use super::control::Supervisor;
use super::run::{boot, run, said_by};

/// An erofs image with one file, named `word`, whose line is `word`.
fn image(directory: &Path, word: &str) -> PathBuf {
    let tree = directory.join(word);
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join(word), format!("{word}\n")).unwrap();
    let image = directory.join(format!("{word}.erofs"));
    let made = Process::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&tree).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    image
}

/// Mounts what is on the partitions of `/dev/vda`, and shows it.
const SHOW_PARTITIONS: &str = "for part in 1 2 3; do mkdir /mnt/$part; mount -t erofs /dev/vda$part /mnt/$part; done; \
                               echo $(cat /mnt/*/*) $(cat /sys/block/vda/ro)";

#[test]
fn images_are_partitions_of_one_disk() {
    let directory = TempDir::new().unwrap();
    let images = ["one", "two", "three"].map(|word| image(directory.path(), word).display().to_string());
    for engine in ["io-uring", "sync"] {
        let disk = format!("parts={},engine={engine}", images.join(":"));
        let names = "cd /sys/block/vda; grep -h PARTNAME vda*/uevent";
        let said = said_by(&["--disk", &disk], &format!("mkdir -p /mnt; {SHOW_PARTITIONS}; {names}"));
        assert_eq!(said, "one two three 1\nPARTNAME=part1\nPARTNAME=part2\nPARTNAME=part3\n");
    }
}

#[test]
fn what_a_limit_of_the_host_keeps_from_a_file_is_an_error_and_not_the_end() {
    const LIMIT: usize = 8 << 10;
    let directory = TempDir::new().unwrap();
    let [disk, console, socket] = ["disk", "console", "socket"].map(|name| directory.path().join(name));
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let write =
        |block| format!("yes | dd of=/dev/vda bs=4096 count=1 seek={block} iflag=fullblock conv=fsync");
    let script = format!("{} || exit 1; {} && exit 2; seq 1 2500; exit 7", write(0), write(2));
    let path = |path: &Path| path.display().to_string();
    let options = ["--console", &format!("file={}", path(&console)), "--vsock", &path(&socket)];
    let rvm = boot(&[&options[..], &["--disk", &path(&disk), "--", "sh", "-c", &script]].concat());
    let mut shell = Process::new("sh");
    shell.args(["-c", &format!("ulimit -f {}; exec \"$@\"", LIMIT / 512), "sh"]);
    shell.arg(rvm.get_program()).args(rvm.get_args());
    let ran = run(shell);
    assert_eq!(ran.status, Some(7), "{ran:?}");
    let message = "rvm: warn: block device: the host failed a request: File too large (os error 27)";
    assert!(ran.error.starts_with(message), "{ran:?}");
    assert_eq!(fs::read(&console).unwrap().len(), LIMIT);
    assert!(fs::read(&disk).unwrap().starts_with(b"y\ny\n"));
    assert!(!socket.exists());
}

/// Waits until `/dev/vda` has a size.
const WAIT_FOR_DISK: &str = "echo waiting; while [ $(cat /sys/block/vda/size) = 0 ]; do :; done";

/// Boots `script` with a placeholder, a disk with these further `options`.
fn boot_with_placeholder(options: &str, script: &str) -> (Supervisor, super::run::Running) {
    let disk = format!("placeholder=on,id=later{options}");
    let (mut supervisor, running) =
        Supervisor::boot(&["--console", "captured", "--disk", &disk, "--", "sh", "-c", script]);
    supervisor.wait_ready();
    wait_for(&mut supervisor, "waiting");
    (supervisor, running)
}

/// Waits until the console has this word.
fn wait_for(supervisor: &mut Supervisor, word: &str) {
    loop {
        let Outcome::Console(words) = supervisor.ask(Command::ConsoleTail) else { panic!("the console") };
        if words.contains(word) {
            return;
        }
    }
}

fn attach(layout: Layout) -> Command {
    Command::AttachDisk { id: "later".into(), layout }
}

#[test]
fn images_appear_on_a_placeholder_while_the_guest_runs() {
    let directory = TempDir::new().unwrap();
    let images = ["one", "two", "three"].map(|word| image(directory.path(), word));
    let files = || images.iter().map(|image| File::open(image).unwrap().into()).collect::<Vec<OwnedFd>>();
    let script = format!(
        "mkdir -p /mnt; cat /sys/block/vda/serial; {WAIT_FOR_DISK}; \
         busybox blockdev --rereadpt /dev/vda; {SHOW_PARTITIONS}"
    );
    let (mut supervisor, running) = boot_with_placeholder(",ro", &script);
    let refused = supervisor.ask_with(Command::AttachDisk { id: "x".into(), layout: Layout::Parts }, files());
    let why = "cannot find disk 'x': the VM has no placeholder of this id";
    assert_eq!(refused, Outcome::Refused(why.into()));
    assert_eq!(supervisor.ask_with(attach(Layout::Parts), files()), Outcome::Done);
    let ended = supervisor.ended();
    let console = ended.console.unwrap();
    assert_eq!((ended.reason, ended.status), (Reason::Exited, 0), "{console}");
    assert!(console.contains("later") && console.contains("one two three 1"), "{console}");
    assert_eq!(running.end().error, "");
}

#[test]
fn a_disk_goes_and_another_comes_in_its_place() {
    let directory = TempDir::new().unwrap();
    let image = |word: &str, sectors: u64| -> OwnedFd {
        let path = directory.path().join(word);
        fs::write(&path, format!("{word}\n")).unwrap();
        let disk = File::options().read(true).write(true).open(path).unwrap();
        disk.set_len(sectors * 512).unwrap();
        disk.into()
    };
    let script = format!(
        "{WAIT_FOR_DISK}; head -n 1 /dev/vda; echo seen; until [ $(cat /sys/block/vda/size) = 0 ]; do :; done; \
         echo gone; {WAIT_FOR_DISK}; head -n 1 /dev/vda"
    );
    let (mut supervisor, _running) = boot_with_placeholder("", &script);
    let detach = || Command::DetachDisk { id: "later".into() };
    let vacant = "cannot detach from disk 'later': nothing is attached";
    assert_eq!(supervisor.ask(detach()), Outcome::Refused(vacant.into()));
    assert_eq!(supervisor.ask_with(attach(Layout::Whole), vec![image("first", 16)]), Outcome::Done);
    wait_for(&mut supervisor, "seen");
    assert_eq!(supervisor.ask(detach()), Outcome::Done);
    // Nobody has it any more: others may write to it.
    let first = File::options().write(true).open(directory.path().join("first")).unwrap();
    let lock = nix::libc::flock { l_type: 1, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    nix::fcntl::fcntl(&first, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    wait_for(&mut supervisor, "gone");
    assert_eq!(supervisor.ask_with(attach(Layout::Whole), vec![image("second", 8)]), Outcome::Done);
    let console = supervisor.ended().console.unwrap();
    assert!(console.contains("first") && console.contains("second"), "{console}");
}

#[test]
fn a_whole_disk_appears_and_is_written_to() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, "from the host\n").unwrap();
    let disk = File::options().read(true).write(true).open(&path).unwrap();
    disk.set_len(1 << 20).unwrap();
    let script = format!(
        "{WAIT_FOR_DISK}; head -n 1 /dev/vda; \
         echo from the guest | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null"
    );
    let (mut supervisor, _running) = boot_with_placeholder("", &script);
    assert_eq!(supervisor.ask_with(attach(Layout::Whole), vec![disk.into()]), Outcome::Done);
    let console = supervisor.ended().console.unwrap();
    assert!(console.contains("from the host"), "{console}");
    assert!(fs::read(&path).unwrap().starts_with(b"from the guest\n"));
}
