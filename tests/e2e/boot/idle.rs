//! A VM whose guest has nothing to do costs next to nothing.

use std::fs;
use std::thread;
use std::time::Duration;

use rvm_tests::artifact;

use super::run::{Running, boot};

/// How long the VM is looked at.
const WINDOW: Duration = Duration::from_secs(3);

/// What threads had of the processors: nanoseconds, and how often they were let run.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    time: u64,
    turns: u64,
}

/// What the vCPU's threads had so far, and what the others had (`schedstat` in proc(5)): their own time, so that it does not
/// matter what else runs.
fn used(running: &Running) -> [Used; 2] {
    let mut sums = [Used::default(); 2];
    for thread in fs::read_dir(running.proc("task")).unwrap() {
        let thread = thread.unwrap().path();
        let name = fs::read_to_string(thread.join("comm")).unwrap();
        let text = fs::read_to_string(thread.join("schedstat")).unwrap();
        let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let sum = &mut sums[usize::from(!name.starts_with("rvm-vcpu"))];
        sum.time += numbers[0];
        sum.turns += numbers[2];
    }
    sums
}

#[test]
fn an_idle_vm_sleeps() {
    let mut running = Running::ready(boot(&["--", "sh", "-c", "echo idle; exec sleep 1000"]));
    running.out.wait_for("idle");
    let window = || {
        let before = used(&running);
        thread::sleep(WINDOW);
        let after = used(&running);
        [0, 1].map(|kind| Used {
            time: after[kind].time - before[kind].time,
            turns: after[kind].turns - before[kind].turns,
        })
    };
    // A guest has something to do now and then, and more of that shortly after its boot; what never sleeps, or polls, does so
    // in every window.
    let idles = |[vcpu, others]: &[Used; 2]| {
        // Ten a second are less than a timer that ticks, and more than the guest's kernel has; the others have next to none.
        let few = vcpu.turns <= 30 && others.turns <= 5;
        // An emulated processor takes milliseconds for each of them.
        let little = u128::from(vcpu.time + others.time) * 100 < WINDOW.as_nanos();
        few && (little || artifact::in_lab())
    };
    let mut seen = Vec::new();
    while !seen.last().is_some_and(idles) {
        assert!(seen.len() < 5, "it is busy with something: {seen:?}");
        seen.push(window());
    }
}
