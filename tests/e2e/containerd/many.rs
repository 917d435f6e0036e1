//! Many containers at once.

use std::thread;

use super::place::Place;

/// Runs a container of this number, which tells it.
fn run(place: &Place, number: i32) {
    let script = format!("echo {number}; exit {number}");
    let ran = place.container(&[], &format!("c{number}"), &["sh", "-c", &script]);
    assert_eq!((ran.status, ran.out.trim_end()), (Some(number), number.to_string().as_str()), "{ran:?}");
}

#[test]
fn ten_containers_at_once_have_their_output_and_leave_nothing() {
    let Some(place) = Place::new("many") else { return };
    let place = &place;
    thread::scope(|scope| {
        for number in 0..10 {
            scope.spawn(move || run(place, number));
        }
    });
    place.leaves_nothing();
}

/// Half of fifty, one after the other.
fn half_of_fifty(namespace: &'static str) {
    let Some(place) = Place::new(namespace) else { return };
    for number in 0..25 {
        run(&place, number);
    }
    place.leaves_nothing();
}

#[test]
fn half_of_fifty_containers_one_after_the_other_leave_nothing() {
    half_of_fifty("fifty");
}

#[test]
fn the_other_half_of_fifty_leaves_nothing() {
    half_of_fifty("other-fifty");
}
