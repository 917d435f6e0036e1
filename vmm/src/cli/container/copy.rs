//! `rvm cp`: files between the host and a container, as a tar archive on the way.
//!
//! What comes from a container is the guest's: it is unpacked below a directory made for it, which no name and no link
//! in the archive leaves, and then moved to its place.

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::thread;

use clap::Args;

use super::super::attach::{AttachError, Attached};
use super::{ContainerError, report, running};
use crate::state::Runtime;
use crate::supervisor::protocol::Request;

/// The flags of `rvm cp`.
#[derive(Args, Debug)]
pub struct CpArgs {
    /// Copy what a symbolic link points to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// From: CONTAINER:PATH, a path of the host, or - for a tar archive on standard input
    #[arg(value_name = "SOURCE")]
    source: String,
    /// To: CONTAINER:PATH, a path of the host, or - for a tar archive on standard output
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// Copies files between the host and a container.
pub fn cp(args: &CpArgs) -> u8 {
    report(
        match (in_container(&args.source), in_container(&args.destination)) {
            (Some((name, path)), None) => out(name, path, &args.destination, args.follow_link),
            (None, Some((name, path))) => into(&args.source, name, path, args.follow_link),
            _ => Err(ContainerError::Value(
                "one of source and destination must be CONTAINER:PATH, and only one".to_owned(),
            )),
        }
        .map(|()| 0),
    )
}

/// Name and path, where `side` is in a container. A path of the host with a colon in it begins with `/` or `./`.
fn in_container(side: &str) -> Option<(&str, &str)> {
    side.split_once(':').filter(|(name, _)| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
}

fn out(name: &str, path: &str, destination: &str, follow: bool) -> Result<(), ContainerError> {
    let (directory, _) = running(&Runtime::open()?, name)?;
    let request = Request::CopyOut { path: path.to_owned(), follow };
    let attached = Attached::connect(&directory.control(), &request)?;
    if destination == "-" {
        attached.receive(&mut io::stdout().lock())?;
        return Ok(());
    }
    let destination = Path::new(destination);
    let failed = || ContainerError::host(format!("write '{}'", destination.display()));
    // Beside the destination, so that what arrives is moved there in one step.
    let around = match destination.is_dir() {
        true => destination,
        false => destination.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    };
    let place = tempfile::Builder::new().prefix(".rvm-cp-").tempdir_in(around).map_err(failed())?;
    let (archive, sink) = io::pipe().map_err(failed())?;
    let received = thread::scope(|scope| {
        let unpacked = scope.spawn(|| unpack(archive, place.path()));
        let received = receive(attached, sink);
        let unpacked = unpacked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The agent's word first: an archive that ends early is a consequence.
        received.and(unpacked.map_err(failed()))
    });
    received?;
    for entry in fs::read_dir(place.path()).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let to =
            if destination.is_dir() { destination.join(entry.file_name()) } else { destination.to_owned() };
        fs::rename(entry.path(), &to).map_err(ContainerError::host(format!("write '{}'", to.display())))?;
    }
    Ok(())
}

fn receive(attached: Attached, mut sink: PipeWriter) -> Result<(), ContainerError> {
    match attached.receive(&mut sink) {
        Ok(_) => Ok(()),
        // The other thread gave up, and says why.
        Err(AttachError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn unpack(archive: PipeReader, place: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        // `false`: a name that leads out.
        if !entry.unpack_in(place)? {
            let name = String::from_utf8_lossy(&entry.path_bytes()).escape_debug().to_string();
            return Err(io::Error::other(format!(
                "the container sent '{name}', which leads out of the destination"
            )));
        }
    }
    Ok(())
}

fn into(source: &str, name: &str, path: &str, follow: bool) -> Result<(), ContainerError> {
    let (directory, _) = running(&Runtime::open()?, name)?;
    let send = |target: String, pack: Box<dyn FnOnce(PipeWriter) -> io::Result<()> + Send>| {
        let attached = Attached::connect(&directory.control(), &Request::CopyIn { path: target })?;
        let failed = || ContainerError::host(format!("read '{source}'"));
        let (archive, sink) = io::pipe().map_err(failed())?;
        let packing = thread::spawn(move || pack(sink));
        let sent = attached.send_all(archive);
        let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match packed {
            // The agent gave up, and says why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed()(error)),
            _ => sent.map(drop).map_err(ContainerError::from),
        }
    };
    if source == "-" {
        let pack = |mut sink: PipeWriter| io::copy(&mut io::stdin().lock(), &mut sink).map(drop);
        return send(path.to_owned(), Box::new(pack));
    }
    let from = Path::new(source);
    fs::symlink_metadata(from).map_err(ContainerError::host(format!("read '{source}'")))?;
    let own_name = file_name(&from.canonicalize().unwrap_or_else(|_| from.to_owned()));
    // A directory that is there takes the source under its own name; else its parent does, under the new one.
    match send(path.to_owned(), pack(from, own_name, follow)) {
        Err(ContainerError::Attach(AttachError::Refused { .. })) if !path.ends_with('/') => {
            let path = Path::new(path);
            let parent = path.parent().unwrap_or(Path::new("/")).display().to_string();
            send(parent, pack(from, file_name(path), follow))
        }
        result => result,
    }
}

fn file_name(path: &Path) -> PathBuf {
    match path.components().next_back() {
        Some(Component::Normal(name)) => PathBuf::from(name),
        _ => PathBuf::from("."),
    }
}

/// Writes `from` as an archive in which it has the name `name`.
fn pack(from: &Path, name: PathBuf, follow: bool) -> Box<dyn FnOnce(PipeWriter) -> io::Result<()> + Send> {
    let from = from.to_owned();
    Box::new(move |sink| {
        let mut archive = tar::Builder::new(sink);
        archive.follow_symlinks(false);
        let metadata = if follow { fs::metadata(&from)? } else { fs::symlink_metadata(&from)? };
        match metadata.is_dir() {
            true => archive.append_dir_all(&name, &from)?,
            false => {
                archive.follow_symlinks(follow);
                archive.append_path_with_name(&from, &name)?;
            }
        }
        archive.into_inner()?.flush()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(in_container("web:/etc/passwd"), Some(("web", "/etc/passwd")));
        for host in ["/a:b", "./a:b", "../a:b", "file", "-", ":x"] {
            assert_eq!(in_container(host), None, "{host}");
        }
    }

    /// Unpacks an archive of these links and files into a place of its own; gives the result and the place.
    fn unpacked(entries: &[(&str, Option<&str>)]) -> (io::Result<()>, tempfile::TempDir) {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, link) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_mode(0o644);
            match link {
                Some(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_link_name_literal(target).unwrap();
                    header.set_size(0);
                    header.set_cksum();
                    builder.append(&header, io::empty()).unwrap();
                }
                None => {
                    header.set_size(3);
                    header.set_cksum();
                    builder.append(&header, &b"bad"[..]).unwrap();
                }
            }
        }
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&builder.into_inner().unwrap()).unwrap();
        drop(writer);
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("place");
        fs::create_dir(&target).unwrap();
        (unpack(reader, &target), place)
    }

    #[test]
    fn nothing_that_a_container_sends_leaves_its_place() {
        for entries in [
            &[("../out", None)][..],
            &[("link", Some("..")), ("link/out", None)],
            &[("a", Some("/tmp")), ("a/../out", None)],
            &[("a/b/../../../out", None)],
        ] {
            let (result, place) = unpacked(entries);
            assert!(result.is_err(), "{entries:?}");
            assert!(!place.path().join("out").exists(), "{entries:?}");
        }
    }
}
