//! Container images made by a test: layers of any names and contents, honest or not, in an OCI layout.
//!
//! What is written is what was asked for: nothing is checked. OCI image specification, "Image Layout", "Image Manifest"
//! and "Filesystem Layers".

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer, as a tar archive.
#[derive(Debug, Default)]
pub struct Layer {
    archive: Vec<u8>,
}

impl Layer {
    /// A layer with a static busybox as `/bin/sh` and the commands that tests use.
    pub fn busybox() -> io::Result<Self> {
        let mut layer = Self::default().file("bin/busybox", 0o755, &Self::busybox_program()?);
        for name in ["sh", "cat", "find", "grep", "sort", "stat", "true"] {
            layer = layer.link(EntryType::Symlink, &format!("bin/{name}"), "busybox");
        }
        Ok(layer)
    }

    /// The program.
    pub fn busybox_program() -> io::Result<Vec<u8>> {
        fs::read("/usr/bin/busybox").or_else(|_| fs::read("/bin/busybox"))
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, mode, "", content.len() as u64, content)
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, mode, "", 0, &[])
    }

    /// Adds a symbolic or hard link.
    #[must_use]
    pub fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.entry(kind, name, 0o777, target, 0, &[])
    }

    /// Adds a file that says it is larger than what follows.
    #[must_use]
    pub fn claim(self, name: &str, size: u64) -> Self {
        self.entry(EntryType::Regular, name, 0o644, "", size, &[])
    }

    /// Adds the first disk of virtio as a device.
    #[must_use]
    pub fn device(mut self, name: &str) -> Self {
        let mut header = header(EntryType::Block, name, 0o666, "", 0);
        header.set_device_major(254).and_then(|()| header.set_device_minor(0)).ok();
        self.push(&mut header, &[]);
        self
    }

    /// Gives the next entry an extended attribute.
    #[must_use]
    pub fn xattr(self, name: &str, value: &[u8]) -> Self {
        let mut line = format!(" SCHILY.xattr.{name}=").into_bytes();
        line.extend(value);
        line.push(b'\n');
        // A record begins with its length, which counts its own digits (pax, "Extended Header").
        let length = (1..)
            .map(|digits| line.len() + digits)
            .find(|length| length.to_string().len() == length - line.len());
        let mut record = length.unwrap_or_default().to_string().into_bytes();
        record.extend(line);
        self.entry(EntryType::XHeader, "PaxHeaders/next", 0o644, "", record.len() as u64, &record)
    }

    fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        mode: u32,
        target: &str,
        size: u64,
        content: &[u8],
    ) -> Self {
        self.push(&mut header(kind, name, mode, target, size), content);
        self
    }

    fn push(&mut self, header: &mut Header, content: &[u8]) {
        header.set_cksum();
        self.archive.extend(header.as_bytes());
        self.archive.extend(content);
        self.archive.resize(self.archive.len().next_multiple_of(512), 0);
    }

    /// The archive to its end.
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = self.archive.clone();
        archive.resize(archive.len() + 1024, 0);
        archive
    }
}

/// Names of up to 100 bytes are taken as they are.
fn header(kind: EntryType, name: &str, mode: u32, target: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
    }
    header
}

/// An OCI layout in a directory.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// An empty one.
    pub fn new(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory.join("blobs/sha256"))?;
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let layout = Self { directory: directory.to_owned(), manifests: Vec::new() };
        layout.write_index()?;
        Ok(layout)
    }

    /// How `rvm` is told of the image with this tag.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.directory.display())
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Adds an image of gzipped layers for this machine; gives the digests of its layers.
    pub fn add(&mut self, tag: &str, layers: &[&Layer], config: &Value) -> io::Result<Vec<String>> {
        self.add_for("amd64", tag, layers, config)
    }

    /// Adds an image for the machines of this architecture, as OCI calls it.
    pub fn add_for(
        &mut self,
        architecture: &str,
        tag: &str,
        layers: &[&Layer],
        config: &Value,
    ) -> io::Result<Vec<String>> {
        let archives: Vec<Vec<u8>> = layers.iter().map(|layer| layer.archive()).collect();
        let mut blobs = Vec::new();
        for archive in &archives {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(archive)?;
            blobs.push(self.store(&gzip.finish()?, &format!("{LAYER}+gzip"))?);
        }
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": archives.iter().map(|archive| digest(archive)).collect::<Vec<_>>() },
        });
        let config = self.store(config.to_string().as_bytes(), CONFIG)?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": blobs });
        let mut manifest = self.store(manifest.to_string().as_bytes(), MANIFEST)?;
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
        self.manifests.push(manifest);
        self.write_index()?;
        Ok(blobs.iter().filter_map(|blob| blob["digest"].as_str().map(str::to_owned)).collect())
    }

    fn store(&self, bytes: &[u8], media_type: &str) -> io::Result<Value> {
        let digest = digest(bytes);
        fs::write(self.blob(&digest), bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }

    fn write_index(&self) -> io::Result<()> {
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        fs::write(self.directory.join("index.json"), index.to_string())
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
