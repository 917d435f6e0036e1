//! Mounts, one function a kind of source.
//!
//! Each makes a mount that is nowhere yet, and attaches it as the last step: what fails leaves no mount behind. It is
//! made by fsconfig(2), not by mount(2), whose options have to fit in one page: an overlay of many layers' do not.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::read;
use rvm_agent_proto::{Overlay, Share, Tmpfs};

use crate::refusal::Refusal;
use crate::storage::options::Options;
use crate::storage::place;
use crate::sys::mounting;

/// Where each shared directory is mounted once, whole, for parts of it to be mounted elsewhere.
const SHARES: &str = "/run/rvm/.shares";
/// Mode of a tmpfs's root where none is given: as /tmp has it.
const TMPFS_MODE: u32 = 0o1777;
/// The bits of a mode.
const MODE_BITS: u32 = 0o7777;

/// A file system that is being set up.
struct Context {
    fd: OwnedFd,
    /// What is mounted, for messages.
    what: String,
}

impl Context {
    fn new(kind: &str, what: String) -> Result<Self, Refusal> {
        let kind = text(kind)?;
        let fd = mounting::fsopen(&kind)
            .map_err(Refusal::kernel(|| format!("use the file system {}", kind.to_string_lossy())))?;
        Ok(Self { fd, what })
    }

    fn set(&self, key: &CStr, value: Option<&CStr>) -> Result<(), Refusal> {
        mounting::set_parameter(&self.fd, key, value).map_err(|source| self.refused(key, source))
    }

    fn set_path(&self, key: &CStr, path: &Path) -> Result<(), Refusal> {
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Refusal::invalid(format!("the path {}", path.display()), "it has a zero byte"))?;
        self.set(key, Some(&path))
    }

    /// Tells it all that the request has.
    fn set_all(&self, options: &Options) -> Result<(), Refusal> {
        options.parameters.iter().try_for_each(|(key, value)| self.set(key, value.as_deref()))
    }

    /// The mount, nowhere yet.
    fn make(self, attributes: u64) -> Result<OwnedFd, Refusal> {
        mounting::make_mount(&self.fd, attributes).map_err(|source| self.refused(c"", source))
    }

    /// Why not: what was set, the kernel's own words where it has some, and its error.
    fn refused(&self, key: &CStr, source: std::io::Error) -> Refusal {
        let key = key.to_string_lossy();
        let option = if key.is_empty() { String::new() } else { format!(" with the option {key}") };
        let step = format!("mount {}{option}{}", self.what, kernels_words(&self.fd));
        Refusal::Kernel { step, source }
    }
}

/// The messages that the kernel left for who set a file system up, in brackets: lines like `e overlay: No lower`.
fn kernels_words(context: &OwnedFd) -> String {
    let mut words = Vec::new();
    let mut line = [0; 256];
    while let Ok(length @ 2..) = read(context, &mut line) {
        let message = line.get(2..length).unwrap_or_default();
        words.push(String::from_utf8_lossy(message).trim_end().to_owned());
    }
    if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) }
}

fn text(word: &str) -> Result<CString, Refusal> {
    CString::new(word).map_err(|_| Refusal::invalid(format!("{word:?}"), "it has a zero byte"))
}

/// Puts a mount at its place, which is made if it is missing: a directory, or a file for a file.
fn attach(mount: &OwnedFd, target: &Path) -> Result<(), Refusal> {
    let step = || format!("mount on {}", target.display());
    let at = match place::is_directory(mount).map_err(Refusal::kernel(step))? {
        true => place::directory(target)?,
        false => place::file(target)?,
    };
    let attached = mounting::attach(mount, &at);
    if attached.is_err() {
        place::remove(target);
    }
    attached.map_err(Refusal::kernel(step))
}

/// A file system on a disk.
pub fn disk(device: &Path, kind: &str, target: &Path, options: Options) -> Result<(), Refusal> {
    if kind.is_empty() {
        return Err(Refusal::invalid("fs_type", "a disk needs the type of its file system"));
    }
    let what = format!("{kind} of {} on {}", device.display(), target.display());
    let context = Context::new(kind, what)?;
    context.set_path(c"source", device)?;
    if options.read_only() {
        // The mount point's attribute would come after the disk is opened for writing.
        context.set(c"ro", None)?;
    }
    context.set_all(&options)?;
    attach(&context.make(options.attributes)?, target)
}

/// A directory of the host, or what is at a path below it.
pub fn share(share: &Share, target: &Path, options: Options) -> Result<(), Refusal> {
    let attributes = options.attributes_only()?;
    let whole = whole_share(&share.tag)?;
    let step = || format!("open {:?} below the share {}", share.subpath, share.tag);
    let subpath = match share.subpath.trim_start_matches('/') {
        "" => ".",
        path => path,
    };
    // Links of the shared directory lead where they would if it were the root: they cannot leave it.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let part = openat2(&whole, subpath, how).map_err(Refusal::kernel(step))?;
    clone(&part, attributes, target)
}

/// The root of a share, mounted where nobody else mounts it; the first time it is asked for.
fn whole_share(tag: &str) -> Result<OwnedFd, Refusal> {
    if tag.is_empty() || tag.contains('/') || tag == "." || tag == ".." {
        return Err(Refusal::invalid(format!("the tag {tag:?}"), "it has to be a word without slashes"));
    }
    let place: PathBuf = [SHARES, tag].iter().collect();
    if let Ok(root) = place::open(&place) {
        return Ok(root);
    }
    let context = Context::new("virtiofs", format!("the share {tag}"))?;
    context.set(c"source", Some(&text(tag)?))?;
    attach(&context.make(0)?, &place)?;
    place::open(&place)
}

/// What is at a descriptor, mounted once more.
fn clone(at: impl AsFd, attributes: u64, target: &Path) -> Result<(), Refusal> {
    let step = || format!("mount on {}", target.display());
    let mount = mounting::clone_mount(at).map_err(Refusal::kernel(step))?;
    if attributes != 0 {
        mounting::set_attributes(&mount, attributes).map_err(Refusal::kernel(step))?;
    }
    attach(&mount, target)
}

/// What is at a path of the guest, mounted once more.
pub fn bind(source: &str, target: &Path, options: &Options) -> Result<(), Refusal> {
    let attributes = options.attributes_only()?;
    clone(&place::open(&place::parse(source)?)?, attributes, target)
}

/// A file system in memory.
pub fn tmpfs(tmpfs: Tmpfs, target: &Path, options: Options) -> Result<(), Refusal> {
    if tmpfs.mode > MODE_BITS {
        return Err(Refusal::invalid(format!("the mode {:o}", tmpfs.mode), "it has bits above 7777"));
    }
    let context = Context::new("tmpfs", format!("tmpfs on {}", target.display()))?;
    if tmpfs.size_bytes != 0 {
        context.set(c"size", Some(&text(&tmpfs.size_bytes.to_string())?))?;
    }
    let mode = if tmpfs.mode == 0 { TMPFS_MODE } else { tmpfs.mode };
    context.set(c"mode", Some(&text(&format!("{mode:o}"))?))?;
    context.set_all(&options)?;
    attach(&context.make(options.attributes)?, target)
}

/// Directories, one over the other.
pub fn overlay(overlay: &Overlay, target: &Path, options: Options) -> Result<(), Refusal> {
    let context = Context::new("overlay", format!("an overlay on {}", target.display()))?;
    if overlay.lower.is_empty() {
        return Err(Refusal::invalid("lower", "an overlay needs at least one lower directory"));
    }
    for lower in &overlay.lower {
        context.set_path(c"lowerdir+", &place::parse(lower)?)?;
    }
    if !overlay.writable.is_empty() {
        let writable = place::parse(&overlay.writable)?;
        for (key, name) in [(c"upperdir", "upper"), (c"workdir", "work")] {
            let path = writable.join(name);
            place::directory(&path)?;
            context.set_path(key, &path)?;
        }
    } else if let [_] = overlay.lower.as_slice() {
        // Linux wants two of them where nothing is written; one alone is the directory itself.
        let attributes = options.attributes_only()? | mounting::MOUNT_ATTR_RDONLY;
        let only = place::parse(overlay.lower.first().map_or("", String::as_str))?;
        return clone(&place::open(&only)?, attributes, target);
    }
    context.set_all(&options)?;
    attach(&context.make(options.attributes)?, target)
}
