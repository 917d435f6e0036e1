//! `rvm install`, into a directory: containerd itself reads what it writes.

use std::process::Command;

use rvm_tests::artifact;

use crate::process::run;

#[test]
fn containerd_understands_what_is_installed() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    std::fs::create_dir_all(at("usr/bin")).unwrap();
    std::fs::write(at("usr/bin/containerd"), "").unwrap();
    let rvm = |arguments: &[&str]| {
        let mut command = Command::new(artifact::directory().join("rvm"));
        command.args(["install", "--root"]).arg(root.path()).args(arguments);
        let ran = run(command);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        ran.out
    };
    let said = rvm(&["--dry-run"]);
    assert!(said.contains("conf.d/rvm.toml") && !at("etc").exists(), "{said}");
    rvm(&[]);

    let mut dump = Command::new("containerd");
    dump.arg("--config").arg(at("etc/containerd/conf.d/rvm.toml")).args(["config", "dump"]);
    let dumped = match dump.output() {
        Err(error) => return rvm_tests::cannot_run(&format!("containerd: {error}")),
        Ok(_) => run(dump),
    };
    assert!(dumped.out.contains("io.containerd.rvm.v2"), "{dumped:?}");

    let mut installed = Command::new(at("usr/local/lib/rvm/rvm"));
    installed.args(["boot", "--", "true"]);
    assert_eq!(run(installed).status, Some(0));
    rvm(&["--uninstall"]);
    assert!(!at("usr/local/lib/rvm").exists() && !at("etc/containerd/conf.d/rvm.toml").exists());
}
