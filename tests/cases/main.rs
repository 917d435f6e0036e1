//! Tests that go wrong on purpose, in every way a test can, and some that take the lab with them. They are the
//! material of the harness's own test (`tests/harness`), which runs them by name and looks at what is reported;
//! nothing else runs them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

/// What is done to the lab itself is never done to somebody's machine.
fn only_in_the_lab() {
    assert!(rvm_tests::artifact::in_lab(), "this would take down the machine it runs on");
}

mod outcome {
    use std::process::Command;

    #[test]
    fn passes() {}

    #[test]
    fn fails() {
        println!("the words before the failure");
        assert_eq!(1 + 1, 3, "arithmetic still works");
    }

    #[test]
    fn never_ends() {
        println!("the words before the wait");
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn cannot_run() {
        rvm_tests::cannot_run("there is no such machine");
    }

    #[test]
    fn fails_after_saying_that_it_cannot_run() {
        rvm_tests::cannot_run("an excuse");
        panic!("and then it failed");
    }

    #[test]
    fn leaves_before_it_has_a_result() {
        std::process::exit(0);
    }

    #[test]
    fn dies_of_a_signal() {
        std::process::abort();
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "what the runner does with a child left behind is the point")]
    fn leaves_a_child_that_holds_its_output() {
        Command::new("sleep").arg("100000").spawn().unwrap();
    }

    #[test]
    fn writes_more_than_anybody_reads() {
        println!("the first line");
        for _ in 0..4096 {
            println!("{}", "x".repeat(1023));
        }
        panic!("the last line");
    }
}

/// The one trips over what the other left in the lab; alone, it passes.
mod together {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    const LEFT_BEHIND: &str = "/run/rvm-case";

    #[test]
    fn leaves_something_behind() {
        super::only_in_the_lab();
        fs::write(LEFT_BEHIND, "").unwrap();
    }

    #[test]
    fn trips_over_it() {
        super::only_in_the_lab();
        for _ in 0..150 {
            assert!(!Path::new(LEFT_BEHIND).exists(), "what is this?");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// It runs in a lab of each system, and fails in that of Debian stable.
mod system {
    #[test]
    fn is_debian_testing() {
        let release = std::fs::read_to_string("/etc/os-release").unwrap();
        assert!(release.contains("VERSION_CODENAME=forky"), "{release}");
    }
}

mod lab {
    use std::fs;
    use std::os::unix::process::parent_id;
    use std::process::Command;

    fn signal_the_runner(signal: &str) {
        super::only_in_the_lab();
        let status = Command::new("kill").args([signal, &parent_id().to_string()]).status().unwrap();
        assert!(status.success());
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn panics_the_kernel() {
        super::only_in_the_lab();
        fs::write("/proc/sysrq-trigger", "c").unwrap();
        panic!("the lab's kernel is still there");
    }

    #[test]
    fn kills_the_runner() {
        signal_the_runner("-KILL");
    }

    #[test]
    fn stops_the_runner() {
        signal_the_runner("-STOP");
    }
}
