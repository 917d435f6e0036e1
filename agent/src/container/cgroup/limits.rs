//! `linux.resources` as writes to files of cgroup v2. Pure: nothing is written here.
//!
//! `memory.oom.group` stays 0: when the memory limit is reached the kernel ends one process, as it does for Docker's
//! containers, and not all; `linux.resources.unified` can have it otherwise.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use crate::container::Error;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The file in the group's directory.
    pub file: String,
    /// What is written to it.
    pub value: String,
    /// What asks for it, as the specification names it.
    pub field: &'static str,
}

/// The writes of a specification. What it leaves out, and what it has as 0 where that means the same, is not there.
pub fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, Error> {
    let mut settings = Settings(Vec::new());
    if let Some(memory) = resources.memory() {
        settings.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        settings.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        settings.add("pids.max", limit_or_max(pids.limit()), "linux.resources.pids.limit");
    }
    if let Some(block_io) = resources.block_io() {
        settings.block_io(block_io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let field = "linux.resources.hugepageLimits";
        if limit.page_size().contains('/') {
            return Err(Error::invalid(field, format!("there is no page size {:?}", limit.page_size())));
        }
        settings.add(format!("hugetlb.{}.max", limit.page_size()), limit_or_max(limit.limit()), field);
    }
    if resources.network().as_ref().is_some_and(|network| {
        network.class_id().is_some() || network.priorities().as_ref().is_some_and(|all| !all.is_empty())
    }) {
        return Err(Error::unsupported("linux.resources.network", "cgroup v2 has nothing like it"));
    }
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return Err(Error::unsupported("linux.resources.rdma", "a guest has no such device"));
    }
    settings.unified(resources.unified().as_ref())?;
    Ok(settings.0)
}

/// A limit as cgroup v2 writes it; what is not positive is none.
fn limit_or_max(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { "max".to_owned() }
}

struct Settings(Vec<Setting>);

impl Settings {
    fn add(&mut self, file: impl Into<String>, value: impl ToString, field: &'static str) {
        self.0.push(Setting { file: file.into(), value: value.to_string(), field });
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), Error> {
        #[allow(deprecated, reason = "they are refused")]
        let kernel = [memory.kernel(), memory.kernel_tcp()];
        let refused = [
            (
                "linux.resources.memory.kernel",
                kernel.iter().any(|limit| limit.is_some_and(|limit| limit > 0)),
            ),
            ("linux.resources.memory.swappiness", memory.swappiness().is_some()),
            ("linux.resources.memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
            ("linux.resources.memory.useHierarchy", memory.use_hierarchy() == Some(false)),
        ];
        if let Some((field, _)) = refused.into_iter().find(|(_, there)| *there) {
            return Err(Error::unsupported(field, "cgroup v2 has nothing like it"));
        }
        if memory.check_before_update() == Some(true) {
            let field = "linux.resources.memory.checkBeforeUpdate";
            return Err(Error::unsupported(field, "cgroup v2 gives memory back, or ends a process, at once"));
        }
        let limit = memory.limit().filter(|limit| *limit != 0);
        if let Some(limit) = limit {
            self.add("memory.max", limit_or_max(limit), "linux.resources.memory.limit");
        }
        if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
            let field = "linux.resources.memory.swap";
            // The specification counts memory and swap together, cgroup v2 swap alone.
            let swap = match (swap, limit) {
                (..0, _) => "max".to_owned(),
                (_, None | Some(..0)) => {
                    return Err(Error::invalid(field, "there is no limit of memory below it"));
                }
                (swap, Some(limit)) if swap < limit => {
                    return Err(Error::invalid(field, "it is less than the limit of memory alone"));
                }
                (swap, Some(limit)) => (swap - limit).to_string(),
            };
            self.add("memory.swap.max", swap, field);
        }
        if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
            self.add("memory.low", limit_or_max(reservation), "linux.resources.memory.reservation");
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), Error> {
        let real_time = cpu.realtime_runtime().is_some_and(|time| time != 0)
            || cpu.realtime_period().is_some_and(|time| time != 0);
        if real_time {
            return Err(Error::unsupported(
                "linux.resources.cpu.realtimeRuntime",
                "cgroup v2 has nothing like it",
            ));
        }
        if let Some(idle) = cpu.idle() {
            self.add("cpu.idle", idle, "linux.resources.cpu.idle");
        }
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            self.add("cpu.weight", weight_of_shares(shares), "linux.resources.cpu.shares");
        }
        let quota = cpu.quota().filter(|quota| *quota != 0).map(limit_or_max);
        match (quota, cpu.period().filter(|period| *period != 0)) {
            (Some(quota), None) => self.add("cpu.max", quota, "linux.resources.cpu.quota"),
            (Some(quota), Some(period)) => {
                self.add("cpu.max", format!("{quota} {period}"), "linux.resources.cpu.quota");
            }
            // A period of no quota limits nothing.
            (None, _) => {}
        }
        if let Some(burst) = cpu.burst() {
            self.add("cpu.max.burst", burst, "linux.resources.cpu.burst");
        }
        let sets = [
            ("cpuset.cpus", cpu.cpus(), "linux.resources.cpu.cpus"),
            ("cpuset.mems", cpu.mems(), "linux.resources.cpu.mems"),
        ];
        for (file, set, field) in sets {
            if let Some(set) = set.as_ref().filter(|set| !set.is_empty()) {
                self.add(file, set, field);
            }
        }
        Ok(())
    }

    fn block_io(&mut self, block_io: &LinuxBlockIo) -> Result<(), Error> {
        let leaf = block_io.leaf_weight().is_some_and(|weight| weight != 0)
            || block_io.weight_device().iter().flatten().any(|device| device.leaf_weight().is_some());
        if leaf {
            return Err(Error::unsupported(
                "linux.resources.blockIO.leafWeight",
                "cgroup v2 has nothing like it",
            ));
        }
        if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
            let field = "linux.resources.blockIO.weight";
            self.add("io.weight", format!("default {}", weight_of_block_io(weight, field)?), field);
        }
        for device in block_io.weight_device().iter().flatten() {
            let field = "linux.resources.blockIO.weightDevice";
            let weight = weight_of_block_io(device.weight().unwrap_or_default(), field)?;
            self.add("io.weight", format!("{}:{} {weight}", device.major(), device.minor()), field);
        }
        self.throttle(
            "rbps",
            block_io.throttle_read_bps_device(),
            "linux.resources.blockIO.throttleReadBpsDevice",
        );
        self.throttle(
            "wbps",
            block_io.throttle_write_bps_device(),
            "linux.resources.blockIO.throttleWriteBpsDevice",
        );
        self.throttle(
            "riops",
            block_io.throttle_read_iops_device(),
            "linux.resources.blockIO.throttleReadIOPSDevice",
        );
        self.throttle(
            "wiops",
            block_io.throttle_write_iops_device(),
            "linux.resources.blockIO.throttleWriteIOPSDevice",
        );
        Ok(())
    }

    fn throttle(&mut self, key: &str, devices: &Option<Vec<LinuxThrottleDevice>>, field: &'static str) {
        for device in devices.iter().flatten() {
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            self.add("io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()), field);
        }
    }

    fn unified(&mut self, unified: Option<&HashMap<String, String>>) -> Result<(), Error> {
        let mut files: Vec<_> = unified.into_iter().flatten().collect();
        files.sort();
        for (file, value) in files {
            let field = "linux.resources.unified";
            if file.contains('/') || !file.contains('.') {
                return Err(Error::invalid(field, format!("{file:?} is no file of a control group")));
            }
            if file.starts_with("cgroup.") {
                return Err(Error::unsupported(format!("{field}[{file}]"), "the agent itself uses it"));
            }
            self.add(file, value, field);
        }
        Ok(())
    }
}

/// cpu.weight for cpu.shares of cgroup v1: the curve on which 2, 1024 and 262144 shares (least, default, most) are
/// weights of 1, 100 and 10000.
fn weight_of_shares(shares: u64) -> u64 {
    let exponent = match shares {
        ..=2 => return 1,
        262_144.. => return 10_000,
        #[allow(clippy::cast_precision_loss, reason = "18 bits at most")]
        shares => (shares as f64).log2(),
    };
    let weight = 10f64.powf((exponent * exponent + 125.0 * exponent) / 612.0 - 7.0 / 34.0).ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 10000")]
    let weight = weight as u64;
    weight.clamp(1, 10_000)
}

/// io.weight (1 to 10000) for blkio.weight (10 to 1000) of cgroup v1.
fn weight_of_block_io(weight: u16, field: &'static str) -> Result<u64, Error> {
    match weight {
        10..=1000 => Ok(1 + (u64::from(weight) - 10) * 9999 / 990),
        _ => Err(Error::invalid(field, format!("{weight} is not from 10 to 1000"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn of(json: serde_json::Value) -> Vec<(String, String)> {
        let settings = settings(&serde_json::from_value(json).unwrap()).unwrap();
        settings.into_iter().map(|setting| (setting.file, setting.value)).collect()
    }

    fn refused(json: serde_json::Value) -> Error {
        settings(&serde_json::from_value(json).unwrap()).unwrap_err()
    }

    fn writes(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn least_default_and_most_shares_are_least_default_and_most_weight() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 100, 10_000]);
        assert_eq!([0, u64::MAX].map(weight_of_shares), [1, 10_000]);
        let weights: Vec<_> = (2..=262_144).map(weight_of_shares).collect();
        assert!(weights.is_sorted());
    }

    #[test]
    fn swap_is_what_is_beyond_memory() {
        let memory = |swap: i64| serde_json::json!({"memory": {"limit": 1000, "swap": swap}});
        assert_eq!(of(memory(1500)), writes(&[("memory.max", "1000"), ("memory.swap.max", "500")]));
        assert_eq!(of(memory(1000)), writes(&[("memory.max", "1000"), ("memory.swap.max", "0")]));
        assert_eq!(of(memory(-1)), writes(&[("memory.max", "1000"), ("memory.swap.max", "max")]));
        let err = refused(memory(999)).to_string();
        assert!(err.starts_with("linux.resources.memory.swap of"), "{err}");
    }

    #[test]
    fn time_goes_by_quota_and_period() {
        let cpu = |cpu: serde_json::Value| of(serde_json::json!({ "cpu": cpu }));
        assert_eq!(
            cpu(serde_json::json!({"quota": 50_000, "period": 100_000})),
            writes(&[("cpu.max", "50000 100000")])
        );
        assert_eq!(
            cpu(serde_json::json!({"quota": -1, "period": 100_000})),
            writes(&[("cpu.max", "max 100000")])
        );
        assert_eq!(cpu(serde_json::json!({"quota": 50_000})), writes(&[("cpu.max", "50000")]));
        assert_eq!(cpu(serde_json::json!({"period": 100_000})), []);
    }

    #[test]
    fn block_devices_have_their_own_rates() {
        let json = serde_json::json!({"blockIO": {
            "weight": 1000,
            "throttleReadBpsDevice": [{"major": 254, "minor": 16, "rate": 1024}],
            "throttleWriteIOPSDevice": [{"major": 254, "minor": 16, "rate": 0}],
        }});
        let expected =
            [("io.weight", "default 10000"), ("io.max", "254:16 rbps=1024"), ("io.max", "254:16 wiops=max")];
        assert_eq!(of(json), writes(&expected));
    }

    #[test]
    fn what_cgroup_v2_does_not_have_is_refused_by_its_name() {
        for (json, field) in [
            (serde_json::json!({"memory": {"swappiness": 10}}), "linux.resources.memory.swappiness"),
            (
                serde_json::json!({"memory": {"disableOOMKiller": true}}),
                "linux.resources.memory.disableOOMKiller",
            ),
            (
                serde_json::json!({"memory": {"checkBeforeUpdate": true}}),
                "linux.resources.memory.checkBeforeUpdate",
            ),
            (serde_json::json!({"memory": {"kernel": 4096}}), "linux.resources.memory.kernel"),
            (serde_json::json!({"cpu": {"realtimeRuntime": 1}}), "linux.resources.cpu.realtimeRuntime"),
            (serde_json::json!({"blockIO": {"leafWeight": 10}}), "linux.resources.blockIO.leafWeight"),
            (serde_json::json!({"network": {"classID": 1}}), "linux.resources.network"),
            (serde_json::json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), "linux.resources.rdma"),
            (
                serde_json::json!({"unified": {"cgroup.freeze": "1"}}),
                "linux.resources.unified[cgroup.freeze]",
            ),
        ] {
            match refused(json) {
                Error::Unsupported { field: named, .. } => assert_eq!(named, field),
                err => panic!("{field}: {err}"),
            }
        }
    }

    #[test]
    fn files_of_other_groups_cannot_be_named() {
        for file in ["../memory.max", "sub/memory.max", "nodot"] {
            let err = refused(serde_json::json!({"unified": {file: "1"}})).to_string();
            assert!(err.contains("is no file of a control group"), "{err}");
        }
    }

    #[test]
    fn nothing_is_written_for_what_is_left_out() {
        assert_eq!(of(serde_json::json!({})), []);
        let zeroes = serde_json::json!({"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0}});
        assert_eq!(of(zeroes), []);
        assert_eq!(of(serde_json::json!({"pids": {"limit": 0}})), writes(&[("pids.max", "max")]));
    }
}
