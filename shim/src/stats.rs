//! What a container, or a sandbox, uses, as containerd wants it: the metrics of a cgroup v2. The numbers are the guest's word.

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, NetworkStat, PidsStat,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message, MessageField};
use rvm_agent_proto::{InterfaceMetrics, IoStats, MetricsResponse, StatsResponse};

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
    any(&metrics)
}

/// What a guest as a whole uses, as the agent says, translated to the same.
pub fn guest_metrics(used: &MetricsResponse) -> protobuf::Result<Any> {
    let memory = used.memory_total_bytes.saturating_sub(used.memory_available_bytes);
    let metrics = Metrics {
        pids: MessageField::some(PidsStat { current: used.processes.into(), ..PidsStat::default() }),
        cpu: MessageField::some(CPUStat { usage_usec: used.cpu_usage_ns / 1000, ..CPUStat::default() }),
        memory: MessageField::some(MemoryStat {
            usage: memory,
            usage_limit: used.memory_total_bytes,
            ..MemoryStat::default()
        }),
        network: used.interfaces.iter().map(network).collect(),
        ..Metrics::default()
    };
    any(&metrics)
}

fn any(metrics: &Metrics) -> protobuf::Result<Any> {
    let type_url = "io.containerd.cgroups.v2.Metrics".to_owned();
    Ok(Any { type_url, value: metrics.write_to_bytes()?, ..Any::default() })
}

fn network(interface: &InterfaceMetrics) -> NetworkStat {
    NetworkStat {
        name: interface.name.clone(),
        rx_bytes: interface.received_bytes,
        rx_packets: interface.received_packets,
        tx_bytes: interface.sent_bytes,
        tx_packets: interface.sent_packets,
        ..NetworkStat::default()
    }
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
