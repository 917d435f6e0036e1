//! `dir:PATH`: a directory that is a root file system, as an image of one layer.
//!
//! The layer is made once and found again by a fingerprint of everything in the directory but contents: with a time of
//! the last change (ctime) in it, which users cannot set. The directory is read as whoever runs rvm; symbolic links
//! are never followed.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use oci_spec::image::Config;

use super::digest::Digest;
use super::erofs::{self, Attributes, ContentsWriter, Device, InodeId, Node, Tree, Xattrs};
use super::image::{Image, Layer, filled};
use super::import::BufferedSpool;
use super::manifest::Platform;
use super::store::{Hold, HoldError, Session, StoreError};

/// Why a directory cannot be an image.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is none.
    #[error("cannot use '{0}' as a root file system: it is not a directory")]
    NotADirectory(PathBuf),
    /// A file in it cannot be read.
    #[error("cannot {attempt} '{path}' of the root file system")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The layer cannot be kept.
    #[error(transparent)]
    Hold(#[from] HoldError),
}

/// A file of the directory.
struct Found {
    /// Relative to the directory.
    path: PathBuf,
    metadata: Metadata,
}

/// The directory, and how its files are opened: never through a symbolic link, never outside.
struct Root<'a> {
    path: &'a Path,
    directory: File,
}

/// The directory at `path` as an image called `name`.
pub fn image(session: &Session<'_>, path: &Path, name: &str) -> Result<Image, DirectoryError> {
    let root = Root::open(path)?;
    let files = root.walk()?;
    let fingerprint = fingerprint(&files);
    let erofs = session.store.layer_path(&fingerprint);
    if !erofs.exists() {
        let _one_at_a_time = session.lock_digest(&fingerprint)?;
        if !erofs.exists() {
            let (image, spool) = (session.temporary()?, session.temporary()?);
            root.write(&files, image.file(), spool.file())?;
            image.keep_as(&erofs)?;
        }
    }
    let layer = Layer::at(&fingerprint, erofs)?;
    Ok(Image {
        reference: name.to_owned(),
        digest: fingerprint,
        config: filled(Config::default()),
        architecture: Platform::host().architecture,
        size: layer.size,
        hold: Hold::take([layer.erofs.as_path()])?,
        layers: vec![layer],
        created: None,
    })
}

/// A digest of all that is known of the files without reading them.
fn fingerprint(files: &[Found]) -> Digest {
    let mut text = Vec::from(b"rvm directory 1\0");
    for Found { path, metadata } in files {
        text.extend(path.as_os_str().as_bytes());
        let ids = [metadata.dev(), metadata.ino(), metadata.nlink(), metadata.rdev(), metadata.size()];
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let owners = [metadata.mode(), metadata.uid(), metadata.gid()];
        text.extend(format!("\0{ids:?}{times:?}{owners:?}\0").bytes());
    }
    Digest::of(&text)
}

impl<'a> Root<'a> {
    fn open(path: &'a Path) -> Result<Self, DirectoryError> {
        let error = |source| DirectoryError::Io { attempt: "open", path: path.to_owned(), source };
        let directory = File::open(path).map_err(error)?;
        match directory.metadata().map_err(error)?.is_dir() {
            true => Ok(Self { path, directory }),
            false => Err(DirectoryError::NotADirectory(path.to_owned())),
        }
    }

    fn error(&self, attempt: &'static str, path: &Path) -> impl Fn(io::Error) -> DirectoryError + use<> {
        let path = self.path.join(path);
        move |source| DirectoryError::Io { attempt, path: path.clone(), source }
    }

    /// The file at a path, opened for nothing but to be looked at.
    fn look(&self, path: &Path) -> io::Result<File> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
        Ok(openat2(&self.directory, path, how)?.into())
    }

    /// All files, each after its directory; what is mounted in the directory is left out.
    fn walk(&self) -> Result<Vec<Found>, DirectoryError> {
        let mut files = Vec::new();
        let mut open = vec![PathBuf::new()];
        let device = self.directory.metadata().map_err(self.error("inspect", Path::new("")))?.dev();
        while let Some(path) = open.pop() {
            let file = self.look(&path).map_err(self.error("open", &path))?;
            let metadata = file.metadata().map_err(self.error("inspect", &path))?;
            if metadata.is_dir() && metadata.dev() == device {
                let error = self.error("list", &path);
                let names = fs::read_dir(named(&file)).map_err(&error)?;
                let names = names.map(|entry| entry.map(|entry| path.join(entry.file_name())));
                let mut names: Vec<PathBuf> = names.collect::<Result<_, _>>().map_err(&error)?;
                names.sort_unstable_by(|one, other| other.cmp(one));
                open.extend(names);
            }
            files.push(Found { path, metadata });
        }
        Ok(files)
    }

    fn write(&self, files: &[Found], image: &File, spool: &File) -> Result<(), DirectoryError> {
        let failed =
            |source| DirectoryError::Io { attempt: "write the image of", path: self.path.to_owned(), source };
        let mut contents =
            ContentsWriter::new(BufWriter::new(image), BufferedSpool::new(spool)).map_err(failed)?;
        let mut tree = Tree::new(Attributes::default());
        let mut directories = HashMap::from([(PathBuf::new(), InodeId::ROOT)]);
        let mut linked: HashMap<u64, InodeId> = HashMap::new();
        for found in files {
            let Found { path, metadata } = found;
            let error = self.error("read", path);
            let file = self.look(path).map_err(&error)?;
            let now = file.metadata().map_err(&error)?;
            if (now.ino(), now.mode()) != (metadata.ino(), metadata.mode()) {
                return Err(error(io::Error::other("it has been replaced meanwhile")));
            }
            let attributes = attributes(&file, metadata).map_err(&error)?;
            let (Some(name), Some(parent)) =
                (path.file_name(), path.parent().and_then(|path| directories.get(path)))
            else {
                *tree.attributes_mut(InodeId::ROOT) = attributes;
                continue;
            };
            let id = match linked.get(&metadata.ino()) {
                Some(id) => *id,
                None => {
                    let node = node(&file, metadata, *parent, &attributes, &mut contents).map_err(&error)?;
                    tree.add(attributes, node)
                }
            };
            tree.link(*parent, name.as_bytes(), id);
            if metadata.is_dir() {
                directories.insert(path.clone(), id);
            } else if metadata.nlink() > 1 {
                linked.insert(metadata.ino(), id);
            }
        }
        erofs::write(&tree, contents).map_err(failed).map(|_| ())
    }
}

/// Where an open file can be opened again by name.
fn named(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn node(
    file: &File,
    metadata: &Metadata,
    parent: InodeId,
    attributes: &Attributes,
    contents: &mut ContentsWriter<BufWriter<&File>, BufferedSpool<'_>>,
) -> io::Result<Node> {
    let kind = metadata.file_type();
    let device = || Device { major: major(metadata.rdev()), minor: minor(metadata.rdev()) };
    Ok(if kind.is_dir() {
        Node::directory(parent)
    } else if kind.is_symlink() {
        Node::Symlink(readlinkat(file, "")?.as_bytes().into())
    } else if kind.is_file() {
        let mut data = File::open(named(file))?;
        Node::File(contents.write(&mut data, metadata.size(), attributes.xattrs.size())?)
    } else if kind.is_char_device() {
        Node::Character(device())
    } else if kind.is_block_device() {
        Node::Block(device())
    } else if kind.is_fifo() {
        Node::Fifo
    } else {
        Node::Socket
    })
}

fn attributes(file: &File, metadata: &Metadata) -> io::Result<Attributes> {
    let mut xattrs = Xattrs::default();
    // Those of a symbolic link cannot be read by this way, and users cannot set any.
    if !metadata.is_symlink() {
        let (mut names, mut value) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let read = match rustix::fs::listxattr(named(file), &mut names) {
            Err(rustix::io::Errno::NOTSUP) => 0,
            read => read?,
        };
        for name in
            names.get(..read).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty())
        {
            let read = rustix::fs::getxattr(named(file), name, &mut value)?;
            xattrs.set(name, value.get(..read).unwrap_or_default()).map_err(io::Error::other)?;
        }
    }
    Ok(Attributes {
        // The type's bits are above these.
        permissions: (metadata.mode() & 0o7777) as u16,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: metadata.mtime(),
        mtime_ns: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        xattrs,
    })
}

fn major(device: u64) -> u32 {
    u32::try_from(nix::sys::stat::major(device)).unwrap_or(u32::MAX)
}

fn minor(device: u64) -> u32 {
    u32::try_from(nix::sys::stat::minor(device)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
