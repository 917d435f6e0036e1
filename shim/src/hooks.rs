//! Hooks of the OCI runtime specification that run on the host: `prestart` and `createRuntime` before the container is
//! created, `poststart` behind its start, `poststop` behind its end. Docker before 28 connects a container to its network
//! by one, and so does nerdctl. Those that run inside the container (`createContainer`, `startContainer`) are the guest's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::ShimError;
use crate::place::gone;

/// A hook without a limit of its own may take so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the names of programs begin that are hooks for GPUs.
const GPU_HOOKS: [&str; 3] = ["nvidia-container-", "nvidia-ctk", "nvidia-cdi-hook"];

/// Of what a hook that failed wrote, in bytes from the end.
const WORDS: usize = 1024;

/// The file in a bundle that is there as long as `poststop` hooks have to run for its container.
const OWED: &str = "poststop";

/// The hooks of a container that run on the host.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Before the container is created; the older name.
    prestart: Vec<Hook>,
    /// Before the container is created.
    create_runtime: Vec<Hook>,
    /// Behind its start.
    poststart: Vec<Hook>,
    /// Behind its removal.
    poststop: Vec<Hook>,
    /// The container's, which hooks are told: those of nerdctl find their container by them.
    #[serde(skip)]
    annotations: Value,
}

/// A program of the host.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Hook {
    path: PathBuf,
    /// With its own name first.
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    /// Seconds.
    timeout: Option<u64>,
}

/// When hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The container is being created.
    Creating,
    /// It runs.
    Running,
    /// It is gone.
    Stopped,
}

/// Whom hooks are told about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The container.
    pub id: &'a str,
    /// Its process on the host, whose namespaces hooks look at: the VMM; `None` when it is gone.
    pub pid: Option<u32>,
    /// Its bundle.
    pub bundle: &'a Path,
}

impl Hooks {
    /// Refuses hooks that would give the container a device of the host: those of NVIDIA's toolkit, by which `docker run --gpus`
    /// and `ctr run --gpus` do so. They would find the VMM's files in place of the container's.
    pub fn refuse_gpus(&self) -> Result<(), ShimError> {
        let lists = [&self.prestart, &self.create_runtime, &self.poststart, &self.poststop];
        for hook in lists.into_iter().flatten() {
            let words = hook.args.iter().map(Path::new).chain([hook.path.as_path()]);
            let mut names = words.filter_map(|word| word.file_name()?.to_str());
            if names.any(|name| GPU_HOOKS.iter().any(|begin| name.starts_with(begin))) {
                return Err(ShimError::Unsupported {
                    what: format!("GPUs of the host in a container (the hook '{}')", hook.path.display()),
                    reason: "a virtual machine has no way to them; leave out `--gpus`",
                });
            }
        }
        Ok(())
    }

    /// With the annotations of the container.
    pub fn with_annotations(self, annotations: &Value) -> Self {
        Self { annotations: annotations.clone(), ..self }
    }

    /// From now on those behind the container's removal have to run, whatever becomes of the container and of the shim.
    pub fn owe(&self, bundle: &Path) -> Result<(), ShimError> {
        if self.poststop.is_empty() {
            return Ok(());
        }
        let path = bundle.join(OWED);
        fs::write(&path, "").map_err(ShimError::path("write", path))
    }

    /// Runs those that have to run yet behind the removal of the container `id`.
    pub async fn settle(&self, id: &str, bundle: &Path) -> Result<(), ShimError> {
        let path = bundle.join(OWED);
        if !path.exists() {
            return Ok(());
        }
        let ran = self.run(Moment::Stopped, Subject { id, pid: None, bundle }).await;
        // Only now: twice is better than never.
        gone(fs::remove_file(&path)).map_err(ShimError::path("remove", path))?;
        ran
    }

    /// Runs those of this moment, one after the other. The first failure is the error; before the container is there, nothing
    /// runs after it.
    pub async fn run(&self, moment: Moment, subject: Subject<'_>) -> Result<(), ShimError> {
        let (status, lists) = match moment {
            Moment::Creating => ("creating", [self.prestart.as_slice(), &self.create_runtime]),
            Moment::Running => ("running", [self.poststart.as_slice(), &[]]),
            Moment::Stopped => ("stopped", [self.poststop.as_slice(), &[]]),
        };
        let mut state = json!({
            "ociVersion": "1.2.0",
            "id": subject.id,
            "status": status,
            "bundle": subject.bundle,
        });
        if let Some(pid) = subject.pid {
            state["pid"] = pid.into();
        }
        if self.annotations.is_object() {
            state["annotations"] = self.annotations.clone();
        }
        let mut all = Ok(());
        for hook in lists.concat() {
            let patience = hook.timeout.map_or(PATIENCE, Duration::from_secs);
            let ran = timeout(patience, hook.run(state.to_string().as_bytes(), subject.bundle)).await;
            let ran = ran.unwrap_or_else(|_| {
                Err(io::Error::other(format!("it took longer than {} s", patience.as_secs())))
            });
            all = all.and(ran.map_err(ShimError::path("run the hook", &hook.path)));
            if all.is_err() && moment == Moment::Creating {
                break;
            }
        }
        all
    }
}

impl Hook {
    /// Runs it; `state` is its standard input.
    async fn run(&self, state: &[u8], bundle: &Path) -> io::Result<()> {
        let mut command = Command::new(&self.path);
        let (name, arguments) = self.args.split_first().unzip();
        if let Some(name) = name {
            command.arg0(name);
        }
        command.args(arguments.unwrap_or_default()).env_clear().current_dir(bundle).kill_on_drop(true);
        command.envs(self.env.iter().filter_map(|variable| variable.split_once('=')));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // A hook need not read it.
            input.write_all(state).await.ok();
        }
        let output = child.wait_with_output().await?;
        if output.status.success() {
            return Ok(());
        }
        let words = output.stderr.get(output.stderr.len().saturating_sub(WORDS)..).unwrap_or_default();
        Err(io::Error::other(format!("{}: {}", output.status, String::from_utf8_lossy(words).trim())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;
    use tokio::runtime::Builder;

    fn run(hooks: &serde_json::Value, bundle: &Path, moment: Moment) -> Result<(), ShimError> {
        let hooks: Hooks = serde_json::from_value(hooks.clone()).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let hooks = hooks.with_annotations(&json!({ "of": "c1" }));
        runtime.block_on(hooks.run(moment, Subject { id: "c1", pid: Some(42), bundle }))
    }

    #[test]
    fn hooks_run_in_order_in_the_bundle_and_are_told_the_state() {
        let bundle = tempfile::tempdir().unwrap();
        let shell =
            |script: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WORD=second"] });
        let hooks = json!({
            "createRuntime": [shell("echo $WORD ${HOME-none} >>said")],
            "prestart": [shell("cat >state; echo first >>said")],
            "poststop": [shell("echo stopped >>said")],
        });
        run(&hooks, bundle.path(), Moment::Creating).unwrap();
        run(&hooks, bundle.path(), Moment::Running).unwrap();
        run(&hooks, bundle.path(), Moment::Stopped).unwrap();
        let read = |name: &str| std::fs::read_to_string(bundle.path().join(name)).unwrap();
        assert_eq!(read("said"), "first\nsecond none\nstopped\n");
        let state: serde_json::Value = serde_json::from_str(&read("state")).unwrap();
        assert_eq!(
            (&state["pid"], &state["id"], &state["status"]),
            (&json!(42), &json!("c1"), &json!("creating"))
        );
        assert_eq!(state["annotations"], json!({ "of": "c1" }));
    }

    #[test]
    fn hooks_behind_the_removal_run_once_and_all_and_only_of_a_container_that_was_begun() {
        let bundle = tempfile::tempdir().unwrap();
        let shell = |script: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
        let list = [shell("cat >>state; exit 3"), shell("echo stopped >>said")];
        let hooks: Hooks = serde_json::from_value(json!({ "poststop": list })).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let settle = || runtime.block_on(hooks.settle("c1", bundle.path()));
        let said = || std::fs::read_to_string(bundle.path().join("said")).unwrap_or_default();
        settle().unwrap();
        assert_eq!(said(), "");
        hooks.owe(bundle.path()).unwrap();
        let error = crate::error::chain(&settle().unwrap_err());
        assert!(error.contains("exit status: 3"), "{error}");
        settle().unwrap();
        assert_eq!(said(), "stopped\n");
        let state = std::fs::read_to_string(bundle.path().join("state")).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        assert_eq!((&state["status"], state.get("pid")), (&json!("stopped"), None));

        Hooks::default().owe(bundle.path()).unwrap();
        assert!(!bundle.path().join(OWED).exists());
    }

    #[test]
    fn a_hook_that_fails_or_does_not_end_is_the_error() {
        let bundle = tempfile::tempdir().unwrap();
        let hooks =
            json!({ "prestart": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"] }] });
        let error = crate::error::chain(&run(&hooks, bundle.path(), Moment::Creating).unwrap_err());
        assert!(error.contains("/bin/sh") && error.contains("exit status: 3: why"), "{error}");
        let hooks =
            json!({ "prestart": [{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 0 }] });
        let error = crate::error::chain(&run(&hooks, bundle.path(), Moment::Creating).unwrap_err());
        assert!(error.contains("longer than 0 s"), "{error}");
    }

    #[test]
    fn hooks_for_gpus_are_refused_and_others_are_not() {
        let refused = |hook: serde_json::Value| {
            let hooks: Hooks = serde_json::from_value(json!({ "prestart": [hook] })).unwrap();
            hooks.refuse_gpus().err().map(|error| error.to_string())
        };
        // As Docker has it, and as containerd's client has it.
        let docker = json!({ "path": "/usr/bin/nvidia-container-runtime-hook",
            "args": ["nvidia-container-runtime-hook", "prestart"], "env": ["NVIDIA_VISIBLE_DEVICES=all"] });
        let ctr = json!({ "path": "/usr/bin/containerd",
            "args": ["containerd", "oci-hook", "--", "/usr/bin/nvidia-container-cli", "--load-kmods"] });
        for hook in [docker, ctr] {
            assert!(refused(hook.clone()).unwrap().contains("GPUs of the host"), "{hook}");
        }
        let network =
            json!({ "path": "/proc/7/exe", "args": ["libnetwork-setkey", "-exec-root=/var/run/docker"] });
        assert_eq!(refused(network), None);
    }
}
