//! What `rvm doctor` makes of the facts, and how it says it. Nothing here touches the host.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::facts::{Cgroup, Device, Facts, Settings};
use super::kvm::{self, Probe};
use crate::kvm::KvmError;

/// The oldest Linux the VMM is meant for: io_uring with the operations it uses, and openat2.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// From when on the cgroup lock made KVM_CREATE_VM wait for an RCU grace period.
const SLOW_CREATE_VM_KERNEL: (u32, u32) = (6, 0);

/// A KVM_CREATE_VM that takes longer waited for something.
const SLOW_CREATE_VM: Duration = Duration::from_millis(10);

/// Whether this host can run virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It can.
    CanRun,
    /// There is no KVM.
    NoKvm,
    /// There is, for other users.
    NoPermission,
    /// There is, but it emulates.
    NotHardware,
    /// There is, and it does not work.
    BrokenKvm,
}

impl Verdict {
    /// The verdict on a KVM that failed so.
    pub fn of(err: &kvm::Error) -> Self {
        match err {
            kvm::Error::Kvm(KvmError::Missing) => Self::NoKvm,
            kvm::Error::Kvm(KvmError::Permission) => Self::NoPermission,
            kvm::Error::Emulated { .. } => Self::NotHardware,
            kvm::Error::Kvm(_) | kvm::Error::Refused { .. } | kvm::Error::Stopped(_) => Self::BrokenKvm,
        }
    }

    /// The exit status for scripts.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::CanRun => 0,
            Self::NoKvm => 10,
            Self::NoPermission => 11,
            Self::NotHardware => 12,
            Self::BrokenKvm => 13,
        }
    }
}

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know; something may be missing that some uses need.
    Note,
    /// Works, at a price.
    Slow,
    /// Virtual machines cannot run because of this.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it, where there is something to do.
    pub advice: Option<String>,
}

/// All that `rvm doctor` has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The sum of it.
    pub verdict: Verdict,
    /// Why, a line each.
    pub checks: Vec<Check>,
}

impl Report {
    /// The exit status for scripts.
    pub fn exit_code(&self) -> u8 {
        self.verdict.exit_code()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let level = match check.level {
                Level::Ok => "ok",
                Level::Note => "note",
                Level::Slow => "slow",
                Level::Fail => "FAIL",
            };
            writeln!(f, "{:<8} {level:<5} {}", check.name, check.found)?;
            if let Some(advice) = &check.advice {
                writeln!(f, "{:14} -> {advice}", "")?;
            }
        }
        f.write_str(match self.verdict {
            Verdict::CanRun => "This host can run virtual machines.",
            Verdict::NoKvm => "This host cannot run virtual machines: it has no KVM.",
            Verdict::NoPermission => "This user may not run virtual machines.",
            Verdict::NotHardware => {
                "This host cannot run virtual machines: its KVM has no hardware under it."
            }
            Verdict::BrokenKvm => "This host cannot run virtual machines: its KVM does not work.",
        })
    }
}

/// Judges the facts.
pub fn judge(facts: &Facts) -> Report {
    let mut checks = vec![
        kvm_check(facts),
        tun_check(facts.tun),
        vsock_check(facts.host_vsock),
        cgroup_check(facts.cgroup),
        kernel_check(&facts.kernel),
    ];
    checks.extend(facts.kvm.as_ref().ok().and_then(|probe| create_vm_check(probe, facts)));
    checks.extend(settings_checks(&facts.settings));
    let verdict = facts.kvm.as_ref().map_or_else(Verdict::of, |_| Verdict::CanRun);
    Report { verdict, checks }
}

fn check(name: &'static str, level: Level, found: impl Into<String>) -> Check {
    Check { name, level, found: found.into(), advice: None }
}

impl Check {
    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

fn kvm_check(facts: &Facts) -> Check {
    let err = match &facts.kvm {
        Ok(probe) => {
            let millions = probe.instructions_per_second / 1_000_000;
            return check(
                "kvm",
                Level::Ok,
                format!("on hardware ({millions} million instructions a second)"),
            );
        }
        Err(err) => err,
    };
    let (found, advice) = kvm_failure(err, facts);
    check("kvm", Level::Fail, found).advise(advice)
}

/// What to say about a KVM that failed so, and what to do.
fn kvm_failure(err: &kvm::Error, facts: &Facts) -> (String, String) {
    let told = match err.source() {
        Some(source) => format!("{err}: {source}"),
        None => err.to_string(),
    };
    match err {
        kvm::Error::Kvm(KvmError::Missing) => ("no /dev/kvm".to_owned(), missing_advice(facts).to_owned()),
        kvm::Error::Kvm(KvmError::Permission) => {
            let advice = match &facts.kvm_group {
                Some(group) => {
                    format!("join the group that may: `usermod -aG {group} $USER`, then log in again")
                }
                None => "see `ls -l /dev/kvm`; in a container, its device rules must allow it".to_owned(),
            };
            ("no permission to open /dev/kvm".to_owned(), advice)
        }
        kvm::Error::Emulated { .. } if facts.cpu_has_virtualization => {
            (told, "the processor has VMX or SVM, but KVM does not use it: see `lsmod | grep kvm`".to_owned())
        }
        kvm::Error::Emulated { .. } => {
            let advice = "use a host with VMX or SVM; in a virtual machine, turn on nested virtualization";
            (told, advice.to_owned())
        }
        kvm::Error::Kvm(KvmError::Version | KvmError::Capability(_)) => {
            let (major, minor) = OLDEST_KERNEL;
            (told, format!("use Linux {major}.{minor} or newer with its own kvm modules"))
        }
        kvm::Error::Kvm(_) | kvm::Error::Refused { .. } | kvm::Error::Stopped(_) => {
            let advice =
                "see `dmesg | grep -i kvm`; another hypervisor may hold the processor's virtualization";
            (told, advice.to_owned())
        }
    }
}

fn missing_advice(facts: &Facts) -> &'static str {
    if facts.cpu_has_virtualization {
        "load the module: `modprobe kvm_intel` or `modprobe kvm_amd`; in a container, give it /dev/kvm"
    } else {
        "the processor shows neither VMX nor SVM: turn virtualization on in the firmware or, in a virtual \
         machine, nested virtualization on its host"
    }
}

fn tun_check(tun: Device) -> Check {
    match tun {
        Device::Usable => check("tun", Level::Ok, "/dev/net/tun is usable"),
        Device::Denied => check("tun", Level::Note, "no permission to open /dev/net/tun")
            .advise("virtual machines with a network need it: run as root, or pass a tap as a descriptor"),
        Device::Missing => check("tun", Level::Note, "no /dev/net/tun")
            .advise("virtual machines with a network need it: `modprobe tun`"),
    }
}

fn vsock_check(host_vsock: bool) -> Check {
    let kernel = if host_vsock { "has it" } else { "has none" };
    check("vsock", Level::Ok, format!("needs no host module (this kernel {kernel}; unused)"))
}

fn cgroup_check(cgroup: Cgroup) -> Check {
    let advice = "limits of pods need it: boot with `systemd.unified_cgroup_hierarchy=1`";
    match cgroup {
        Cgroup::V2 { .. } => check("cgroup", Level::Ok, "version 2"),
        Cgroup::V1 => check("cgroup", Level::Note, "version 1, not 2").advise(advice),
        Cgroup::None => check("cgroup", Level::Note, "none").advise(advice),
    }
}

fn kernel_check(release: &str) -> Check {
    match version(release) {
        Some(found) if found < OLDEST_KERNEL => {
            let (major, minor) = OLDEST_KERNEL;
            check("kernel", Level::Note, release).advise(format!("older than {major}.{minor}: not tried"))
        }
        _ => check("kernel", Level::Ok, release),
    }
}

/// Major and minor number of a release such as `6.12.57+deb13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn create_vm_check(probe: &Probe, facts: &Facts) -> Option<Check> {
    if probe.create_vm < SLOW_CREATE_VM {
        return None;
    }
    let check = check("kvm", Level::Slow, format!("making a virtual machine took {:.0?}", probe.create_vm));
    let waits_for_cgroups = facts.cgroup == Cgroup::V2 { favordynmods: false }
        && version(&facts.kernel).is_some_and(|found| found >= SLOW_CREATE_VM_KERNEL);
    Some(if waits_for_cgroups {
        check.advise("`mount -o remount,favordynmods /sys/fs/cgroup`")
    } else {
        check
    })
}

fn settings_checks(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add =
        |level, found: &str, advice: &str| checks.push(check("setting", level, found).advise(advice));
    if settings.huge_pages.as_deref() == Some("never") {
        add(
            Level::Slow,
            "transparent huge pages are off: each boot takes thousands of page faults more",
            "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
        );
    }
    if settings.nested_paging == Some(false) {
        add(
            Level::Slow,
            "nested paging is off: each change of a guest's page tables is an exit",
            "load kvm_intel with ept=1, or kvm_amd with npt=1",
        );
    }
    if settings.nx_huge_pages == Some(true) {
        add(
            Level::Slow,
            "guest code runs from small pages (nx_huge_pages, against machine checks by iTLB multihit)",
            "where guests are trusted: `echo off > /sys/module/kvm/parameters/nx_huge_pages`",
        );
    }
    if settings.halt_poll_ns == Some(0) {
        add(
            Level::Slow,
            "halt polling is off: each wake-up of an idle vCPU costs a switch of threads",
            "`echo 200000 > /sys/module/kvm/parameters/halt_poll_ns`",
        );
    }
    if matches!(settings.clocksource.as_deref(), Some("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies")) {
        add(
            Level::Slow,
            "the kernel does not trust the TSC: reading the time is a system call on the host and an exit in guests",
            "see `dmesg | grep -i tsc`",
        );
    }
    if settings.nested == Some(false) {
        add(
            Level::Note,
            "guests cannot run virtual machines of their own",
            "if they should: load kvm_intel or kvm_amd with nested=1",
        );
    }
    checks
}

#[cfg(test)]
mod tests;
