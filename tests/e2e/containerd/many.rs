//! Many containers, one after the other and at once.

use std::process::Stdio;

use super::place::{BUSYBOX, Place, RUNTIME};
use crate::process::Running;

#[test]
fn fifty_containers_ten_at_a_time_have_their_output_and_leave_nothing() {
    let Some(place) = Place::new("many") else { return };
    for round in 0..5 {
        let start = |number: i32| {
            let id = format!("c{number}");
            let script = format!("echo {round} {number}; exit {number}");
            let mut command =
                place.ctr(&["run", "--rm", "--runtime", RUNTIME, BUSYBOX, &id, "sh", "-c", &script]);
            command.stdin(Stdio::null());
            Running::start(command)
        };
        let running: Vec<_> = (0..10).map(start).collect();
        for (number, container) in running.into_iter().enumerate() {
            let ran = container.end();
            let status = i32::try_from(number).ok();
            assert_eq!(
                (ran.status, ran.out.trim_end()),
                (status, format!("{round} {number}").as_str()),
                "{ran:?}"
            );
        }
        place.leaves_nothing();
    }
}
