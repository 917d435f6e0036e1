//! What is known of the sandboxes of this user: a directory for each below the runtime directory.
//!
//! ```text
//!  $RVM_RUNTIME, or /run/rvm (root), or $XDG_RUNTIME_DIR/rvm     0700
//!  ├── lock                 held while names are compared and a sandbox is added
//!  └── sandboxes/ID/        the first digits of it: the path of a socket has to be short
//!      ├── record.json      what was asked for; written once, by `rvm run`
//!      ├── status.json      how it stands; replaced by its supervisor
//!      ├── alive            locked by whoever makes the sandbox, then by its supervisor as long as that lives
//!      ├── control          the supervisor's socket
//!      ├── vm/vsock         the VMM's socket, in what is all of this that the VMM has when the guest runs
//!      └── supervisor.log   what the supervisor could tell nobody
//!
//!  DATA/containers/ID/       on a disk: what may become large
//!      ├── log, log.1       what the container wrote to its outputs
//!      └── writable         a disk for what it writes to files, if it has one
//! ```
//!
//! There is no daemon: whoever reads compares `status.json` with the lock of `alive`, and so learns of a supervisor that
//! was killed before it could write its last word.

mod record;
mod status;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use record::{ImageRecord, Record, UserRecord, Volume};
pub use status::{Phase, Status};

/// Characters of an id that `ps` shows, and that are enough to name a sandbox.
pub const SHORT_ID: usize = 12;

/// Why the state of sandboxes cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The host refused.
    #[error("cannot {attempt} '{}'", .path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that is not as rvm writes it.
    #[error("cannot read '{}': {reason}; `rvm rm -f` removes the sandbox", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: serde_json::Error,
    },
    /// Too long for the path of a socket.
    #[error(
        "the runtime directory is too deep for sockets: '{}' is longer than the system takes; name a shorter one in \
         RVM_RUNTIME", .0.display()
    )]
    Long(PathBuf),
    /// Nobody of that name.
    #[error("no container '{0}'; `rvm ps -a` lists all")]
    Unknown(String),
    /// More than one id begins so.
    #[error("the id '{0}' is short for more than one container; give more of it")]
    Ambiguous(String),
    /// A name that another one has.
    #[error(
        "the name '{name}' is taken by container {id}; remove that (`rvm rm {name}`) or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
}

fn failed<'a>(attempt: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StateError + 'a {
    move |source| StateError::Io { attempt, path: path.to_owned(), source }
}

/// The runtime directory of this user.
#[derive(Clone, Debug)]
pub struct Runtime {
    root: PathBuf,
}

/// The directory of one sandbox.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// The lock of a sandbox's `alive`, by which others know that it has a supervisor. `rvm run` takes it when it makes the
/// directory, and gives it to the supervisor, which inherits it: there is no moment without.
pub type Alive = File;

impl Runtime {
    /// The runtime directory; made if it is not there.
    pub fn open() -> Result<Self, StateError> {
        let root = runtime_root();
        let runtime = Self { root };
        let sandboxes = runtime.sandboxes();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&sandboxes).map_err(failed("make the directory", &sandboxes))?;
        Ok(runtime)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// Makes the directory of a new sandbox, whose name must be free. It is alive as long as the lock is held.
    pub fn add(&self, record: &Record) -> Result<(Directory, Alive), StateError> {
        let path = self.root.join("lock");
        let lock = File::create(&path).map_err(failed("open", &path))?;
        lock.lock().map_err(failed("lock", &path))?;
        if let Some((_, other)) = self.list()?.into_iter().find(|(_, other)| other.name == record.name) {
            return Err(StateError::NameTaken { name: other.name, id: short(&other.id).to_owned() });
        }
        let directory = Directory { path: self.sandboxes().join(short(&record.id)) };
        directory.fits_sockets()?;
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.create(&directory.path).map_err(failed("make the directory", &directory.path))?;
        let vm = directory.vm();
        builder.create(&vm).map_err(failed("make the directory", &vm))?;
        builder.recursive(true);
        let data = builder.create(&record.data).map_err(failed("make the directory", &record.data));
        let made = data.and_then(|()| directory.keep_alive()).and_then(|alive| {
            directory.set_status(&Status::default())?;
            write_json(&directory.path.join(RECORD), record)?;
            Ok(alive)
        });
        match made {
            Ok(alive) => Ok((directory, alive)),
            Err(error) => {
                // The first error is the one to tell.
                directory.remove().ok();
                Err(error)
            }
        }
    }

    /// Every sandbox, the newest first. One that is being removed meanwhile is left out.
    pub fn list(&self) -> Result<Vec<(Directory, Record)>, StateError> {
        let sandboxes = self.sandboxes();
        let entries = fs::read_dir(&sandboxes).map_err(failed("read", &sandboxes))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed("read", &sandboxes))?.path();
            let directory = Directory { path };
            match directory.record() {
                Ok(record) => found.push((directory, record)),
                Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|(_, record)| std::cmp::Reverse(record.created));
        Ok(found)
    }

    /// The sandbox of this name, or whose id is this or begins so.
    pub fn find(&self, name: &str) -> Result<(Directory, Record), StateError> {
        let mut all = self.list()?;
        if let Some(at) = all.iter().position(|(_, record)| record.name == name || record.id == name) {
            return Ok(all.swap_remove(at));
        }
        let mut short = all.into_iter().filter(|(_, record)| !name.is_empty() && record.id.starts_with(name));
        match (short.next(), short.next()) {
            (Some(found), None) => Ok(found),
            (None, _) => Err(StateError::Unknown(name.to_owned())),
            (Some(_), Some(_)) => Err(StateError::Ambiguous(name.to_owned())),
        }
    }
}

/// Names of the files of a sandbox; the module's drawing has what they are.
const RECORD: &str = "record.json";
const STATUS: &str = "status.json";
const ALIVE: &str = "alive";

impl Directory {
    /// The directory at `path`, which exists.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The supervisor's socket.
    pub fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// What the VMM has of the directory.
    fn vm(&self) -> PathBuf {
        self.path.join("vm")
    }

    /// The VMM's socket.
    pub fn vsock(&self) -> PathBuf {
        self.vm().join("vsock")
    }

    /// Whether the sockets in it have paths that the system takes.
    fn fits_sockets(&self) -> Result<(), StateError> {
        match self.vsock().as_os_str().len() {
            0..=rvm_config::MAX_SOCKET_PATH => Ok(()),
            _ => Err(StateError::Long(self.path.clone())),
        }
    }

    /// What was asked for.
    pub fn record(&self) -> Result<Record, StateError> {
        read_json(&self.path.join(RECORD))
    }

    /// How the sandbox stands, by its own word and by the lock.
    pub fn status(&self) -> Result<Status, StateError> {
        let status: Status = read_json(&self.path.join(STATUS))?;
        if status.phase.is_over() || self.supervised()? {
            return Ok(status);
        }
        // Its supervisor may have written its last word, and ended, since.
        let status: Status = read_json(&self.path.join(STATUS))?;
        Ok(if status.phase.is_over() { status } else { status.orphaned() })
    }

    /// Replaces what is known of the sandbox.
    pub fn set_status(&self, status: &Status) -> Result<(), StateError> {
        write_json(&self.path.join(STATUS), status)
    }

    /// Takes the lock that says that the sandbox is alive, before anybody knows of it.
    fn keep_alive(&self) -> Result<Alive, StateError> {
        let path = self.path.join(ALIVE);
        let file = File::create(&path).map_err(failed("open", &path))?;
        file.lock().map_err(failed("lock", &path))?;
        Ok(file)
    }

    fn supervised(&self) -> Result<bool, StateError> {
        let path = self.path.join(ALIVE);
        let file = File::open(&path).map_err(failed("open", &path))?;
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// Removes everything that is known of the sandbox. What it ran is over.
    pub fn remove(&self) -> Result<(), StateError> {
        if let Ok(record) = self.record() {
            remove_tree(&record.data)?;
        }
        // The record goes first: without it there is no sandbox, whatever happens to the rest.
        match fs::remove_file(self.path.join(RECORD)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.path)(error)),
            _ => remove_tree(&self.path),
        }
    }
}

fn remove_tree(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The first characters of an id.
pub fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

fn runtime_root() -> PathBuf {
    let from = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(root) = from("RVM_RUNTIME") {
        return root;
    }
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/rvm");
    }
    match from("XDG_RUNTIME_DIR") {
        Some(directory) => directory.join("rvm"),
        None => std::env::temp_dir().join(format!("rvm-{}", nix::unistd::geteuid())),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StateError> {
    let bytes = fs::read(path).map_err(failed("read", path))?;
    serde_json::from_slice(&bytes).map_err(|reason| StateError::Damaged { path: path.to_owned(), reason })
}

/// Replaces the file in one step: a reader sees the old content or the new.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let attempt = "write";
    let json = serde_json::to_vec(value).map_err(io::Error::from).map_err(failed(attempt, path))?;
    let part = path.with_extension("part");
    let mut file = File::create(&part).map_err(failed(attempt, &part))?;
    file.write_all(&json).map_err(failed(attempt, &part))?;
    fs::rename(&part, path).map_err(failed(attempt, path))
}
