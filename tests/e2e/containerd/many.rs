//! Many containers at once, and fifty in all. Ten at a time is a test of its own: the emulation that the lab is made of loses
//! one guest in some hundreds.

use super::place::{BUSYBOX, Place, RUNTIME};
use crate::process::Running;

#[test]
fn ten_containers_at_once_have_their_output_and_leave_nothing() {
    ten_at_once("many1");
}

#[test]
fn the_second_ten_leave_nothing() {
    ten_at_once("many2");
}

#[test]
fn the_third_ten_leave_nothing() {
    ten_at_once("many3");
}

#[test]
fn the_fourth_ten_leave_nothing() {
    ten_at_once("many4");
}

#[test]
fn the_fifth_ten_leave_nothing() {
    ten_at_once("many5");
}

fn ten_at_once(namespace: &'static str) {
    let Some(place) = Place::new(namespace) else { return };
    let start = |number: i32| {
        let id = format!("c{number}");
        let script = format!("echo {number}; exit {number}");
        Running::start(place.ctr(&["run", "--rm", "--runtime", RUNTIME, BUSYBOX, &id, "sh", "-c", &script]))
    };
    let running: Vec<_> = (0..10).map(|number| (number, start(number))).collect();
    for (number, container) in running {
        let ran = container.end();
        assert_eq!((ran.status, ran.out.trim_end()), (Some(number), number.to_string().as_str()), "{ran:?}");
    }
    place.leaves_nothing();
}
