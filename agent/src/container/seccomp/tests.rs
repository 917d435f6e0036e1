//! What profiles answer to calls: programs run as the kernel would run them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use serde_json::{Value, json};

use super::*;

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const ENOSYS: u32 = 0x5_0026;
const ALLOW: u32 = 0x7fff_0000;

fn program(profile: Value) -> Vec<(u16, u8, u8, u32)> {
    compile(&serde_json::from_value(profile).unwrap()).unwrap().program
}

/// Runs the program on a `struct seccomp_data`.
fn answer(program: &[(u16, u8, u8, u32)], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let (mut at, mut loaded) = (0, 0u32);
    let half = |offset: u32| {
        let argument = arguments[(offset - 16) as usize / 8];
        let half = if offset.is_multiple_of(8) { argument } else { argument >> 32 };
        u32::try_from(half & u64::from(u32::MAX)).unwrap()
    };
    loop {
        let (code, jt, jf, k) = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match u32::from(code) {
            0x20 => {
                loaded = match k {
                    0 => number,
                    4 => architecture,
                    offset => half(offset),
                }
            }
            0x05 => at += k as usize,
            0x15 => at += jump(loaded == k),
            0x25 => at += jump(loaded > k),
            0x35 => at += jump(loaded >= k),
            0x54 => loaded &= k,
            0x06 => return k,
            code => panic!("a program here has no step {code:#x}"),
        }
    }
}

fn native(program: &[(u16, u8, u8, u32)], name: &str, arguments: [u64; 6]) -> u32 {
    answer(program, X86_64, calls::numbers(Architecture::X86_64)[name], arguments)
}

#[test]
fn each_action_is_the_kernels() {
    for (action, errno, expected) in [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
        ("SCMP_ACT_TRAP", None, 0x3_0000),
        ("SCMP_ACT_ERRNO", None, 0x5_0001),
        ("SCMP_ACT_ERRNO", Some(38), ENOSYS),
        ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", None, ALLOW),
    ] {
        let rule = json!({"names": ["read"], "action": action, "errnoRet": errno});
        let program = program(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [rule]}));
        assert_eq!(native(&program, "read", [0; 6]), expected, "{action}");
        assert_eq!(native(&program, "write", [0; 6]), 0x8000_0000);
    }
}

#[test]
fn arguments_are_compared_in_all_their_bits() {
    let values: [u64; 9] =
        [0, 1, 2, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x2_0000_0000, u64::MAX - 1, u64::MAX];
    for (op, holds) in [
        ("SCMP_CMP_NE", u64::ne as fn(&u64, &u64) -> bool),
        ("SCMP_CMP_LT", u64::lt),
        ("SCMP_CMP_LE", u64::le),
        ("SCMP_CMP_EQ", u64::eq),
        ("SCMP_CMP_GE", u64::ge),
        ("SCMP_CMP_GT", u64::gt),
    ] {
        for value in values {
            let argument = json!({"index": 3, "op": op, "value": value});
            let rule = json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [argument]});
            let program = program(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}));
            for given in values {
                let expected = if holds(&given, &value) { ALLOW } else { 0x5_0001 };
                let answer = native(&program, "read", [7, 7, 7, given, 7, 7]);
                assert_eq!(answer, expected, "{given:#x} {op} {value:#x}");
            }
        }
    }
}

#[test]
fn a_mask_leaves_the_bits_that_are_compared() {
    // As Docker's profile has it for clone: none of the flags that make namespaces.
    let argument = json!({"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0x7e02_0000, "valueTwo": 0});
    let rule = json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [argument]});
    let program = program(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}));
    for (flags, expected) in
        [(0x11, ALLOW), (0x1000_0011, 0x5_0001), (0x1_0000_0011, ALLOW), (0x2_0000, 0x5_0001)]
    {
        assert_eq!(native(&program, "clone", [flags, 0, 0, 0, 0, 0]), expected, "{flags:#x}");
    }
}

#[test]
fn all_arguments_of_a_rule_have_to_match_but_two_of_one_are_two_rules() {
    let equal = |index: u32, value: u64| json!({"index": index, "op": "SCMP_CMP_EQ", "value": value});
    let rule = |args: Value| {
        program(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": args}],
        }))
    };
    let both = rule(json!([equal(0, 1), equal(1, 2)]));
    let either = rule(json!([equal(0, 1), equal(0, 2)]));
    for (arguments, of_both, of_either) in
        [([1, 2], true, true), ([1, 3], false, true), ([2, 2], false, true), ([3, 2], false, false)]
    {
        let arguments = [arguments[0], arguments[1], 0, 0, 0, 0];
        assert_eq!(native(&both, "socket", arguments) == ALLOW, of_both, "{arguments:?}");
        assert_eq!(native(&either, "socket", arguments) == ALLOW, of_either, "{arguments:?}");
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_then_the_one_without_arguments() {
    let argument = |value: u64| json!([{"index": 0, "op": "SCMP_CMP_EQ", "value": value}]);
    let program = program(json!({
        "defaultAction": "SCMP_ACT_KILL",
        "syscalls": [
            {"names": ["personality"], "action": "SCMP_ACT_LOG"},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": argument(8)},
            {"names": ["personality"], "action": "SCMP_ACT_TRAP", "args": argument(8)},
            {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": argument(9)},
        ],
    }));
    let of = |value| native(&program, "personality", [value, 0, 0, 0, 0, 0]);
    assert_eq!([of(8), of(9), of(10)], [ALLOW, 0x5_0005, 0x7ffc_0000]);
}

#[test]
fn a_call_newer_than_the_profile_does_not_exist_where_the_default_is_an_error() {
    let profile = |action: &str| {
        program(json!({
            "defaultAction": action,
            "syscalls": [{"names": ["read", "close_range", "no_such_call"], "action": "SCMP_ACT_ALLOW"}],
        }))
    };
    // close_range is 436; clone3, 435, is older, openat2 is 437.
    let error = profile("SCMP_ACT_ERRNO");
    assert_eq!(
        ["clone3", "openat2", "mseal"].map(|name| native(&error, name, [0; 6])),
        [0x5_0001, ENOSYS, ENOSYS]
    );
    let kill = profile("SCMP_ACT_KILL_PROCESS");
    assert_eq!(native(&kill, "openat2", [0; 6]), 0x8000_0000);
}

#[test]
fn each_architecture_has_its_own_numbers() {
    let profile = |architectures: Value| {
        program(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": architectures,
            "syscalls": [{"names": ["socketcall", "read"], "action": "SCMP_ACT_ALLOW"}],
        }))
    };
    let both = profile(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"]));
    assert_eq!(answer(&both, X86_64, 0, [0; 6]), ALLOW);
    assert_eq!(answer(&both, X86, 3, [0; 6]), ALLOW);
    assert_eq!(answer(&both, X86, 102, [0; 6]), ALLOW);
    assert_eq!(answer(&both, X86, 0, [0; 6]), 0x5_0001);
    assert_eq!(answer(&both, X86_64, 0x4000_0000, [0; 6]), ENOSYS, "read of x32");
    let one = profile(json!(null));
    assert_eq!(answer(&one, X86_64, 0, [0; 6]), ALLOW);
    assert_eq!(answer(&one, X86, 3, [0; 6]), 0x8000_0000);
}

#[test]
fn a_profile_without_rules_has_its_default_for_all() {
    let program = program(json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    assert_eq!([0, 231, 462, 9999].map(|number| answer(&program, X86_64, number, [0; 6])), [ALLOW; 4]);
}

#[test]
fn a_long_profile_answers_as_its_rules_say() {
    // Every other call with arguments, so that no two are one range.
    let numbers = calls::numbers(Architecture::X86_64);
    let rules: Vec<_> = numbers
        .iter()
        .filter(|(_, number)| **number % 2 == 0)
        .map(|(name, number)| {
            let argument = json!({"index": 1, "op": "SCMP_CMP_EQ", "value": number});
            json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]})
        })
        .collect();
    let program = program(json!({"defaultAction": "SCMP_ACT_TRAP", "syscalls": rules}));
    assert!(program.len() > 1000, "{}", program.len());
    for number in numbers.values().copied() {
        for argument in [number, number + 1] {
            let allowed = number % 2 == 0 && argument == number;
            let expected = if allowed { ALLOW } else { 0x3_0000 };
            assert_eq!(
                answer(&program, X86_64, number, [0, argument.into(), 0, 0, 0, 0]),
                expected,
                "{number}"
            );
        }
    }
}

#[test]
fn what_needs_a_listener_is_refused() {
    for profile in [
        json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/listener"}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
    ] {
        let err = compile(&serde_json::from_value(profile).unwrap()).unwrap_err();
        assert!(matches!(err, Error::Unsupported { .. }), "{err}");
    }
}
