//! `linux.resources.devices`: which devices a container's processes may make, read and write, as a program that the
//! kernel asks (BPF_PROG_TYPE_CGROUP_DEVICE).
//!
//! As other runtimes have it: nothing is allowed at first; the specification's rules follow in their order, the later
//! one winning; then come the devices that every container has.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::container::Error;
use crate::container::sys::BpfStep;

/// BPF_DEVCG_ACC_*.
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MAKE | READ | WRITE;

/// BPF_DEVCG_DEV_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Block = 1,
    Character = 2,
}

/// Which devices a rule is about; `None`: any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Devices {
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
}

const ANY: Devices = Devices { kind: None, major: None, minor: None };

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    devices: Devices,
    access: u8,
    allow: bool,
}

/// The rules of a container. The last one that applies to an access decides; none: it is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// Those of every container: any node may be made, these be used.
const STANDARD: [(Kind, Option<u32>, Option<u32>, u8); 11] = [
    (Kind::Character, None, None, MAKE),
    (Kind::Block, None, None, MAKE),
    // null, zero, full, random, urandom
    (Kind::Character, Some(1), Some(3), ALL),
    (Kind::Character, Some(1), Some(5), ALL),
    (Kind::Character, Some(1), Some(7), ALL),
    (Kind::Character, Some(1), Some(8), ALL),
    (Kind::Character, Some(1), Some(9), ALL),
    // tty, console, ptmx
    (Kind::Character, Some(5), Some(0), ALL),
    (Kind::Character, Some(5), Some(1), ALL),
    (Kind::Character, Some(5), Some(2), ALL),
    // terminals of devpts
    (Kind::Character, Some(136), None, ALL),
];

/// Checks `linux.resources.devices`.
pub fn rules(rules: &[LinuxDeviceCgroup]) -> Result<Rules, Error> {
    let mut all = Rules(Vec::new());
    for rule in rules {
        all.add(of_specification(rule)?);
    }
    for (kind, major, minor, access) in STANDARD {
        all.add(Rule { devices: Devices { kind: Some(kind), major, minor }, access, allow: true });
    }
    Ok(all)
}

fn of_specification(rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    let field = "linux.resources.devices";
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Kind::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Character),
        LinuxDeviceType::P => return Err(Error::invalid(field, "a FIFO is no device")),
    };
    // Both -1 and nothing stand for any.
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => {
            let invalid = |_| Error::invalid(field, format!("there is no device number {number}"));
            u32::try_from(number).map(Some).map_err(invalid)
        }
    };
    let mut letters = rule.access().as_deref().unwrap_or("rwm").chars();
    let access = letters.try_fold(0, |access, letter| match letter {
        'r' => Some(access | READ),
        'w' => Some(access | WRITE),
        'm' => Some(access | MAKE),
        _ => None,
    });
    let Some(access) = access else {
        return Err(Error::invalid(field, "access is of the letters r, w and m"));
    };
    let devices = match kind {
        // A rule for both kinds is one for all devices.
        None => ANY,
        kind => Devices { kind, major: number(rule.major())?, minor: number(rule.minor())? },
    };
    Ok(Rule { devices, access, allow: rule.allow() })
}

impl Rule {
    /// It is about every access to every device.
    fn is_final(&self) -> bool {
        self.devices == ANY && self.access == ALL
    }
}

impl Rules {
    /// Adds a rule behind the others. An access may ask for several things at a time, which rules one by one would
    /// not allow: rules for the same devices become one.
    fn add(&mut self, rule: Rule) {
        if rule.is_final() {
            self.0.clear();
        }
        let same = |before: &&mut Rule| before.devices == rule.devices && before.allow == rule.allow;
        // Only the last rule is sure to have none behind it that it must not overtake.
        match self.0.last_mut().filter(same) {
            Some(before) => before.access |= rule.access,
            None => self.0.push(rule),
        }
    }
}

/// Registers of the program: the answer, the context, and what is loaded from it.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Operations (Linux: Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE_VALUE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_VALUE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
/// Of 32 bits.
const JUMP_IF_NOT: u8 = 0x56;
const JUMP_IF: u8 = 0x16;
const EXIT: u8 = 0x95;

const fn step(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> BpfStep {
    BpfStep { code, registers: source << 4 | destination, offset, value }
}

/// The program: rules from the last to the first, the first that applies answers.
///
/// Its context is `struct bpf_cgroup_dev_ctx`: access (upper half) and kind (lower half) in one word; major; minor.
pub fn compile(rules: &Rules) -> Vec<BpfStep> {
    let mut program = vec![
        step(LOAD_WORD, KIND, CONTEXT, 0, 0),
        step(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        step(AND_VALUE, KIND, 0, 0, 0xffff),
        step(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        step(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        step(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.0.iter().rev() {
        program.extend(compile_one(rule));
        if rule.is_final() {
            // The kernel takes no program with steps that nothing leads to.
            return program;
        }
    }
    program.extend([step(MOVE_VALUE, ANSWER, 0, 0, 0), step(EXIT, 0, 0, 0, 0)]);
    program
}

/// Answers if the rule applies, else falls through.
fn compile_one(rule: &Rule) -> Vec<BpfStep> {
    let Rule { devices: Devices { kind, major, minor }, access, allow } = *rule;
    let mut checks = Vec::new();
    if let Some(kind) = kind {
        checks.push((JUMP_IF_NOT, KIND, kind as i32));
    }
    for (register, number) in [(MAJOR, major), (MINOR, minor)] {
        if let Some(number) = number {
            checks.push((JUMP_IF_NOT, register, number.cast_signed()));
        }
    }
    // An access is allowed if the rule has all that it asks for, denied if the rule has any of it.
    let (bits, jump) = if allow { (!access & ALL, JUMP_IF_NOT) } else { (access, JUMP_IF) };
    let tests_access = access != ALL;
    // Each check jumps behind the answer's two steps; so many are left before those.
    let mut left = i16::try_from(checks.len()).unwrap_or_default() + if tests_access { 3 } else { 0 };
    let mut program = Vec::new();
    for (code, register, value) in checks {
        left -= 1;
        program.push(step(code, register, 0, left + 2, value));
    }
    if tests_access {
        program.extend([
            step(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0),
            step(AND_VALUE, SCRATCH, 0, 0, bits.into()),
            step(jump, SCRATCH, 0, 2, 0),
        ]);
    }
    program.extend([step(MOVE_VALUE, ANSWER, 0, 0, allow.into()), step(EXIT, 0, 0, 0, 0)]);
    program
}
