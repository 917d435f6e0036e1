//! A seccomp filter as a classic BPF program (Linux: Documentation/userspace-api/seccomp_filter.rst).
//!
//! The program finds the call by a binary search. When a filter is installed the kernel runs it once for each of
//! the some hundred calls there are, to remember which it allows always; a program that compares one after the
//! other, as the usual compilers make, costs ten times as much there: a noticeable part of a VM's start.

use nix::libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP,
};
use seccompiler::{BpfProgram, sock_filter};

/// What the arguments of an allowed call must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Anything.
    Always,
    /// The argument (by its index) has this value in its low 32 bits.
    Equals(u8, u32),
    /// The argument has none of these bits.
    Lacks(u8, u32),
}

/// Offsets in `struct seccomp_data`: number of the call, architecture, arguments (64 bits each, low half first).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// AUDIT_ARCH_X86_64.
const X86_64: u32 = 0xc000_003e;

/// So few are compared one after the other.
const LINEAR: usize = 3;

const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;

/// A program that allows each call of `rules`, sorted by number, for which one of its checks holds. Others trap
/// (SIGSYS); a call by another architecture's table ends the process.
pub fn compile(rules: &[(u32, Vec<Check>)]) -> BpfProgram {
    let mut program = vec![
        step(LOAD, 0, 0, ARCHITECTURE),
        step(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, X86_64),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS),
        step(LOAD, 0, 0, NUMBER),
    ];
    program.extend(search(rules));
    program
}

/// Finds the loaded number among `rules` and answers.
fn search(rules: &[(u32, Vec<Check>)]) -> BpfProgram {
    if rules.len() <= LINEAR {
        let mut program: BpfProgram =
            rules.iter().flat_map(|(number, checks)| one(*number, checks)).collect();
        program.push(step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRAP));
        return program;
    }
    let (below, above) = rules.split_at(rules.len() / 2);
    let below = search(below);
    let mut program = vec![step(BPF_JMP | BPF_JGE | BPF_K, distance(below.len()), 0, above[0].0)];
    program.extend(below);
    program.extend(search(above));
    program
}

/// Answers if the loaded number is `number`, else falls through.
fn one(number: u32, checks: &[Check]) -> BpfProgram {
    let mut answer: BpfProgram = checks.iter().flat_map(|check| allow_if(*check)).collect();
    if !checks.contains(&Check::Always) {
        answer.push(step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRAP));
    }
    let mut program = vec![step(BPF_JMP | BPF_JEQ | BPF_K, 0, distance(answer.len()), number)];
    program.extend(answer);
    program
}

/// Allows if `check` holds, else falls through.
fn allow_if(check: Check) -> BpfProgram {
    let allow = step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
    let load = |argument: u8| step(LOAD, 0, 0, ARGUMENTS + 8 * u32::from(argument));
    match check {
        Check::Always => vec![allow],
        Check::Equals(argument, value) => {
            vec![load(argument), step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, value), allow]
        }
        Check::Lacks(argument, bits) => {
            vec![load(argument), step(BPF_JMP | BPF_JSET | BPF_K, 1, 0, bits), allow]
        }
    }
}

/// # Panics
/// When a jump is longer than BPF can say: the filters are constants far below that.
fn distance(steps: usize) -> u8 {
    u8::try_from(steps).expect("filters are short")
}

fn step(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with the call: runs the program on a `struct seccomp_data`.
    fn answer(program: &BpfProgram, number: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = &program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { *jt } else { *jf });
            match u32::from(*code) {
                LOAD => {
                    loaded = match *k {
                        NUMBER => number,
                        ARCHITECTURE => X86_64,
                        argument => arguments[(argument - ARGUMENTS) as usize / 8],
                    }
                }
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(loaded == *k),
                code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(loaded >= *k),
                code if code == BPF_JMP | BPF_JSET | BPF_K => at += jump(loaded & *k != 0),
                code if code == BPF_RET | BPF_K => return *k,
                code => panic!("a program here has no step {code:#x}"),
            }
        }
    }

    #[test]
    fn exactly_the_calls_of_the_rules_are_allowed() {
        for count in 0..40 {
            let rules: Vec<_> = (0..count).map(|rule| (rule * 3 + 1, vec![Check::Always])).collect();
            let program = compile(&rules);
            for number in 0..130 {
                let there = rules.iter().any(|(allowed, _)| *allowed == number);
                let expected = if there { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
                assert_eq!(answer(&program, number, [0; 6]), expected, "call {number} of {count} rules");
            }
            assert_eq!(answer(&program, 0x4000_0001, [0; 6]), SECCOMP_RET_TRAP, "an x32 call");
        }
    }

    #[test]
    fn one_of_the_checks_must_hold() {
        let rules = [(16, vec![Check::Equals(1, 7), Check::Equals(1, 9)]), (17, vec![Check::Lacks(2, 4)])];
        let program = compile(&rules);
        for (number, arguments, allowed) in [
            (16, [0, 7, 0, 0, 0, 0], true),
            (16, [7, 9, 0, 0, 0, 0], true),
            (16, [7, 8, 9, 0, 0, 0], false),
            (17, [4, 4, 3, 0, 0, 0], true),
            (17, [0, 0, 6, 0, 0, 0], false),
        ] {
            let expected = if allowed { SECCOMP_RET_ALLOW } else { SECCOMP_RET_TRAP };
            assert_eq!(answer(&program, number, arguments), expected, "{number} {arguments:?}");
        }
    }
}
