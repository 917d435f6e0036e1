//! What a container uses, as containerd wants it: the metrics of a cgroup v2. The numbers are the guest's word.

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message, MessageField};
use rvm_agent_proto::{IoStats, StatsResponse};

/// The agent's answer, translated.
pub fn metrics(stats: &StatsResponse) -> protobuf::Result<Any> {
    let pids = stats.pids.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let metrics = Metrics {
        pids: MessageField::some(PidsStat {
            current: pids.current,
            // containerd has 0 for what the kernel calls "max".
            limit: if pids.limit == u64::MAX { 0 } else { pids.limit },
            ..PidsStat::default()
        }),
        cpu: MessageField::some(cpu(stats)),
        memory: MessageField::some(MemoryStat {
            anon: memory.anon_bytes,
            file: memory.file_bytes,
            inactive_file: memory.inactive_file_bytes,
            pgfault: memory.page_faults,
            pgmajfault: memory.major_page_faults,
            usage: memory.current_bytes,
            usage_limit: memory.limit_bytes,
            swap_usage: memory.swap_bytes,
            max_usage: memory.peak_bytes,
            ..MemoryStat::default()
        }),
        memory_events: MessageField::some(MemoryEvents {
            oom: memory.oom_events,
            oom_kill: memory.oom_kills,
            ..MemoryEvents::default()
        }),
        io: MessageField::some(IOStat { usage: stats.io.iter().map(io).collect(), ..IOStat::default() }),
        ..Metrics::default()
    };
    let type_url = "io.containerd.cgroups.v2.Metrics".to_owned();
    Ok(Any { type_url, value: metrics.write_to_bytes()?, ..Any::default() })
}

fn cpu(stats: &StatsResponse) -> CPUStat {
    let cpu = stats.cpu.unwrap_or_default();
    CPUStat {
        usage_usec: cpu.usage_us,
        user_usec: cpu.user_us,
        system_usec: cpu.system_us,
        nr_periods: cpu.periods,
        nr_throttled: cpu.throttled_periods,
        throttled_usec: cpu.throttled_us,
        ..CPUStat::default()
    }
}

fn io(line: &IoStats) -> IOEntry {
    IOEntry {
        major: line.major.into(),
        minor: line.minor.into(),
        rbytes: line.read_bytes,
        wbytes: line.written_bytes,
        rios: line.reads,
        wios: line.writes,
        ..IOEntry::default()
    }
}
