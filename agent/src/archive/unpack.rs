//! A tar archive into files, over those that are there: with owners, modes, times, extended attributes, links,
//! devices and holes.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tar::{Archive, Entry, EntryType, Header};

use crate::archive::child::Error;
use crate::sys::xattr;

/// The bits of a mode that an archive sets.
const MODE_BITS: u32 = 0o7777;

/// Unpacks all of it below a directory.
pub fn below(directory: &Path, from: impl Read) -> Result<(), Error> {
    let mut archive = Archive::new(from);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    let read = || "read the archive".to_owned();
    for entry in archive.entries().map_err(Error::at(read))? {
        one(directory, &mut entry.map_err(Error::at(read))?)?;
    }
    Ok(())
}

fn one(directory: &Path, entry: &mut Entry<'_, impl Read>) -> Result<(), Error> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let path = place(directory, &name, entry)?;
    let step = || format!("unpack {name:?} below {}", directory.display());
    make_room(&path, entry.header().entry_type()).map_err(Error::at(step))?;
    match entry.header().entry_type() {
        EntryType::Fifo | EntryType::Char | EntryType::Block => {
            device(&path, entry.header()).map_err(Error::at(step))?;
        }
        _ => {
            entry.unpack_in(directory).map_err(Error::at(step))?;
        }
    }
    attributes(&path, entry).map_err(Error::at(step))
}

/// Where an entry goes.
fn place(directory: &Path, name: &str, entry: &Entry<'_, impl Read>) -> Result<PathBuf, Error> {
    let refuse = |reason| Error::Archive { entry: name.to_owned(), reason };
    let path = entry.path().map_err(|_| refuse("its name is no path"))?;
    let mut place = directory.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(part) => place.push(part),
            Component::ParentDir => return Err(refuse("its name has .. in it")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(place)
}

/// Removes what is there, unless directory meets directory.
fn make_room(path: &Path, kind: EntryType) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    };
    match (there.is_dir(), kind.is_dir()) {
        (true, true) => Ok(()),
        // A directory with files in it is not lost to a file.
        (true, false) => fs::remove_dir(path),
        (false, _) => fs::remove_file(path),
    }
}

fn device(path: &Path, header: &Header) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let kind = match header.entry_type() {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let number = |number: Option<u32>| u64::from(number.unwrap_or_default());
    let device = makedev(number(header.device_major()?), number(header.device_minor()?));
    mknod(path, kind, Mode::empty(), device)?;
    let id = |id: u64| u32::try_from(id).map_err(io::Error::other);
    chown(path, Some(id(header.uid()?)?), Some(id(header.gid()?)?))?;
    fs::set_permissions(path, Permissions::from_mode(header.mode()? & MODE_BITS))
}

/// Sets the extended attributes that the entry has; after its owner, whose change takes capabilities away.
fn attributes(path: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let Some(records) = entry.pax_extensions()? else { return Ok(()) };
    for record in records {
        let record = record?;
        if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            xattr::set(path, name, record.value_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::below;
    use crate::archive::child::Error;
    use crate::archive::pack::tree;
    use crate::sys::xattr;
    use std::fs::{self, File};
    use std::io::{Seek, SeekFrom, Write};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::path::Path;
    use tar::{Builder, EntryType, Header};

    /// A tree with one of everything; what only root can make, if this is root.
    fn one_of_everything(root: &Path) {
        fs::create_dir_all(root.join("dir/empty")).unwrap();
        fs::write(root.join("dir/file"), "text").unwrap();
        fs::set_permissions(root.join("dir/file"), PermissionsExt::from_mode(0o4751)).unwrap();
        fs::hard_link(root.join("dir/file"), root.join("link")).unwrap();
        symlink("dir/file", root.join("symlink")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        fs::write(root.join("x".repeat(200)), "a long name").unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut sparse = File::create(root.join("sparse")).unwrap();
        sparse.seek(SeekFrom::Start(8 << 20)).unwrap();
        sparse.write_all(b"end").unwrap();
        // tmpfs and overlay file systems of old kernels have no attributes for users.
        xattr::set(&root.join("dir/file"), b"user.colour", b"r\0d").ok();
    }

    /// An archive of one entry.
    fn archive_of(name: &str, kind: EntryType, link: &str) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        let mut header = Header::new_ustar();
        // The crate's own setters refuse what a hostile archive has.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        let me = fs::metadata("/proc/self").unwrap();
        header.set_uid(me.uid().into());
        header.set_gid(me.gid().into());
        header.set_mtime(1);
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn what_is_packed_and_unpacked_is_the_same() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        one_of_everything(from.path());
        let mut archive = Vec::new();
        tree(from.path(), Path::new("tree"), &mut archive).unwrap();
        assert!(archive.len() < 1 << 20, "the hole is in the archive");
        // Twice: the second time over the first.
        for _ in 0..2 {
            below(to.path(), archive.as_slice()).unwrap();
        }

        let at = |name: &str| to.path().join("tree").join(name);
        assert_eq!(fs::read(at("dir/file")).unwrap(), b"text");
        let file = fs::metadata(at("dir/file")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.nlink()), (0o4751, 2));
        assert_eq!(file.ino(), fs::metadata(at("link")).unwrap().ino());
        assert_eq!(fs::read_link(at("symlink")).unwrap(), Path::new("dir/file"));
        assert_eq!(fs::read_link(at("dangling")).unwrap(), Path::new("/nowhere"));
        assert!(at(&"x".repeat(200)).exists() && at("dir/empty").is_dir());
        assert!(fs::metadata(at("fifo")).unwrap().file_type().is_fifo());
        let sparse = fs::metadata(at("sparse")).unwrap();
        assert!(sparse.len() == (8 << 20) + 3 && sparse.blocks() < 1024, "{} blocks", sparse.blocks());
        let attributes = |path: &Path| xattr::all(path).unwrap();
        assert_eq!(attributes(&at("dir/file")), attributes(&from.path().join("dir/file")));
    }

    #[test]
    fn an_entry_that_leads_up_is_refused() {
        let to = tempfile::tempdir().unwrap();
        let archive = archive_of("a/../../escaped", EntryType::Regular, "");
        assert!(matches!(below(to.path(), archive.as_slice()), Err(Error::Archive { .. })));
    }

    #[test]
    fn an_entry_below_a_link_out_of_the_directory_is_refused() {
        let (to, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), to.path().join("out")).unwrap();
        let archive = archive_of("out/file", EntryType::Regular, "");
        assert!(below(to.path(), archive.as_slice()).is_err());
        assert!(!outside.path().join("file").exists());
    }

    #[test]
    fn an_absolute_name_stays_below_the_directory() {
        let to = tempfile::tempdir().unwrap();
        below(to.path(), archive_of("/abs", EntryType::Regular, "").as_slice()).unwrap();
        assert!(to.path().join("abs").exists());
    }

    #[test]
    fn a_file_does_not_take_the_place_of_a_directory_with_files() {
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(to.path().join("dir")).unwrap();
        fs::write(to.path().join("dir/kept"), "").unwrap();
        assert!(below(to.path(), archive_of("dir", EntryType::Regular, "").as_slice()).is_err());
        assert!(to.path().join("dir/kept").exists());
    }

    #[test]
    fn an_archive_cut_short_is_an_error() {
        let mut archive = Vec::new();
        let from = tempfile::tempdir().unwrap();
        fs::write(from.path().join("file"), vec![7; 10_000]).unwrap();
        tree(from.path(), Path::new("tree"), &mut archive).unwrap();
        archive.truncate(5_000);
        let to = tempfile::tempdir().unwrap();
        assert!(below(to.path(), archive.as_slice()).is_err());
    }
}
