//! The host's messages as what the runtime takes, and what it gives as messages.

use std::time::UNIX_EPOCH;

use crate::container::{self, WindowSize};
use nix::libc;
use rvm_agent_proto::{CpuStats, IoStats, MemoryStats, PidsStats, StatsResponse, WaitResponse};
use serde::de::DeserializeOwned;
use tonic::{Code, Status};

use crate::reaper::Exit;
use crate::refusal::{Refusal, code_of, status};

/// Longest id.
const MAX_ID: usize = 128;
/// The last signal of Linux (_NSIG).
const LAST_SIGNAL: u32 = 64;
/// What says that there is no limit.
const NONE: u64 = u64::MAX;

/// A refusal of the runtime.
pub fn refused(error: container::Error) -> Status {
    use container::Error as E;
    let code = match &error {
        E::Unsupported { .. } => Code::Unimplemented,
        E::Invalid { .. } => Code::InvalidArgument,
        E::Exists(_) => Code::AlreadyExists,
        E::State { .. } => Code::FailedPrecondition,
        E::NoProgram { .. } => Code::NotFound,
        E::NotExecutable { .. } => Code::PermissionDenied,
        // A file that is missing on the way is not the program.
        E::Kernel { source, .. } => match code_of(source) {
            Code::ResourceExhausted => Code::ResourceExhausted,
            _ => Code::Internal,
        },
    };
    status(code, &error)
}

/// Reads a part of the OCI runtime specification.
pub fn json<T: DeserializeOwned>(field: &str, bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes)
        .map_err(|err| Status::invalid_argument(format!("{field} is not what the specification has: {err}")))
}

/// Refuses what is no id of a container or of a process.
pub fn check_id(id: &str) -> Result<(), Refusal> {
    let fits = (1..=MAX_ID).contains(&id.len());
    let begins = id.starts_with(|first: char| first.is_ascii_alphanumeric());
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    match fits && begins && plain {
        true => Ok(()),
        false => Err(Refusal::invalid(
            format!("the id {id:?}"),
            "it has to be 1 to 128 letters, digits, dots, hyphens and underscores, the first a letter or digit",
        )),
    }
}

/// A signal, or 0.
pub fn signal(number: u32) -> Result<libc::c_int, Refusal> {
    match libc::c_int::try_from(number) {
        Ok(signal) if number <= LAST_SIGNAL => Ok(signal),
        _ => Err(Refusal::invalid(format!("the signal {number}"), "it is above 64")),
    }
}

/// The size of a terminal.
pub fn window(columns: u32, rows: u32) -> Result<WindowSize, Refusal> {
    match (u16::try_from(columns), u16::try_from(rows)) {
        (Ok(columns), Ok(rows)) => Ok(WindowSize { columns, rows }),
        _ => {
            let what = format!("the size {columns}x{rows} of a terminal");
            Err(Refusal::invalid(what, "it is above 65535"))
        }
    }
}

/// How a process ended.
pub fn exit(exit: Exit, out_of_memory: bool) -> WaitResponse {
    let at = exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    WaitResponse {
        status: exit.code.into(),
        exited_at_ns: i64::try_from(at.as_nanos()).unwrap_or(i64::MAX),
        out_of_memory,
    }
}

/// What a container uses.
pub fn stats(stats: &container::Stats) -> StatsResponse {
    let container::Stats { cpu, memory, pids, io } = stats;
    StatsResponse {
        cpu: Some(CpuStats {
            usage_us: cpu.usage_us,
            user_us: cpu.user_us,
            system_us: cpu.system_us,
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_us: cpu.throttled_us,
        }),
        memory: Some(MemoryStats {
            current_bytes: memory.current_bytes,
            limit_bytes: memory.limit_bytes.unwrap_or(NONE),
            peak_bytes: memory.peak_bytes,
            swap_bytes: memory.swap_bytes,
            anon_bytes: memory.anon_bytes,
            file_bytes: memory.file_bytes,
            inactive_file_bytes: memory.inactive_file_bytes,
            kernel_bytes: memory.kernel_bytes,
            page_faults: memory.page_faults,
            major_page_faults: memory.major_page_faults,
            oom_events: memory.oom_events,
            oom_kills: memory.oom_kills,
        }),
        pids: Some(PidsStats { current: pids.current, limit: pids.limit.unwrap_or(NONE) }),
        io: io.iter().map(io_stats).collect(),
    }
}

fn io_stats(io: &container::IoStats) -> IoStats {
    IoStats {
        major: io.major,
        minor: io.minor,
        read_bytes: io.read_bytes,
        written_bytes: io.written_bytes,
        reads: io.reads,
        writes: io.writes,
    }
}

#[cfg(test)]
mod tests {
    use super::{check_id, signal, window};

    #[test]
    fn ids_are_words_that_begin_with_a_letter_or_digit() {
        for (id, good) in [
            ("a", true),
            ("9.a_b-C", true),
            ("", false),
            (".a", false),
            ("-a", false),
            ("a/b", false),
            ("ä", false),
        ] {
            assert_eq!(check_id(id).is_ok(), good, "{id:?}");
        }
        assert!(check_id(&"a".repeat(128)).is_ok() && check_id(&"a".repeat(129)).is_err());
    }

    #[test]
    fn numbers_that_linux_does_not_have_are_refused() {
        assert!(signal(64).is_ok() && signal(65).is_err() && signal(u32::MAX).is_err());
        assert!(window(65535, 1).is_ok() && window(65536, 1).is_err());
    }
}
