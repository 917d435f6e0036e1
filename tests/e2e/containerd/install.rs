//! `rvm install`, into a directory: containerd and Docker themselves read what it writes, and run what it has put there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rvm_tests::{artifact, daemon};

use super::own::{Containerd, DISABLED, on_host};
use super::place::{BUSYBOX, RUNTIME};
use crate::docker::place::Docker;
use crate::process::{Ran, run};

/// The files of a host that has containerd and Docker, but not yet rvm.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir_in("/var/tmp").unwrap());
        for directory in ["usr/bin", "usr/local", "etc/containerd/conf.d"] {
            fs::create_dir_all(host.path(directory)).unwrap();
        }
        for program in ["containerd", "dockerd"] {
            fs::write(host.path("usr/bin").join(program), "").unwrap();
        }
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// What `rvm install` says, whose end is to be 0.
    #[track_caller]
    fn install(&self, flags: &[&str]) -> String {
        let mut command = Command::new(artifact::directory().join("rvm"));
        command.args(["install", "--root"]).arg(self.0.path()).args(flags);
        let ran = run(command);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        ran.out
    }

    /// What containerd there makes of its configuration.
    fn dump(&self) -> Ran {
        let mut dump = on_host(self.0.path());
        dump.args(["config", "dump"]);
        run(dump)
    }
}

/// Whether there is this program of the host's; told, if not.
#[track_caller]
fn there_is(program: &str) -> bool {
    match Command::new(program).arg("--version").output() {
        Ok(_) => true,
        Err(error) => {
            rvm_tests::cannot_run(&format!("{program}: {error}"));
            false
        }
    }
}

#[test]
fn containerd_runs_what_is_installed() {
    if !there_is("containerd") {
        return;
    }
    let host = Host::new();
    let config = host.path("etc/containerd/config.toml");
    let said = host.install(&["--dry-run"]);
    assert!(said.contains("conf.d/rvm.toml") && !config.exists(), "{said}");

    // Theirs, of the version that both generations read.
    fs::write(&config, "version = 2\n[debug]\n  level = 'warn'\n").unwrap();
    host.install(&[]);
    let dumped = host.dump();
    let has_runtime = |dumped: &Ran| dumped.out.contains("runtimes.rvm]") && dumped.out.contains(RUNTIME);
    let level = ["'warn'", "\"warn\""].iter().any(|level| dumped.out.contains(&format!("level = {level}")));
    assert!(has_runtime(&dumped) && level, "{dumped:?}");

    // None yet: it is of the version that this containerd has for its own.
    fs::remove_file(&config).unwrap();
    host.install(&[]);
    let dumped = host.dump();
    assert!(has_runtime(&dumped), "{dumped:?}");
    let written = fs::read_to_string(&config).unwrap();
    let own = dumped.out.lines().find(|line| line.starts_with("version = ")).unwrap();
    assert!(written.lines().any(|line| line == own), "{own}, but {written}");

    let plugins = format!("{own}\ndisabled_plugins = {DISABLED:?}\n");
    fs::write(host.path("etc/containerd/conf.d/test.toml"), plugins).unwrap();
    daemon::registry().unwrap();
    let containerd = Containerd::of_host("installed", host.0.path());
    containerd.said(&["images", "pull", "--local", "--plain-http", BUSYBOX]);
    containerd.said(&["run", "-d", "--runtime", RUNTIME, BUSYBOX, "c1", "sleep", "1000"]);
    let tasks = containerd.said(&["tasks", "ls"]);
    let machine: Vec<_> = tasks.lines().last().unwrap().split_whitespace().collect();
    let program = fs::read_link(Path::new("/proc").join(machine[1]).join("exe")).unwrap();
    assert!(program.ends_with("lib/rvm/rvm"), "{}", program.display());
    containerd.said(&["tasks", "rm", "-f", "c1"]);

    let mut installed = Command::new(host.path("usr/local/lib/rvm/rvm"));
    installed.args(["boot", "--", "true"]);
    assert_eq!(run(installed).status, Some(0));
    host.install(&["--uninstall"]);
    assert!(
        !host.path("usr/local/lib/rvm").exists() && !host.path("etc/containerd/conf.d/rvm.toml").exists()
    );
}

#[test]
fn docker_knows_what_is_installed_by_its_short_name() {
    let Some(docker) = Docker::new() else { return };
    if !artifact::in_lab() {
        return rvm_tests::cannot_run("this machine's Docker is not the test's to configure");
    }
    let host = Host::new();
    host.install(&[]);
    let written = host.path("etc/docker/daemon.json");
    let mut validate = Command::new("dockerd");
    validate.args(["--validate", "--config-file"]).arg(&written);
    let ran = run(validate);
    assert_eq!(ran.status, Some(0), "{ran:?}");

    // A Docker that runs takes new runtimes when it is told to look.
    let daemon: i32 = fs::read_to_string("/run/rvm-tests/dockerd.pid").unwrap().parse().unwrap();
    fs::create_dir_all("/etc/docker").unwrap();
    fs::copy(&written, "/etc/docker/daemon.json").unwrap();
    kill(Pid::from_raw(daemon), Signal::SIGHUP).unwrap();
    docker.until(&["info", "--format", "{{json .Runtimes}}"], |runtimes| runtimes.contains("\"rvm\""));
    let ran =
        docker.try_to(&["run", "--rm", "--runtime", "rvm", crate::docker::place::BUSYBOX, "uname", "-r"]);
    assert!(ran.status == Some(0) && ran.out.starts_with("6.12"), "{ran:?}");
    fs::remove_file("/etc/docker/daemon.json").unwrap();
}
