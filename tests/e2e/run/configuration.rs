//! What an image says of how it is run, and the flags that say otherwise.

use std::fs;

use super::place::{Place, image};

#[test]
fn an_images_configuration_holds_until_a_flag_says_otherwise() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    let run = |arguments: &[&str]| place.said(&[&["run", "--rm", "--network", "none"], arguments].concat());

    // Without a command it is the image's: a shell, without input.
    assert_eq!(run(&[&busybox]), "");
    assert_eq!(run(&["--entrypoint", "echo", &busybox, "as", "told"]), "as told\n");
    assert_eq!(run(&["-w", "/tmp", &busybox, "pwd"]), "/tmp\n");
    assert_eq!(run(&["-u", "nobody", &busybox, "id", "-u"]), "65534\n");
    let id = run(&["-u", "1000:2000", "--group-add", "3000", &busybox, "sh", "-c", "id -u; id -g; id -G"]);
    assert_eq!(id, "1000\n2000\n2000 3000\n");
    let hostname =
        run(&["--hostname", "box", &busybox, "sh", "-c", "hostname; cat /etc/hostname; echo $HOSTNAME"]);
    assert_eq!(hostname, "box\nbox\nbox\n");
}

#[test]
fn the_environment_is_the_images_the_files_and_the_flags() {
    let place = Place::with(&["busybox"]);
    let file = place.path("work/variables");
    fs::write(&file, "# a comment\n\nFILE=of the file\nBOTH=file\nPASSED\n").unwrap();
    let mut command = place.rvm(&["run", "--rm", "--network", "none"]);
    command.args([
        "--env-file",
        file.to_str().unwrap(),
        "-e",
        "BOTH=flag",
        "-e",
        "ALSO_PASSED",
        "-e",
        "EMPTY=",
    ]);
    command.args([image("busybox").as_str(), "env"]);
    command.env("PASSED", "from here").env("ALSO_PASSED", "too").env("SECRET", "stays here");
    let ran = crate::process::run(command);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    for expected in ["FILE=of the file", "BOTH=flag", "PASSED=from here", "ALSO_PASSED=too", "EMPTY="] {
        assert!(lines.contains(&expected), "{expected}: {lines:?}");
    }
    assert!(lines.iter().any(|line| line.starts_with("PATH=/usr/local/sbin:")), "{lines:?}");
    assert!(!ran.out.contains("SECRET"), "{lines:?}");
}
