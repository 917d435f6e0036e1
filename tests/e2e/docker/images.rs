//! Images that Docker makes: built by its default builder, pushed to a registry and pulled back, and run by rvm.

use std::process::{Child, Command, Stdio};

use rvm_tests::daemon;

use super::network::fetch;
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

#[test]
fn what_was_installed_in_a_container_is_in_the_image_made_of_it() {
    const DEBIAN: &str = "localhost:5000/debian";
    let Some(docker) = Docker::with(DEBIAN) else { return };
    let packages = daemon::images().unwrap().join("debs");
    docker.said(&["run", "-d", "--runtime", RUNTIME, "--name", "rvm-installed", DEBIAN, "sleep", "1000000"]);
    docker.said(&["cp", packages.to_str().unwrap(), "rvm-installed:/var/debs"]);
    // Without what is long to write, or to install, and not needed to serve a page.
    let install = "dpkg --path-exclude='/usr/share/*' --force-unsafe-io --force-depends --install /var/debs/*.deb \
        && rm -r /var/debs && echo installed >/srv/index.html && for word in \
        'LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so' \
        'LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so' \
        'ServerName rvm-apache' 'Listen 80' 'DocumentRoot /srv' 'PidFile /run/apache2.pid' 'ErrorLog /dev/stderr'; \
        do echo \"$word\"; done >/etc/apache2.conf";
    docker.exec("rvm-installed", install);
    let serve = r#"CMD ["apache2", "-DFOREGROUND", "-f", "/etc/apache2.conf"]"#;
    docker.said(&["commit", "--change", serve, "rvm-installed", "rvm-apache"]);
    docker.remove(&["rvm-installed"]);
    let run = ["run", "-d", "--runtime", RUNTIME, "--name", "rvm-apache", "-p", "8192:80", "rvm-apache"];
    docker.said(&run);
    assert_eq!(fetch("http://127.0.0.1:8192/index.html"), "installed\n");
    docker.remove(&["rvm-apache"]);
    docker.said(&["rmi", "rvm-apache"]);
}
