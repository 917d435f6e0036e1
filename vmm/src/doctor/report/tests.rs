//! Hosts good and bad, and what is said of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use kvm_ioctls::Cap;
use nix::libc;

use super::{Check, Level, Report, Verdict, judge, version};
use crate::doctor::facts::{Cgroup, Device, Facts, Settings};
use crate::doctor::kvm::{Error, Probe};
use crate::kvm::KvmError;

/// A host with nothing to find fault with.
fn good() -> Facts {
    Facts {
        kvm: Ok(Probe { instructions_per_second: 2_000_000_000, create_vm: Duration::from_millis(1) }),
        kvm_group: None,
        cpu_has_virtualization: true,
        kernel: "6.12.57+deb13-amd64".to_owned(),
        tun: Device::Usable,
        host_vsock: false,
        cgroup: Cgroup::V2 { favordynmods: false },
        settings: Settings {
            huge_pages: Some("madvise".to_owned()),
            nested_paging: Some(true),
            nested: Some(true),
            nx_huge_pages: Some(false),
            halt_poll_ns: Some(200_000),
            clocksource: Some("tsc".to_owned()),
        },
    }
}

fn with_kvm(err: impl Into<Error>) -> Facts {
    Facts { kvm: Err(err.into()), ..good() }
}

/// The lines that are not "ok".
fn complaints(report: &Report) -> Vec<&Check> {
    report.checks.iter().filter(|check| check.level != Level::Ok).collect()
}

#[test]
fn a_good_host_can_run_and_nothing_is_to_be_done() {
    let report = judge(&good());
    assert_eq!(report.exit_code(), 0);
    assert_eq!(complaints(&report), Vec::<&Check>::new());
    assert!(report.checks.iter().all(|check| check.advice.is_none()));
}

#[test]
fn each_way_to_have_no_usable_kvm_has_its_verdict_and_its_advice() {
    let refused = || kvm_ioctls::Error::new(libc::EBUSY);
    for (err, verdict) in [
        (KvmError::Missing.into(), Verdict::NoKvm),
        (KvmError::Permission.into(), Verdict::NoPermission),
        (KvmError::Open(io::ErrorKind::Other.into()).into(), Verdict::BrokenKvm),
        (KvmError::Version.into(), Verdict::BrokenKvm),
        (KvmError::Capability(Cap::Irqchip).into(), Verdict::BrokenKvm),
        (KvmError::step("create a VM")(refused()).into(), Verdict::BrokenKvm),
        (Error::Emulated { instructions_per_second: 900_000 }, Verdict::NotHardware),
        (Error::Refused { step: "run", source: refused() }, Verdict::BrokenKvm),
        (Error::Stopped("InternalError".to_owned()), Verdict::BrokenKvm),
    ] {
        let report = judge(&with_kvm(err));
        assert_eq!(report.verdict, verdict);
        let [failure] = complaints(&report)[..] else { panic!("{report}") };
        assert_eq!((failure.name, failure.level), ("kvm", Level::Fail));
        assert!(failure.advice.is_some());
    }
}

#[test]
fn verdicts_have_distinct_exit_codes_and_only_success_is_zero() {
    let verdicts =
        [Verdict::CanRun, Verdict::NoKvm, Verdict::NoPermission, Verdict::NotHardware, Verdict::BrokenKvm];
    let codes: HashSet<u8> = verdicts.map(Verdict::exit_code).into();
    assert_eq!(codes.len(), verdicts.len());
    assert_eq!(Verdict::CanRun.exit_code(), 0);
}

#[test]
fn the_group_to_join_is_named() {
    let denied = || with_kvm(KvmError::Permission);
    let report = judge(&Facts { kvm_group: Some("virt".to_owned()), ..denied() });
    assert!(report.to_string().contains("usermod -aG virt "), "{report}");
    let report = judge(&denied());
    assert!(!report.to_string().contains("usermod"), "{report}");
}

#[test]
fn a_missing_kvm_is_a_module_to_load_or_a_feature_to_turn_on() {
    let module = judge(&with_kvm(KvmError::Missing));
    assert!(module.to_string().contains("modprobe"), "{module}");
    let feature = judge(&Facts { cpu_has_virtualization: false, ..with_kvm(KvmError::Missing) });
    assert!(feature.to_string().contains("firmware"), "{feature}");
}

#[test]
fn an_emulating_host_is_named_as_such() {
    let report = judge(&with_kvm(Error::Emulated { instructions_per_second: 912_345 }));
    let text = report.to_string();
    assert!(text.contains("emulates the guest's kernel mode (912345 instructions a second)"), "{text}");
}

#[test]
fn what_only_some_uses_need_does_not_fail_the_host() {
    for facts in [
        Facts { tun: Device::Missing, ..good() },
        Facts { tun: Device::Denied, ..good() },
        Facts { cgroup: Cgroup::V1, ..good() },
        Facts { cgroup: Cgroup::None, ..good() },
        Facts { kernel: "4.19.0-27-amd64".to_owned(), ..good() },
    ] {
        let report = judge(&facts);
        assert_eq!(report.exit_code(), 0, "{report}");
        let [note] = complaints(&report)[..] else { panic!("{report}") };
        assert_eq!(note.level, Level::Note, "{report}");
        assert!(note.advice.is_some(), "{report}");
    }
}

#[test]
fn each_slow_setting_is_a_line_with_what_to_do() {
    let all_bad = Settings {
        huge_pages: Some("never".to_owned()),
        nested_paging: Some(false),
        nested: Some(false),
        nx_huge_pages: Some(true),
        halt_poll_ns: Some(0),
        clocksource: Some("hpet".to_owned()),
    };
    let report = judge(&Facts { settings: all_bad, ..good() });
    let slow = complaints(&report);
    assert_eq!(slow.len(), 6, "{report}");
    assert!(slow.iter().all(|check| check.advice.is_some()), "{report}");
    assert_eq!(report.exit_code(), 0);
}

#[test]
fn a_host_that_tells_no_settings_is_not_complained_about() {
    let report = judge(&Facts { settings: Settings::default(), ..good() });
    assert_eq!(complaints(&report), Vec::<&Check>::new());
}

#[test]
fn a_slow_create_vm_is_blamed_on_cgroups_only_where_they_can_cause_it() {
    let slow = Probe { instructions_per_second: 1 << 30, create_vm: Duration::from_millis(25) };
    let with = |kernel: &str, cgroup| {
        let report = judge(&Facts { kvm: Ok(slow), kernel: kernel.to_owned(), cgroup, ..good() });
        let line = report.checks.into_iter().find(|check| check.level == Level::Slow).unwrap();
        line.advice.is_some_and(|advice| advice.contains("favordynmods"))
    };
    assert!(with("6.1.0", Cgroup::V2 { favordynmods: false }));
    assert!(!with("6.1.0", Cgroup::V2 { favordynmods: true }));
    assert!(!with("5.10.0", Cgroup::V2 { favordynmods: false }));
}

#[test]
fn versions_are_read_from_any_release() {
    assert_eq!(version("6.12.57+deb13-amd64"), Some((6, 12)));
    assert_eq!(version("7.0-rc1"), Some((7, 0)));
    assert_eq!(version("unknown"), None);
    assert_eq!(version("6"), None);
    assert_eq!(version("99999999999.1"), None);
}

#[test]
fn the_json_has_the_verdict_and_the_checks() {
    let json = serde_json::to_value(judge(&with_kvm(KvmError::Missing))).unwrap();
    assert_eq!(json["verdict"], "no_kvm");
    assert_eq!(json["checks"][0]["name"], "kvm");
    assert_eq!(json["checks"][0]["level"], "fail");
    assert!(json["checks"][0]["advice"].is_string());
}
