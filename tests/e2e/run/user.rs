//! rvm as an ordinary user who may use /dev/kvm.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use rvm_tests::artifact;

use super::place::{Place, image};
use crate::process::run;

const USER: u32 = 4242;

/// The group of those who may use /dev/kvm; the lab, which has no such users, gets one.
fn group_of_kvm() -> u32 {
    let device = "/dev/kvm";
    if artifact::in_lab() {
        chown(device, None, Some(USER)).unwrap();
        fs::set_permissions(device, fs::Permissions::from_mode(0o660)).unwrap();
    }
    fs::metadata(device).unwrap().gid()
}

#[test]
fn an_ordinary_user_runs_containers_and_owns_what_they_write() {
    let place = Place::empty();
    for part in ["run", "data", "work"] {
        chown(place.path(part), Some(USER), Some(USER)).unwrap();
    }
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let group = group_of_kvm().to_string();
    let user = USER.to_string();
    let as_user = |arguments: &[&str]| {
        let rvm = place.rvm(arguments);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--groups", &group, "--inh-caps=-all", "--"]);
        command.arg(rvm.get_program()).args(rvm.get_args()).current_dir(place.path("work"));
        command.envs(rvm.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("RVM_LOG");
        run(command)
    };
    let busybox = image("busybox");
    let ran =
        as_user(&["run", "--rm", "-v", ".:/data", &busybox, "sh", "-c", "id -u; echo mine >/data/file"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(0), "0\n"), "{ran:?}");
    // It may say that there is no network, and no more than that.
    assert!(
        ran.error.lines().all(|line| line.contains("network")) && ran.error.lines().count() <= 1,
        "{ran:?}"
    );
    let metadata = fs::metadata(place.path("work/file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (USER, USER));

    let ran = as_user(&["run", "-d", "--name", "box", "--network", "none", &busybox, "sleep", "1000"]);
    assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(as_user(&["exec", "box", "echo", "hello"]).out, "hello\n");
    assert_eq!(as_user(&["rm", "-f", "box"]).status, Some(0));
    assert_eq!(place.processes(), []);
}
