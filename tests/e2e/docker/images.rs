//! Images that Docker makes: built by its default builder, pushed to a registry and pulled back, and run by rvm.

use std::process::{Child, Command, Stdio};

use super::place::{Docker, RUNTIME};

/// A registry that takes images, at a port of its own, until the test ends.
struct Registry(Child);

impl Registry {
    fn start(directory: &std::path::Path, address: &str) -> Self {
        let config = directory.join("registry.yml");
        let text = serde_json::json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": directory.join("storage") } },
            "http": { "addr": address },
        });
        std::fs::write(&config, text.to_string()).unwrap();
        let mut registry = Command::new("docker-registry");
        registry.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(registry.spawn().unwrap())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn an_image_is_built_pushed_pulled_and_run() {
    let Some(docker) = Docker::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let _registry = Registry::start(directory.path(), "localhost:5001");
    let context = directory.path().join("context");
    std::fs::create_dir(&context).unwrap();
    let steps = "FROM localhost:5000/busybox\nRUN echo built >/built\nCMD [\"cat\", \"/built\"]\n";
    std::fs::write(context.join("Dockerfile"), steps).unwrap();

    let image = "localhost:5001/rvm-built";
    docker.said(&["build", "--tag", image, context.to_str().unwrap()]);
    docker.until(&["push", "--quiet", image], |pushed| pushed.contains(image));
    docker.said(&["rmi", image]);
    docker.said(&["pull", "--quiet", image]);
    let ran = docker.try_to(&["run", "--rm", "--runtime", RUNTIME, image]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(0), "built\n"), "{ran:?}");
    docker.said(&["rmi", image]);
}
