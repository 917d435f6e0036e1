//! Many containers at once.

use std::thread;

use super::network::has_cni;
use super::place::Place;

/// Runs a container of this number, which tells it. Every fifth has a network.
fn run(place: &Place, number: i32, has_cni: bool) {
    let (flags, check): (&[_], _) = match has_cni && number % 5 == 0 {
        true => (&["--cni"], "ping -c 1 10.179.0.1 >/dev/null || exit 99"),
        false => (&[], ":"),
    };
    let script = format!("{check}; echo {number}; exit {number}");
    let ran = place.container(flags, &format!("c{number}"), &["sh", "-c", &script]);
    assert_eq!((ran.status, ran.out.trim_end()), (Some(number), number.to_string().as_str()), "{ran:?}");
}

#[test]
fn ten_containers_at_once_have_their_output_and_leave_nothing() {
    let Some(place) = Place::new("many") else { return };
    let (place, has_cni) = (&place, has_cni());
    thread::scope(|scope| {
        for number in 0..10 {
            scope.spawn(move || run(place, number, has_cni));
        }
    });
    place.leaves_nothing();
}

/// Half of fifty, one after the other.
fn half_of_fifty(namespace: &'static str) {
    let Some(place) = Place::new(namespace) else { return };
    let has_cni = has_cni();
    for number in 0..25 {
        run(&place, number, has_cni);
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
