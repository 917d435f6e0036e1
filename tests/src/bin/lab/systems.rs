//! The systems that labs have, and which tests run in more than one of them.

use serde::{Deserialize, Serialize};

use crate::protocol::Test;
use crate::test::{CASES, E2E};

/// The system of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum System {
    /// Debian testing, with containerd 2 and Docker 28: every test runs there.
    Testing,
    /// Debian stable, with containerd 1.7 and Docker 26: the tests of [`ON_STABLE`] run there, too.
    Stable,
}

/// The end-to-end tests that run on Debian stable as well: those whose names contain one of these. They are where
/// those versions treat a shim in another way: how it is started and found (alone, for a pod, by a containerd that was started
/// again), given options and its configuration; version 2 of the task service, with its events; what becomes of a task
/// whose Create or Start failed; and Docker's network, which comes by a hook. What is the guest's or the VMM's alone is the
/// same on both, and what those versions do not have (sandboxes, erofs) cannot run there.
const ON_STABLE: [&str; 18] = [
    "containerd::run::a_configuration_is_obeyed",
    "containerd::run::a_container_has_its_output_and_status",
    "containerd::run::a_program_that_is_not_there",
    "containerd::run::a_terminal_is_one",
    "containerd::tasks::",
    "containerd::files::snapshotters",
    "containerd::files::files_and_directories",
    "containerd::network::cni_plugins",
    "containerd::ends::a_guest_that_does_not_boot",
    "containerd::ends::a_killed_shim",
    "containerd::restart::",
    "containerd::install::",
    "docker::run::",
    "docker::life::a_container_lives_and_ends",
    "docker::life::files_outlive",
    "docker::network::a_published_port",
    "docker::network::on_a_users_network",
    "docker::network::without_a_network",
];

/// The same of the harness's own material.
const CASES_ON_STABLE: [&str; 1] = ["system::"];

impl System {
    pub const ALL: [Self; 2] = [Self::Testing, Self::Stable];

    /// The lab's image (`tests/lab`) with this system.
    pub fn image(self) -> &'static str {
        match self {
            Self::Testing => "host",
            Self::Stable => "stable",
        }
    }

    /// What stands behind the suite in the name of a test that runs there.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Testing => "",
            Self::Stable => "-stable",
        }
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Testing => "Debian testing",
            Self::Stable => "Debian stable",
        })
    }
}

/// Of the tests of a target, with whether each is marked `#[ignore]`: those that run on Debian stable as well, and what in
/// the list of them names no test.
pub fn on_stable(target: &str, listed: &[(Test, bool)]) -> (Vec<(Test, bool)>, Vec<&'static str>) {
    let filters: &'static [&'static str] = match target {
        E2E => &ON_STABLE,
        CASES => &CASES_ON_STABLE,
        _ => &[],
    };
    let has = |filter: &str| listed.iter().any(|(test, _)| test.name.contains(filter));
    let nameless = filters.iter().copied().filter(|filter| !has(filter)).collect();
    let named = |test: &Test| filters.iter().any(|filter| test.name.contains(filter));
    let there = |(test, ignored): &(Test, bool)| (Test { system: System::Stable, ..test.clone() }, *ignored);
    (listed.iter().filter(|(test, _)| named(test)).map(there).collect(), nameless)
}

#[cfg(test)]
mod tests {
    use super::{CASES, CASES_ON_STABLE, System, on_stable};
    use crate::protocol::Test;

    fn test(name: &str) -> (Test, bool) {
        let test = Test {
            suite: "cases".into(),
            program: "/program".into(),
            directory: "/".into(),
            name: name.into(),
            system: System::Testing,
        };
        (test, false)
    }

    #[test]
    fn what_the_list_names_runs_on_stable_under_a_name_of_its_own() {
        let (there, nameless) =
            on_stable(CASES, &[test("system::one"), test("lab::two"), test("system::three")]);
        let names: Vec<_> = there.iter().map(|(test, _)| test.full_name()).collect();
        assert_eq!(names, ["cases-stable system::one", "cases-stable system::three"]);
        assert!(nameless.is_empty(), "{nameless:?}");
    }

    #[test]
    fn what_the_list_names_and_nobody_has_is_told() {
        let (there, nameless) = on_stable(CASES, &[test("lab::two")]);
        assert_eq!((there, nameless), (vec![], CASES_ON_STABLE.into()));
        assert_eq!(on_stable("another", &[test("system::one")]), (vec![], vec![]));
    }
}
