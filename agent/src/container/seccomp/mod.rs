//! `linux.seccomp`: the profile of the specification, as what the kernel answers to each call.
//!
//! Rules for one call are tried in the profile's order: the first whose arguments match decides, then the rule without
//! arguments, then the default. As other runtimes have it:
//!
//! - a name that no call has is skipped: profiles name those of all architectures and of older kernels;
//! - where the default is an error, a call newer than all that the profile names does not exist (ENOSYS), so that
//!   programs fall back to an older one.
//!
//! The guest's kernel has no x32 calls: to the filter they do not exist, whatever the profile says of them. [`bpf`]
//! makes a program of the answers.

mod bpf;
mod calls;

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use serde::{Deserialize, Serialize};

use super::Error;
use calls::Architecture;

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u64,
    /// The steps: code, jump if true, jump if false, operand.
    pub program: Vec<(u16, u8, u8, u32)>,
}

/// What the kernel answers to a call: SECCOMP_RET_* with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    /// In their order: what the arguments have to be, all of it, and the answer.
    rules: Vec<(Vec<Check>, u32)>,
    /// The answer if none of these is it.
    otherwise: u32,
}

/// What one argument has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Check {
    /// From 0 to 5.
    argument: u8,
    operator: Operator,
    value: u64,
}

/// How an argument is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The argument's bits of this mask.
    MaskedEqual(u64),
}

/// Answers to calls of one architecture: from each number on, up to the next.
type Answers = Vec<(u32, Verdict)>;

/// From here on numbers are those of x32.
const X32: u32 = 0x4000_0000;

/// Compiles a profile.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, Error> {
    if profile.listener_path().is_some() || profile.listener_metadata().is_some() {
        return Err(Error::unsupported("linux.seccomp.listenerPath", "no listener is in the guest"));
    }
    let architectures = profile.architectures().iter().flatten();
    // Its own the kernel always has; foreign ones never.
    let with_x86 = architectures.copied().any(|architecture| architecture == Arch::ScmpArchX86);
    let mut answers = vec![(Architecture::X86_64, answers(profile, Architecture::X86_64)?)];
    if with_x86 {
        answers.push((Architecture::X86, self::answers(profile, Architecture::X86)?));
    }
    let program = bpf::compile(&answers)
        .ok_or_else(|| Error::invalid("linux.seccomp", "it is more than the kernel takes (4096 steps)"))?;
    Ok(Filter { flags: flags(profile)?, program })
}

fn flags(profile: &LinuxSeccomp) -> Result<u64, Error> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            // The process has one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                let field = "linux.seccomp.flags SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
                return Err(Error::unsupported(field, "no listener is in the guest"));
            }
        };
    }
    Ok(flags)
}

/// The answers of a profile to the calls of one architecture.
fn answers(profile: &LinuxSeccomp, architecture: Architecture) -> Result<Answers, Error> {
    let field = "linux.seccomp.defaultAction";
    let default = answer(profile.default_action(), profile.default_errno_ret(), field)?;
    let numbers = calls::numbers(architecture);
    let mut verdicts = BTreeMap::new();
    let unnamed = || Verdict { rules: Vec::new(), otherwise: default };
    for rule in profile.syscalls().iter().flatten() {
        let answer = answer(rule.action(), rule.errno_ret(), "linux.seccomp.syscalls[].action")?;
        let alternatives = alternatives(rule)?;
        for number in rule.names().iter().filter_map(|name| numbers.get(name.as_str())) {
            let verdict = verdicts.entry(*number).or_insert_with(unnamed);
            match alternatives.as_slice() {
                [] => verdict.otherwise = answer,
                alternatives => {
                    verdict.rules.extend(alternatives.iter().map(|checks| (checks.clone(), answer)));
                }
            }
        }
    }
    Ok(ranges(verdicts, profile.default_action(), default))
}

/// Verdicts of single numbers, with the default between and behind them, as ranges.
fn ranges(verdicts: BTreeMap<u32, Verdict>, action: LinuxSeccompAction, default: u32) -> Answers {
    let fixed = |otherwise| Verdict { rules: Vec::new(), otherwise };
    let missing = fixed(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned());
    let mut answers = vec![(0, fixed(default))];
    let mut next = 0;
    for (number, verdict) in verdicts {
        if number > next {
            answers.push((next, fixed(default)));
        }
        answers.push((number, verdict));
        next = number + 1;
    }
    if action == LinuxSeccompAction::ScmpActErrno && next > 0 {
        answers.push((next, missing.clone()));
    } else {
        answers.push((next, fixed(default)));
    }
    answers.push((X32, missing));
    // Of two from the same number on the later one holds; of two with the same verdict the earlier one will do.
    answers.dedup_by(|later, earlier| {
        let same_start = later.0 == earlier.0;
        if same_start {
            earlier.1 = later.1.clone();
        }
        same_start
    });
    answers.dedup_by(|later, earlier| later.1 == earlier.1);
    answers
}

/// SECCOMP_RET_* and its data.
fn answer(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<u32, Error> {
    /// Linux has no larger error.
    const MAX_ERRNO: u32 = 4095;
    let data = match errno {
        Some(errno @ ..=MAX_ERRNO) => errno,
        Some(errno) => return Err(Error::invalid(field, format!("errnoRet {errno} is no error"))),
        None => libc::EPERM.cast_unsigned(),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            libc::SECCOMP_RET_KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::unsupported(
                format!("{field} SCMP_ACT_NOTIFY"),
                "no listener is in the guest",
            ));
        }
    })
}

/// The checks of a rule; empty: it holds for all arguments. Two checks of one argument are two rules, as other
/// runtimes have it.
fn alternatives(rule: &LinuxSyscall) -> Result<Vec<Vec<Check>>, Error> {
    let checks: Vec<_> = rule.args().iter().flatten().map(check).collect::<Result<_, _>>()?;
    let is_double =
        |check: &Check| checks.iter().filter(|other| other.argument == check.argument).count() > 1;
    Ok(match checks.iter().any(is_double) {
        true => checks.into_iter().map(|check| vec![check]).collect(),
        false if checks.is_empty() => Vec::new(),
        false => vec![checks],
    })
}

fn check(argument: &LinuxSeccompArg) -> Result<Check, Error> {
    let field = "linux.seccomp.syscalls[].args";
    let index = argument.index();
    let Some(index @ 0..6) = u8::try_from(index).ok() else {
        return Err(Error::invalid(field, format!("a call has no argument {index}")));
    };
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => (Operator::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpNe => (Operator::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Operator::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Operator::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Operator::Greater, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Operator::GreaterOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (Operator::MaskedEqual(argument.value()), argument.value_two().unwrap_or_default())
        }
    };
    Ok(Check { argument: index, operator, value })
}

#[cfg(test)]
mod tests;
