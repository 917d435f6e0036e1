//! Answers to calls as a classic BPF program (Linux: Documentation/userspace-api/seccomp_filter.rst).
//!
//! The program finds the range that a call's number is in by a binary search: the kernel runs it for every call that
//! is not allowed in all cases, and once for each there is when it is installed.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_KILL_PROCESS,
};

use super::calls::Architecture;
use super::{Answers, Check, Operator, Verdict};

/// Code, jump if true, jump if false, operand.
pub type Step = (u16, u8, u8, u32);

/// Offsets in `struct seccomp_data`: number of the call, architecture, arguments (64 bits each, low half first).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// BPF_MAXINSNS: the kernel takes no longer program.
const LONGEST: usize = 4096;

const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;
const RETURN: u32 = BPF_RET | BPF_K;
const JUMP: u32 = BPF_JMP | BPF_JA;
const AND: u32 = BPF_ALU | BPF_AND | BPF_K;
const IF_EQUAL: u32 = BPF_JMP | BPF_JEQ | BPF_K;
const IF_GREATER: u32 = BPF_JMP | BPF_JGT | BPF_K;
const IF_GREATER_OR_EQUAL: u32 = BPF_JMP | BPF_JGE | BPF_K;

/// The program; `None`: it would be too long for the kernel. A call by an architecture that is not there ends the
/// process.
pub fn compile(answers: &[(Architecture, Answers)]) -> Option<Vec<Step>> {
    let mut program = vec![step(LOAD, 0, 0, ARCHITECTURE)];
    for (architecture, answers) in answers {
        let mut body = vec![step(LOAD, 0, 0, NUMBER)];
        body.extend(search(answers)?);
        program.extend([
            step(IF_EQUAL, 1, 0, architecture.audit()),
            step(JUMP, 0, 0, u32::try_from(body.len()).ok()?),
        ]);
        program.extend(body);
    }
    program.push(step(RETURN, 0, 0, SECCOMP_RET_KILL_PROCESS));
    (program.len() <= LONGEST).then_some(program)
}

/// Finds the loaded number's range and answers.
fn search(answers: &[(u32, Verdict)]) -> Option<Vec<Step>> {
    if let [(_, verdict)] = answers {
        return give(verdict);
    }
    let (below, above) = answers.split_at_checked(answers.len() / 2)?;
    let (first_above, _) = above.first()?;
    let (below, above) = (search(below)?, search(above)?);
    let mut program = match u8::try_from(below.len()) {
        Ok(distance) => vec![step(IF_GREATER_OR_EQUAL, distance, 0, *first_above)],
        // Only a jump that always jumps goes so far.
        Err(_) => vec![
            step(IF_GREATER_OR_EQUAL, 0, 1, *first_above),
            step(JUMP, 0, 0, u32::try_from(below.len()).ok()?),
        ],
    };
    program.extend(below);
    program.extend(above);
    Some(program)
}

/// Answers by a verdict.
fn give(verdict: &Verdict) -> Option<Vec<Step>> {
    let mut program = Vec::new();
    for (checks, answer) in &verdict.rules {
        // From the last check to the first, since each has to know how far it is to the rule's end.
        let mut rule = vec![step(RETURN, 0, 0, *answer)];
        for check in checks.iter().rev() {
            let mut with = unless(*check, u8::try_from(rule.len()).ok()?)?;
            with.extend(rule);
            rule = with;
        }
        program.extend(rule);
    }
    program.push(step(RETURN, 0, 0, verdict.otherwise));
    Some(program)
}

/// Falls through if the check holds, else jumps `away` steps further than its own end.
fn unless(check: Check, away: u8) -> Option<Vec<Step>> {
    let Check { argument, operator, value } = check;
    let (low, high) = halves(value);
    let at = ARGUMENTS + 8 * u32::from(argument);
    let (load_low, load_high) = (step(LOAD, 0, 0, at), step(LOAD, 0, 0, at + 4));
    // So far it is from before the steps that are left.
    let past = |left: u8| away.checked_add(left);
    Some(match operator {
        Operator::Equal => {
            vec![load_high, step(IF_EQUAL, 0, past(2)?, high), load_low, step(IF_EQUAL, 0, away, low)]
        }
        Operator::NotEqual => {
            vec![load_high, step(IF_EQUAL, 0, 2, high), load_low, step(IF_EQUAL, away, 0, low)]
        }
        Operator::Greater | Operator::GreaterOrEqual => {
            let compare = if operator == Operator::Greater { IF_GREATER } else { IF_GREATER_OR_EQUAL };
            vec![
                load_high,
                step(IF_GREATER, 3, 0, high),
                step(IF_EQUAL, 0, past(2)?, high),
                load_low,
                step(compare, 0, away, low),
            ]
        }
        Operator::Less | Operator::LessOrEqual => {
            let compare = if operator == Operator::Less { IF_GREATER_OR_EQUAL } else { IF_GREATER };
            vec![
                load_high,
                step(IF_GREATER, past(3)?, 0, high),
                step(IF_EQUAL, 0, 2, high),
                load_low,
                step(compare, away, 0, low),
            ]
        }
        Operator::MaskedEqual(mask) => {
            let (low_mask, high_mask) = halves(mask);
            vec![
                load_high,
                step(AND, 0, 0, high_mask),
                step(IF_EQUAL, 0, past(3)?, high),
                load_low,
                step(AND, 0, 0, low_mask),
                step(IF_EQUAL, 0, away, low),
            ]
        }
    })
}

/// The low and the high 32 bits.
fn halves(value: u64) -> (u32, u32) {
    let half = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default();
    (half(value), half(value >> 32))
}

fn step(code: u32, jt: u8, jf: u8, k: u32) -> Step {
    (u16::try_from(code).unwrap_or_default(), jt, jf, k)
}
