//! What goes into a lab: a directory tree, made into an ext4 image that the lab mounts at `/pay`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::protocol::Job;

/// Room beside the files themselves, for file system structures and for what a test writes there.
const SLACK: u64 = 256 << 20;

/// The tree before it is an image.
#[derive(Debug)]
pub struct Payload {
    tree: PathBuf,
}

impl Payload {
    /// An empty payload, gathered in `tree`, which must not exist yet.
    pub fn new(tree: PathBuf) -> io::Result<Self> {
        fs::create_dir(&tree)?;
        // Not by our own path: cargo may have put another program there since.
        fs::copy("/proc/self/exe", tree.join("lab"))?;
        Ok(Self { tree })
    }

    /// Adds a file (what a link leads to) or a directory under the name `at`.
    pub fn add(&self, source: &Path, at: &str) -> io::Result<()> {
        let target = self.tree.join(at);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let source = source.canonicalize().map_err(|error| named(source, &error))?;
        if source.is_dir() {
            for entry in fs::read_dir(&source)? {
                let entry = entry?;
                self.add(&entry.path(), &format!("{at}/{}", entry.file_name().to_string_lossy()))?;
            }
            return Ok(());
        }
        // A second name costs nothing; another file system needs a copy.
        fs::hard_link(&source, &target)
            .or_else(|_| fs::copy(&source, &target).map(drop))
            .map_err(|error| named(&source, &error))
    }

    /// Adds what `make build` left, as far as it is there, so that `rvm` inside finds its guest.
    pub fn add_artifacts(&self) -> io::Result<()> {
        let from = rvm_tests::artifact::directory();
        let guest = [
            "guest/vmlinux",
            "guest/bzImage",
            "guest/initramfs.cpio",
            "guest/initramfs-bare.cpio",
            "guest/initramfs-agent.cpio",
        ];
        for name in ["rvm", "rvm-agent", "containerd-shim-rvm-v2"].into_iter().chain(guest) {
            let file = from.join(name);
            if file.exists() {
                self.add(&file, &format!("bin/{name}"))?;
            }
        }
        Ok(())
    }

    /// Writes the job and makes the image.
    pub fn finish(self, job: &Job, image: &Path) -> io::Result<()> {
        fs::write(self.tree.join("job.json"), serde_json::to_vec(job)?)?;
        let size = (tree_size(&self.tree)? * 11 / 10 + SLACK) >> 10;
        let output = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-E", "root_owner=0:0", "-d"])
            .arg(&self.tree)
            .arg(image)
            .arg(format!("{size}k"))
            .output()
            .map_err(|error| named(Path::new("mke2fs"), &error))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("mke2fs could not make the payload: {}", text.trim())));
        }
        fs::remove_dir_all(&self.tree)
    }
}

fn tree_size(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { tree_size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
