//! Numbers of system calls by their names, of the guest's kernel (6.12): `NAME NUMBER` in each line of the tables.

use std::collections::HashMap;

/// An architecture whose programs the guest's kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    X86_64,
    /// 32-bit programs.
    X86,
}

impl Architecture {
    /// AUDIT_ARCH_*, as a filter is told it.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
        }
    }
}

/// The calls of an architecture.
pub fn numbers(architecture: Architecture) -> HashMap<&'static str, u32> {
    let table = match architecture {
        Architecture::X86_64 => include_str!("x86_64.calls"),
        Architecture::X86 => include_str!("x86.calls"),
    };
    let call = |line: &'static str| {
        let (name, number) = line.split_once(' ')?;
        Some((name, number.parse().ok()?))
    };
    table.lines().filter_map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_tables_is_a_call() {
        for (architecture, table) in [
            (Architecture::X86_64, include_str!("x86_64.calls")),
            (Architecture::X86, include_str!("x86.calls")),
        ] {
            assert_eq!(numbers(architecture).len(), table.lines().count());
        }
    }

    #[test]
    fn the_numbers_are_the_kernels() {
        let native = numbers(Architecture::X86_64);
        for (name, number) in [
            ("read", libc::SYS_read),
            ("execve", libc::SYS_execve),
            ("clone3", libc::SYS_clone3),
            ("mount_setattr", libc::SYS_mount_setattr),
        ] {
            assert_eq!(native.get(name).copied().map(i64::from), Some(number), "{name}");
        }
        assert_eq!(numbers(Architecture::X86).get("socketcall"), Some(&102));
    }
}
