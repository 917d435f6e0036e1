//! Many containers at once.

use std::thread;

use super::place::Place;

#[test]
fn ten_containers_at_once_have_their_output_and_leave_nothing() {
    let Some(place) = Place::new("many") else { return };
    let one = |number: i32| {
        let script = format!("echo {number}; exit {number}");
        let ran = place.container(&[], &format!("c{number}"), &["sh", "-c", &script]);
        assert_eq!((ran.status, ran.out.trim_end()), (Some(number), number.to_string().as_str()), "{ran:?}");
    };
    thread::scope(|scope| {
        for number in 0..10 {
            scope.spawn(move || one(number));
        }
    });
    place.leaves_nothing();
}
