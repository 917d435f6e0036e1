//! Ends that nobody asked for.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::{Place, parent};

#[test]
fn a_killed_shim_takes_its_machine_along_and_leaves_nothing() {
    let Some(place) = Place::new("deadshim") else { return };
    place.detached(&[], "c1", &["sleep", "1000"]);
    let vmm = place.task("c1").0;
    kill(Pid::from_raw(parent(vmm)), Signal::SIGKILL).unwrap();
    place.leaves_nothing();
    place.said(&["containers", "rm", "c1"]);
}

#[test]
fn a_killed_machine_is_the_end_of_its_container() {
    let Some(place) = Place::new("deadvmm") else { return };
    place.detached(&[], "c1", &["sleep", "1000"]);
    let vmm = place.task("c1").0;
    kill(Pid::from_raw(vmm), Signal::SIGKILL).unwrap();
    place.wait_for("c1", "STOPPED");
    let ran = place.run(&["tasks", "rm", "c1"]);
    assert!(ran.error.contains("non-zero exit code 137"), "{ran:?}");
    place.said(&["containers", "rm", "c1"]);
    place.leaves_nothing();
}
