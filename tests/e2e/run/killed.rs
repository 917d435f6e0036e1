//! Supervisors and VMMs that are killed with -9: nothing hangs, and nothing is left once the container is removed.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::place::{Place, image};

/// The processes of the only container: supervisor and VMM.
pub fn processes(place: &Place) -> (Pid, Pid) {
    let list: Vec<Value> = serde_json::from_str(&place.said(&["ps", "-a", "--json"])).unwrap();
    let pid = |field: &str| Pid::from_raw(i32::try_from(list[0][field].as_i64().unwrap()).unwrap());
    (pid("supervisor"), pid("vmm"))
}

/// Kills everything that the place runs.
pub fn kill_all(place: &Place) {
    let (supervisor, vmm) = processes(place);
    kill(supervisor, Signal::SIGKILL).unwrap();
    // It may have ended with its supervisor.
    kill(vmm, Signal::SIGKILL).ok();
    place.wait_for_ends();
}

#[test]
fn a_killed_supervisor_takes_its_vm_along() {
    let place = Place::with(&["busybox"]);
    let before = place.traces();
    let mut attached =
        place.start(&["run", "--name", "box", &image("busybox"), "sh", "-c", "echo up; sleep 1000"]);
    attached.out.wait_for("up\n");
    let (supervisor, _) = processes(&place);
    kill(supervisor, Signal::SIGKILL).unwrap();

    let ran = attached.end();
    assert_eq!((ran.status, ran.error.lines().count()), (Some(125), 1), "{ran:?}");
    place.wait_for_ends();
    assert_eq!(place.said(&["ps", "-q"]), "");
    assert!(place.said(&["ps", "-a"]).contains("Exited (137)"));
    assert_eq!(place.said(&["wait", "box"]), "137\n");
    place.refuses(&["exec", "box", "true"], 125, "not running");
    assert_eq!(place.said(&["rm", "box"]), "box\n");
    assert_eq!(place.traces(), before);
}

#[test]
fn the_end_of_a_killed_vmm_is_told_and_the_container_is_over() {
    let place = Place::with(&["busybox"]);
    let before = place.traces();
    let mut attached =
        place.start(&["run", "--name", "box", &image("busybox"), "sh", "-c", "echo up; sleep 1000"]);
    attached.out.wait_for("up\n");
    let (_, vmm) = processes(&place);
    kill(vmm, Signal::SIGKILL).unwrap();

    let ran = attached.end();
    assert_ne!(ran.status, Some(0), "{ran:?}");
    assert!(ran.error.starts_with("rvm: ") && ran.error.lines().count() == 1, "{ran:?}");
    // The supervisor tells of the end before its own.
    place.wait_for_ends();
    assert!(place.said(&["ps", "-a"]).contains("Exited ("));
    assert_eq!(place.said(&["rm", "box"]), "box\n");
    assert_eq!(place.traces(), before);
}

#[test]
fn a_killed_run_leaves_its_container_to_others() {
    let place = Place::with(&["busybox"]);
    let before = place.traces();
    let mut attached =
        place.start(&["run", "--rm", "--name", "box", &image("busybox"), "sh", "-c", "echo up; sleep 1000"]);
    attached.out.wait_for("up\n");
    attached.signal(Signal::SIGKILL);
    assert_eq!(attached.end().status, None);
    assert_eq!(place.said(&["exec", "box", "echo", "still here"]), "still here\n");
    assert_eq!(place.said(&["rm", "-f", "box"]), "box\n");
    place.wait_for_ends();
    assert_eq!(place.traces(), before);
}

#[test]
fn a_guest_that_dies_is_told_with_its_last_words() {
    let place = Place::with(&["busybox"]);
    let before = place.traces();
    let ran = place.run(&[
        "run",
        "--rm",
        "--cap-add",
        "ALL",
        "--security-opt",
        "systempaths=unconfined",
        &image("busybox"),
        "sh",
        "-c",
        "mount -o remount,rw /proc; echo c >/proc/sysrq-trigger; sleep 1000",
    ]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(125), ""), "{ran:?}");
    assert!(ran.error.contains("panic"), "{ran:?}");
    assert_eq!(place.traces(), before);
}
