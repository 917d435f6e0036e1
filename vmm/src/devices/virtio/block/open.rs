//! Opening a disk on the host: what may be one, and that nobody else writes to it meanwhile.
//!
//! A disk is locked as a whole by an open file description lock (fcntl(2), F_OFD_SETLK): for writing by one VM
//! alone, or for reading by many. Such a lock belongs to the open file, so it goes with the descriptor through
//! fork and jail, and the kernel drops it with the last of them. It meets the locks that other monitors put on
//! images, and works on NFS. flock(2) does not meet those, and on block devices udev takes it for a moment now
//! and then, which would let a start fail by chance.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rvm_config::control::Layout;
use rvm_config::{Disk, DiskSource};

use super::file::DiskFile;
use super::medium::Medium;
use super::request::SECTOR;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Nothing is there.
    #[error("cannot open disk '{0}': there is no such file; give the path of a raw image or a block device")]
    Missing(PathBuf),
    /// Something is there that is no disk.
    #[error("cannot open disk '{path}': it is {what}; give the path of a raw image or a block device")]
    NotADisk {
        /// The disk.
        path: PathBuf,
        /// What it is, as "a directory".
        what: &'static str,
    },
    /// This user may not open it.
    #[error("cannot open disk '{path}' for {access}: permission denied; {advice}")]
    Permission {
        /// The disk.
        path: PathBuf,
        /// "reading" or "reading and writing".
        access: &'static str,
        /// What the user can do.
        advice: &'static str,
    },
    /// Nobody may write to it, and the disk is to be written to.
    #[error(
        "cannot open disk '{path}' for writing: {why}; make it writable, or attach the disk read-only (ro)"
    )]
    ReadOnly {
        /// The disk.
        path: PathBuf,
        /// What says so.
        why: &'static str,
    },
    /// Somebody else uses it.
    #[error("cannot open disk '{path}' for {access}: it is {already}; {advice}")]
    Locked {
        /// The disk.
        path: PathBuf,
        /// "reading" or "reading and writing".
        access: &'static str,
        /// What somebody does with it.
        already: &'static str,
        /// What the user can do.
        advice: &'static str,
    },
    /// Its length is not that of a disk.
    #[error(
        "cannot use '{path}' as a disk: its length of {length} bytes is not a positive multiple of {SECTOR}; \
         extend it, as with truncate --size=%{SECTOR}, or check that it is a raw image"
    )]
    Size {
        /// The disk.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// A part without a byte.
    #[error("cannot use '{0}' as a part of a disk: it is empty; check that it is an image")]
    Empty(PathBuf),
    /// io_uring was asked for, and this host does not have it.
    #[error(
        "cannot use io_uring for disk '{disk}'; allow it on this host, or give engine=auto or engine=sync"
    )]
    Engine {
        /// The disk.
        disk: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The host failed.
    #[error("cannot {attempt} disk '{path}'")]
    Io {
        /// What was attempted, as "lock".
        attempt: &'static str,
        /// The disk.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Opens and locks what is on `disk`: nothing yet, if that is a placeholder.
pub fn open(disk: &Disk) -> Result<Option<Medium>, BlockError> {
    let read_only = disk.is_read_only();
    let (layout, paths) = match &disk.source {
        DiskSource::Placeholder => return Ok(None),
        DiskSource::Path(path) => (Layout::Whole, std::slice::from_ref(path)),
        DiskSource::Parts(paths) => (Layout::Parts, paths.as_slice()),
    };
    let open = |path: &PathBuf| check(open_file(path, read_only)?, path, layout, read_only);
    let files = paths.iter().map(open).collect::<Result<_, _>>()?;
    arrange(&disk.to_string(), layout, files).map(Some)
}

/// Locks what `files` are, which come from outside, to be on the disk `id`.
pub fn take(id: &str, layout: Layout, files: Vec<OwnedFd>, read_only: bool) -> Result<Medium, BlockError> {
    let taken = (1..).zip(files).map(|(number, file)| {
        let name = match layout {
            Layout::Whole => PathBuf::from(id),
            Layout::Parts => PathBuf::from(format!("{id}, part {number}")),
        };
        check_access(&file, &name, read_only)?;
        check(File::from(file), &name, layout, read_only)
    });
    arrange(id, layout, taken.collect::<Result<_, _>>()?)
}

/// Puts checked files, with their lengths in bytes, onto the disk `name`.
fn arrange(name: &str, layout: Layout, files: Vec<(DiskFile, u64)>) -> Result<Medium, BlockError> {
    let io_error = |source| BlockError::Io { attempt: "partition", path: name.into(), source };
    match layout {
        Layout::Parts => Medium::partitioned(name.as_bytes(), &files).map_err(io_error),
        Layout::Whole => {
            let whole = files.into_iter().next().map(|(file, length)| Medium::whole(file, length));
            whole.ok_or(io::ErrorKind::NotFound.into()).map_err(io_error)
        }
    }
}

/// Checks that what is read from, and written to, can be.
fn check_access(file: &OwnedFd, name: &Path, read_only: bool) -> Result<(), BlockError> {
    let io_error =
        |errno: Errno| BlockError::Io { attempt: "read", path: name.to_owned(), source: errno.into() };
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).map_err(io_error)?);
    match flags & OFlag::O_ACCMODE {
        OFlag::O_RDWR => Ok(()),
        OFlag::O_RDONLY if read_only => Ok(()),
        OFlag::O_RDONLY => Err(BlockError::ReadOnly {
            path: name.to_owned(),
            why: "its descriptor is open for reading only",
        }),
        _ => Err(io_error(Errno::EBADF)),
    }
}

/// Checks and locks the open `file`, which messages call `path`; gives its length in bytes.
fn check(file: File, path: &Path, layout: Layout, read_only: bool) -> Result<(DiskFile, u64), BlockError> {
    let io_error = |attempt| move |source| BlockError::Io { attempt, path: path.to_owned(), source };
    let mut file = file;
    let metadata = file.metadata().map_err(io_error("inspect"))?;
    let kind = metadata.file_type();
    let what = if kind.is_dir() { "a directory" } else { "a character device, a pipe or a socket" };
    if !kind.is_file() && !kind.is_block_device() {
        return Err(BlockError::NotADisk { path: path.to_owned(), what });
    }
    // Only the opening was not to wait; io_uring would fail what it cannot do at once. Nor is anything appended.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|errno| io_error("set up")(errno.into()))?;

    let block_device = kind.is_block_device();
    // The length of a block device is where it ends; its metadata does not tell.
    let length = file.seek(SeekFrom::End(0)).map_err(io_error("measure"))?;
    let disk = DiskFile { file: Arc::new(file), block_device };
    let read_only_because = |why| BlockError::ReadOnly { path: path.to_owned(), why };
    if !read_only && !block_device && metadata.mode() & 0o222 == 0 {
        // The superuser could write all the same; whoever took the permission from everyone meant them too.
        return Err(read_only_because("its mode lets nobody write"));
    }
    if !read_only && block_device && disk.write_protected().map_err(io_error("inspect"))? {
        return Err(read_only_because("the device is write-protected"));
    }
    match layout {
        Layout::Whole if length == 0 || !length.is_multiple_of(SECTOR) => {
            return Err(BlockError::Size { path: path.to_owned(), length });
        }
        Layout::Parts if length == 0 => return Err(BlockError::Empty(path.to_owned())),
        Layout::Whole | Layout::Parts => {}
    }
    lock(&disk.file, path, read_only)?;
    Ok((disk, length))
}

fn open_file(path: &Path, read_only: bool) -> Result<File, BlockError> {
    let path = path.to_owned();
    let access = access(read_only);
    // Without waiting for the other end, should it be a pipe.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let result = OpenOptions::new().read(true).write(!read_only).custom_flags(flags.bits()).open(&path);
    result.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => BlockError::Missing(path),
        Some(Errno::EISDIR) => BlockError::NotADisk { path, what: "a directory" },
        Some(Errno::ENXIO) => BlockError::NotADisk { path, what: "a socket, or a device that is not there" },
        Some(Errno::EROFS) => BlockError::ReadOnly { path, why: "its file system is mounted read-only" },
        Some(Errno::ETXTBSY) => BlockError::ReadOnly { path, why: "it is a program that is running" },
        Some(Errno::EPERM) if !read_only => BlockError::ReadOnly { path, why: "it is marked immutable" },
        Some(Errno::EACCES | Errno::EPERM) => {
            let advice = match read_only {
                true => "let this user read it",
                false => "let this user write to it, or attach the disk read-only (ro)",
            };
            BlockError::Permission { path, access, advice }
        }
        _ => BlockError::Io { attempt: "open", path, source },
    })
}

fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), BlockError> {
    let (kind, already, advice) = match read_only {
        true => (libc::F_RDLCK, "open for writing already", "stop what uses it (lslocks lists such)"),
        false => (
            libc::F_WRLCK,
            "in use already",
            "stop what uses it (lslocks lists such), or attach the disk read-only (ro) everywhere",
        ),
    };
    let whole = libc::flock {
        l_type: narrow(kind),
        l_whence: narrow(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let path = path.to_owned();
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            Err(BlockError::Locked { path, access: access(read_only), already, advice })
        }
        Err(errno) => Err(BlockError::Io { attempt: "lock", path, source: errno.into() }),
    }
}

fn access(read_only: bool) -> &'static str {
    if read_only { "reading" } else { "reading and writing" }
}

/// A constant of fcntl(2) as the lock's fields take it.
fn narrow(constant: i32) -> i16 {
    i16::try_from(constant).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rvm_config::IoEngine;

    use super::*;

    /// A directory of its own, gone with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("rvm-disk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self, length: u64) -> PathBuf {
            let path = self.0.join(format!("disk-{length}"));
            File::create(&path).unwrap().set_len(length).unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// The length of the disk at `path`, which is held open.
    fn open(path: &Path, read_only: bool) -> Result<(Medium, u64), BlockError> {
        let source = DiskSource::Path(path.to_owned());
        let disk = Disk { source, read_only, id: None, engine: IoEngine::Sync };
        let medium = super::open(&disk)?.expect("it is no placeholder");
        let capacity = medium.capacity();
        Ok((medium, capacity))
    }

    fn error(path: &Path, read_only: bool) -> (BlockError, String) {
        let error = open(path, read_only).err().unwrap();
        let text = error.to_string().replace(path.to_str().unwrap(), "DISK");
        (error, text)
    }

    #[test]
    fn a_file_is_as_long_as_it_is() {
        let directory = Directory::new();
        let (_medium, capacity) = open(&directory.file(1536), true).unwrap();
        assert_eq!(capacity, 1536);
    }

    #[test]
    fn a_missing_disk_is_missing() {
        let directory = Directory::new();
        let file = directory.file(512);
        for path in [directory.0.join("nothing"), file.join("below")] {
            let (error, text) = error(&path, false);
            assert!(matches!(error, BlockError::Missing(_)));
            assert_eq!(
                text,
                "cannot open disk 'DISK': there is no such file; give the path of a raw image or a block device"
            );
        }
    }

    #[test]
    fn what_is_no_disk_is_named() {
        let directory = Directory::new();
        let pipe = directory.0.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = directory.0.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&directory.0, &pipe, &socket, Path::new("/dev/null")] {
            for read_only in [false, true] {
                assert!(matches!(error(path, read_only).0, BlockError::NotADisk { .. }), "{path:?}");
            }
        }
        assert_eq!(
            error(&directory.0, true).1,
            "cannot open disk 'DISK': it is a directory; give the path of a raw image or a block device"
        );
    }

    #[test]
    fn lengths_that_no_disk_has_are_refused() {
        let directory = Directory::new();
        for length in [0, 1, 511, 513] {
            let (error, text) = error(&directory.file(length), false);
            assert!(matches!(error, BlockError::Size { length: told, .. } if told == length));
            assert!(text.starts_with(&format!("cannot use 'DISK' as a disk: its length of {length} bytes")));
        }
    }

    #[test]
    fn a_file_that_lets_nobody_write_is_not_opened_for_writing() {
        let directory = Directory::new();
        let path = directory.file(512);
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        let (error, text) = error(&path, false);
        // Whether the kernel says so (a user) or we do (the superuser).
        assert!(matches!(error, BlockError::ReadOnly { .. } | BlockError::Permission { .. }));
        assert!(text.ends_with("attach the disk read-only (ro)"), "{text}");
        open(&path, true).unwrap();
    }

    #[test]
    fn a_disk_has_one_writer_or_many_readers() {
        let directory = Directory::new();
        let path = directory.file(1024);
        let _writer = open(&path, false).unwrap();
        for read_only in [false, true] {
            assert!(matches!(error(&path, read_only).0, BlockError::Locked { .. }));
        }
        let path = directory.file(512);
        let _readers = [open(&path, true).unwrap(), open(&path, true).unwrap()];
        let (error, text) = error(&path, false);
        assert!(matches!(error, BlockError::Locked { .. }));
        assert_eq!(
            text,
            "cannot open disk 'DISK' for reading and writing: it is in use already; stop what uses it \
             (lslocks lists such), or attach the disk read-only (ro) everywhere"
        );
    }
}
