//! Installations into a directory: what is there before and after.
#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// rvm's files, as a build leaves them, and a host's file system to install them in.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap() };
        for name in [
            "rvm",
            "containerd-shim-rvm-v2",
            "guest/vmlinux",
            "guest/initramfs.cpio",
            "guest/initramfs-agent.cpio",
        ] {
            write(&host.source().join(name), name);
        }
        write(&host.path("/usr/bin/containerd"), "");
        host
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("release")
    }

    fn root(&self) -> Root {
        Root::new(self.directory.path().join("root"))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root().at(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn install(&self) {
        install(&self.root(), &self.source()).unwrap().iter().for_each(|step| step.take().unwrap());
    }

    fn uninstall(&self) {
        uninstall(&self.root()).unwrap().iter().for_each(|step| step.take().unwrap());
    }

    /// All files and links below the root.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => walk(&entry.path(), files),
                    false => files.push(entry.path()),
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.path("/"), &mut files);
        files.sort();
        files
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn everything_is_put_in_place_and_removed_again() {
    let host = Host::new();
    let before = host.files();
    write(&host.path("/etc/containerd/config.toml"), "version = 3\n");
    host.install();
    assert_eq!(host.read("/usr/local/lib/rvm/guest/vmlinux"), "guest/vmlinux");
    let link = fs::read_link(host.path("/usr/local/bin/containerd-shim-rvm-v2")).unwrap();
    assert_eq!(link, Path::new("/usr/local/lib/rvm/containerd-shim-rvm-v2"));
    assert!(!host.path("/etc/docker/daemon.json").exists());
    let once = host.files();
    host.install();
    assert_eq!(host.files(), once);

    host.uninstall();
    assert_eq!(
        host.read("/etc/containerd/config.toml"),
        "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"
    );
    fs::remove_file(host.path("/etc/containerd/config.toml")).unwrap();
    assert_eq!(host.files(), before);
    assert!(uninstall(&host.root()).unwrap().is_empty());
}

#[test]
fn the_drop_in_has_the_version_of_the_configuration() {
    for (version, plugin) in [(2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime")] {
        let host = Host::new();
        let theirs =
            format!("# theirs\nversion = {version}\nimports = [\"/etc/other.toml\"]\n\n[grpc]\n  gid = 7\n");
        write(&host.path("/etc/containerd/config.toml"), &theirs);
        host.install();
        let kept = theirs.replace("other.toml\"]", "other.toml\", \"/etc/containerd/conf.d/*.toml\"]");
        assert_eq!(host.read("/etc/containerd/config.toml"), kept);
        let drop_in: toml_edit::DocumentMut = host.read("/etc/containerd/conf.d/rvm.toml").parse().unwrap();
        assert_eq!(drop_in["version"].as_integer(), Some(version));
        let runtime = &drop_in["plugins"][plugin]["containerd"]["runtimes"]["rvm"]["runtime_type"];
        assert_eq!(runtime.as_str(), Some("io.containerd.rvm.v2"));
    }
}

#[test]
fn what_docker_is_told_already_stays() {
    let host = Host::new();
    let theirs = r#"{ "log-driver": "local", "runtimes": { "other": { "path": "/usr/bin/other" } } }"#;
    write(&host.path("/etc/docker/daemon.json"), theirs);
    host.install();
    let told: serde_json::Value = serde_json::from_str(&host.read("/etc/docker/daemon.json")).unwrap();
    assert_eq!(told["runtimes"]["rvm"]["runtimeType"], "io.containerd.rvm.v2");
    assert_eq!(
        (&told["runtimes"]["other"]["path"], &told["log-driver"]),
        (&"/usr/bin/other".into(), &"local".into())
    );
    host.uninstall();
    let left: serde_json::Value = serde_json::from_str(&host.read("/etc/docker/daemon.json")).unwrap();
    assert_eq!(left, serde_json::from_str::<serde_json::Value>(theirs).unwrap());
}

#[test]
fn what_cannot_be_read_is_named_and_nothing_is_changed() {
    for (path, text, reason) in [
        ("/etc/containerd/config.toml", "version = ", "line 1"),
        ("/etc/containerd/config.toml", "[plugins]\n", "version 1"),
        ("/etc/containerd/config.toml", "version = 3\nimports = 7\n", "no list"),
        ("/etc/docker/daemon.json", "{ \"runtimes\": 7 }", "no object"),
        ("/etc/docker/daemon.json", "{", "line 1"),
    ] {
        let host = Host::new();
        write(&host.path(path), text);
        let error = install(&host.root(), &host.source()).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains(reason), "{error}");
        assert_eq!(host.read(path), text);
    }
    let host = Host::new();
    fs::remove_file(host.source().join("guest/vmlinux")).unwrap();
    let error = install(&host.root(), &host.source()).unwrap_err().to_string();
    assert!(error.contains("guest/vmlinux"), "{error}");
}
