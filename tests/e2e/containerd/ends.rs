//! Ends that nobody asked for.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::{Place, RUNTIME, logged, parent};

#[test]
fn a_killed_shim_takes_its_machine_along_and_leaves_nothing() {
    let Some(place) = Place::new("deadshim") else { return };
    place.detached(&[], "c1", &["sleep", "1000"]);
    let vmm = place.task("c1").0;
    kill(Pid::from_raw(parent(vmm)), Signal::SIGKILL).unwrap();
    place.leaves_nothing();
    place.said(&["containers", "rm", "c1"]);
}

/// The agent cannot be killed from outside: it is the guest's first process, whose end is a panic of the guest's kernel, as this
/// is. From inside it is in [`super::cri`].
#[test]
fn a_guest_that_dies_is_the_end_of_its_container() {
    let Some(place) = Place::new("deadguest") else { return };
    let script = "mount -o remount,rw /proc; echo c >/proc/sysrq-trigger; sleep 1000";
    let ran = place.container(&["--privileged"], "dead-guest", &["sh", "-c", script]);
    assert_eq!(ran.status, Some(137), "{ran:?}");
    let line = logged(
        "dead-guest",
        "the container counts as killed: the guest's kernel panicked while the guest ran",
    );
    assert!(line.contains("Kernel panic - not syncing: sysrq triggered crash"), "{line}");
    assert!(line.starts_with("level=warning ") && line.ends_with(" container=dead-guest"), "{line}");
    place.leaves_nothing();
}

/// An agent that is stopped, or a kernel that hangs, is from outside what a VMM is that is stopped.
#[test]
fn a_guest_that_hangs_is_listed_and_removed_by_force() {
    let Some(place) = Place::new("hungguest") else { return };
    place.detached(&[], "c1", &["sleep", "1000"]);
    let vmm = place.task("c1").0;
    kill(Pid::from_raw(vmm), Signal::SIGSTOP).unwrap();
    assert_eq!(place.task("c1").1, "RUNNING");
    let ran = place.run(&["--timeout", "1s", "tasks", "exec", "--exec-id", "e1", "c1", "true"]);
    assert!(ran.status != Some(0) && ran.error.contains("deadline exceeded"), "{ran:?}");
    place.remove("c1");
    place.leaves_nothing();
}

#[test]
fn a_guest_that_does_not_boot_is_told_with_its_last_words() {
    let Some(place) = Place::new("noboot") else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rvm.toml");
    std::fs::write(&path, "kernel-parameters = \"rdinit=/no/such/init\"\n").unwrap();
    let ran = place.container(&["--runtime-config-path", path.to_str().unwrap()], "c1", &["true"]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let phase = "the guest's kernel panicked while the guest's kernel booted";
    assert!(ran.error.contains(phase) && ran.error.contains("Kernel panic - not syncing: "), "{ran:?}");
    place.leaves_nothing();
}

#[test]
fn what_the_host_cannot_give_is_the_error_of_the_container() {
    let Some(place) = Place::new("nogift") else { return };
    let directory = tempfile::tempdir().unwrap();
    let full = directory.path().join("full");
    std::fs::create_dir(&full).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "full"]).arg(&full).status();
    assert!(mounted.unwrap().success());
    let mount = format!("type=bind,src={},dst=/full,options=rbind:rw", full.display());
    let script = "dd if=/dev/zero of=/full/file bs=64k count=1";
    let ran = place.container(&["--mount", &mount], "c1", &["sh", "-c", script]);
    assert!(Command::new("umount").arg(&full).status().unwrap().success());
    assert!(ran.status == Some(1) && ran.error.contains("No space left on device"), "{ran:?}");

    let mount = format!("type=bind,src={},dst=/fixed,options=rbind:ro", directory.path().display());
    let ran = place.container(&["--mount", &mount], "c1", &["touch", "/fixed/file"]);
    assert!(ran.status == Some(1) && ran.error.contains("Read-only file system"), "{ran:?}");

    let missing =
        format!("type=bind,src={}/missing,dst=/missing,options=rbind:ro", directory.path().display());
    let ran = place.container(&["--mount", &missing], "c1", &["true"]);
    assert!(ran.status == Some(1) && ran.error.contains("/missing"), "{ran:?}");

    // containerd's own limit is 76 characters; this one is the file system's.
    let long = format!("type=bind,src=/etc,dst=/{},options=rbind:ro", "x".repeat(300));
    let ran = place.container(&["--mount", &long], "c1", &["true"]);
    assert!(ran.status == Some(1) && ran.error.contains("name too long"), "{ran:?}");
    let ran = place.container(&[], &"x".repeat(77), &["true"]);
    assert!(ran.status == Some(1) && ran.error.contains("76"), "{ran:?}");
    let ran =
        place.run(&["run", "--rm", "--runtime", RUNTIME, "localhost:5000/missing:latest", "c1", "true"]);
    assert!(ran.status == Some(1) && ran.error.contains("not found"), "{ran:?}");
    place.leaves_nothing();
}

#[test]
fn a_killed_machine_is_the_end_of_its_container() {
    let Some(place) = Place::new("deadvmm") else { return };
    place.detached(&[], "dead-vmm", &["sleep", "1000"]);
    let vmm = place.task("dead-vmm").0;
    kill(Pid::from_raw(vmm), Signal::SIGKILL).unwrap();
    place.wait_for("dead-vmm", "STOPPED");
    let ran = place.run(&["tasks", "rm", "dead-vmm"]);
    assert!(ran.error.contains("non-zero exit code 137"), "{ran:?}");
    let reason = "the VMM failed while the guest ran: its process is gone (killed?)";
    logged("dead-vmm", &format!("the container counts as killed: {reason}"));
    place.said(&["containers", "rm", "dead-vmm"]);
    place.leaves_nothing();
}
