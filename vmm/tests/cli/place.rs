//! Where a test runs `rvm`: a directory of its own, whose files the messages name by relative paths.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::image;

/// A directory to run `rvm` in; in its `guest` are a kernel and an image that rvm takes for its own.
pub struct Place(TempDir);

/// A file's permissions and content; for what is no file, its kind.
type Seen = BTreeMap<PathBuf, (u32, Vec<u8>)>;

impl Place {
    pub fn new() -> Self {
        let place = Self(TempDir::with_prefix("rvm-cli-").unwrap());
        // For users that have to look into it.
        fs::set_permissions(place.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(place.path("guest")).unwrap();
        place.file("guest/vmlinux", image::elf(&image::Elf::default()));
        place.file("guest/initramfs.cpio", b"070701");
        place
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// A file of zeroes that takes no room.
    pub fn sparse(&self, name: &str, length: u64) {
        fs::File::create(self.path(name)).unwrap().set_len(length).unwrap();
    }

    /// `program`, which is to run here, with no input and nothing of the caller's environment that rvm looks at.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.0.path())
            .env("RVM_GUEST_DIR", "guest")
            // A backtrace would show in the message.
            .env("RUST_BACKTRACE", "1")
            .env_remove("RVM_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    /// `rvm boot` with these arguments.
    pub fn boot<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_rvm"));
        command.arg("boot").args(arguments);
        command
    }

    /// `rvm boot ARGUMENTS` ends with `status`, says `message` in one line, and leaves everything as it was.
    #[track_caller]
    pub fn refuses<S: AsRef<OsStr>>(&self, arguments: &[S], status: i32, message: &str) {
        self.command_refuses(self.boot(arguments), status, message);
    }

    /// The same for a command made by the caller.
    #[track_caller]
    pub fn command_refuses(&self, mut command: Command, status: i32, message: &str) {
        let before = self.look();
        let child = command.spawn().unwrap();
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let output = child.wait_with_output().unwrap();
        check(&output, status, message);
        assert_eq!(self.look(), before, "the files after it");
        assert_eq!(killpg(group, None), Err(Errno::ESRCH), "a process is left");
    }

    /// A copy of the program that every user can reach.
    pub fn copy_of_rvm(&self) -> PathBuf {
        let copy = self.path("rvm");
        fs::copy(env!("CARGO_BIN_EXE_rvm"), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    }

    fn look(&self) -> Seen {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let seen = |path: &Path| {
            let metadata = path.symlink_metadata().unwrap();
            let small = metadata.is_file() && metadata.len() < 1 << 20;
            (metadata.permissions().mode(), if small { fs::read(path).unwrap() } else { Vec::new() })
        };
        entries.map(|path| (path.clone(), seen(&path))).collect()
    }
}

#[track_caller]
fn check(output: &Output, status: i32, message: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, format!("rvm: {message}\n"));
    assert_eq!(output.status.code(), Some(status), "{}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

/// Says to the runner of `make test` that this test cannot run on this machine, and why.
pub fn cannot_run(reason: &str) {
    println!("\nrvm-tests: cannot run: {}", reason.replace('\n', " "));
}

/// `rvm boot` with these arguments, run by nobody if this is the superuser, who may do everything.
pub fn as_ordinary_user(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(place.copy_of_rvm());
    command.arg("boot").args(arguments);
    if nix::unistd::geteuid().is_root() {
        const NOBODY: u32 = 65534;
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}
