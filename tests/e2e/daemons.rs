//! The callers that rvm is made for come up in the lab: containerd and Docker.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::Command;

use rvm_tests::daemon::{self, Error};

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    text
}

#[test]
fn containerd_answers_with_its_version() {
    match daemon::containerd() {
        Err(error @ Error::NotHere { .. }) => return rvm_tests::cannot_run(&error.to_string()),
        other => other.unwrap(),
    }
    let text = output_of("ctr", &["version"]);
    let server = text.split_once("Server:").unwrap().1;
    assert!(server.contains("Version:"), "{text}");
}

#[test]
fn docker_answers_with_its_version() {
    match daemon::docker() {
        Err(error @ Error::NotHere { .. }) => return rvm_tests::cannot_run(&error.to_string()),
        other => other.unwrap(),
    }
    let version = output_of("docker", &["version", "--format", "{{.Server.Version}}"]);
    assert!(version.trim().split('.').count() >= 3, "{version}");
}

#[test]
fn the_registry_has_the_images_in_layers_that_they_share() {
    match daemon::registry() {
        Err(error @ Error::NotHere { .. }) => return rvm_tests::cannot_run(&error.to_string()),
        other => other.unwrap(),
    }
    let layers = |image: &str| -> Vec<String> {
        let reference = format!("docker://{}/{image}", daemon::REGISTRY);
        let manifest = output_of("skopeo", &["inspect", "--raw", "--tls-verify=false", &reference]);
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
    };
    let base = layers("debian");
    assert_eq!(base.len(), 1);
    for image in ["python", "nginx", "httpd", "postgres"] {
        let layers = layers(image);
        assert_eq!((layers.len(), layers.first()), (2, base.first()), "{image}: {layers:?}");
    }
    assert_eq!(layers("alpine"), layers("busybox"));
}
