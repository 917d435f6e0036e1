//! `ctr run --log-uri`: output to a file, or to a logging program.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::place::Place;

/// A logging program: what it was given, the outputs, and a word when it has read both to their end, are files beside it.
const LOGGER: &str = r#"#!/bin/sh
exec >"$1/$CONTAINER_ID.given"
echo "$CONTAINER_NAMESPACE $CONTAINER_ID $COLOUR $*"
exec 5>&-
cat <&3 >"$1/$CONTAINER_ID.out" &
cat <&4 >"$1/$CONTAINER_ID.error"
wait
# Who runs a container without leaving anything reads all of it afterwards.
sleep 1
echo whole
"#;

/// Puts the program into a directory; gives its address.
fn logger(directory: &Path) -> String {
    let path = directory.join("logger");
    fs::write(&path, LOGGER).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    // `$1` is the first parameter's name.
    let encoded = directory.to_str().unwrap().replace('/', "%2F");
    format!("binary://{}?{encoded}=two+words&env.COLOUR=blue", path.display())
}

#[test]
fn a_file_has_the_output_of_all_who_are_given_it() {
    let Some(place) = Place::new("logfile") else { return };
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("of/containers.log");
    let uri = format!("file://{}", log.display());
    let ran =
        place.container(&["--log-uri", &uri], "c1", &["sh", "-c", "echo first; echo error >&2; exit 5"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(5), ""), "{ran:?}");
    let text = fs::read_to_string(&log).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    // Two streams have no order between them.
    lines.sort_unstable();
    assert_eq!(lines, ["error", "first"]);
    let ran = place.container(&["--log-uri", &uri], "c2", &["echo", "second"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(fs::read_to_string(&log).unwrap(), text + "second\n");
    place.leaves_nothing();
}

#[test]
fn a_logging_program_has_all_of_the_output_before_the_container_is_gone() {
    let Some(place) = Place::new("logger") else { return };
    let directory = tempfile::tempdir().unwrap();
    let uri = logger(directory.path());
    let file = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    let given = |id: &str| format!("logger {id} blue {} two words\nwhole\n", directory.path().display());
    let script = "seq 50000; echo error >&2; exit 4";
    let ran = place.container(&["--log-uri", &uri], "c1", &["sh", "-c", script]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(4), ""), "{ran:?}");
    assert_eq!(file("c1.given"), given("c1"));
    assert_eq!((file("c1.out").lines().count(), file("c1.error").as_str()), (50_000, "error\n"));

    // Of an exec it is one of its own.
    place.detached(&["--log-uri", &uri], "c2", &["sh", "-c", "echo up; exec sleep 1000"]);
    let ran = place.run(&["tasks", "exec", "--exec-id", "e1", "--log-uri", &uri, "c2", "echo", "in"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!((file("e1.given"), file("e1.out")), (given("e1"), "in\n".to_owned()));
    assert_eq!(file("c2.out"), "up\n");
    place.remove("c2");
    assert_eq!(file("c2.given"), given("c2"));
    place.leaves_nothing();
}

#[test]
fn a_logging_program_that_is_none_is_named_and_nothing_is_left() {
    let Some(place) = Place::new("nologger") else { return };
    for (uri, words) in [
        ("binary:///no/such/logger", "cannot start the logging program '/no/such/logger'"),
        ("binary:///bin/false", "it ended before it was ready: exit status: 1"),
        ("journal:///c1", "rvm does not support streams by 'journal://'"),
    ] {
        let ran = place.container(&["--log-uri", uri], "c1", &["true"]);
        assert!(ran.status != Some(0) && ran.error.contains(words), "{ran:?}");
    }
    place.leaves_nothing();
}
