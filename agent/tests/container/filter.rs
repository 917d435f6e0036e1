//! Calls that `linux.seccomp` denies, made by processes of a container.

use serde_json::{Value, json};

use crate::bundle::{Bundle, shell};

/// Allows everything but these.
fn without(rules: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": rules})
}

const MAKE: [&str; 2] = ["mkdir", "mkdirat"];

#[test]
fn a_denied_call_has_the_error_of_its_rule() {
    for privileges in [false, true] {
        let rule = json!([{"names": MAKE, "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]);
        let bundle = Bundle::script("mkdir /new; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status")
            .with("/linux/seccomp", without(rule))
            .with("/process/noNewPrivileges", json!(privileges));
        let ran = bundle.run();
        let expected = format!("NoNewPrivs:\t{}\nSeccomp:\t2\n", i32::from(privileges));
        assert_eq!((ran.status, ran.out.as_str()), (0, expected.as_str()), "{ran:?}");
        assert!(ran.err.contains("No space left on device"), "{ran:?}");
    }
}

#[test]
fn a_call_that_kills_ends_the_process() {
    let rule = json!([{"names": MAKE, "action": "SCMP_ACT_KILL_PROCESS"}]);
    let bundle = Bundle::script("mkdir /new; echo $?").with("/linux/seccomp", without(rule));
    // 31 is SIGSYS.
    let ran = bundle.run();
    assert_eq!((ran.status, ran.out.as_str()), (0, "159\n"), "{ran:?}");
}

#[test]
fn arguments_decide() {
    let argument = json!([{"index": 1, "op": "SCMP_CMP_EQ", "value": 0o700}]);
    let rule = json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": argument}]);
    let bundle = Bundle::script("mkdir -m 750 /one && echo one; umask 077; mkdir -m 700 /two && echo two")
        .with("/linux/seccomp", without(rule));
    let ran = bundle.run();
    assert!(ran.out.starts_with("one\n"), "{ran:?}");
}

#[test]
fn one_more_process_has_the_containers_filter() {
    let rule = json!([{"names": MAKE, "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]);
    let bundle = Bundle::script("echo; read -r line").with("/linux/seccomp", without(rule));
    let mut running = bundle.create().unwrap();
    running.container.start().unwrap();
    running.streams.line();
    let ran = running.execute(&shell("mkdir /new"));
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains("No space left on device"), "{ran:?}");
    running.end();
}
