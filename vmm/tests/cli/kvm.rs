//! A host whose KVM is missing, for others, or of no use.

use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use rvm::doctor;

use crate::place::{Place, cannot_run};

/// `rvm boot` after `script`, whose last word may run it, in a mount namespace with an empty /dev, which is gone with the shell.
fn with_empty_dev(place: &Place, rvm: &Path, script: &str) -> Command {
    let mut shell = place.command("unshare");
    if !geteuid().is_root() {
        shell.arg("--map-root-user");
    }
    // The entropy device needs /dev/urandom.
    let script = format!("mount -t tmpfs none /dev || exit 99; {script} \"$0\" boot --no-rng");
    shell.args(["--mount", "sh", "-c", &script]).arg(rvm);
    shell
}

#[test]
fn no_kvm() {
    let place = Place::new();
    let message = "cannot open /dev/kvm: it does not exist; load the kvm module (kvm_intel or kvm_amd), enable \
                   virtualization in the firmware, or nested virtualization on the host of this machine";
    place.command_refuses(with_empty_dev(&place, Path::new(env!("CARGO_BIN_EXE_rvm")), "exec"), 10, message);
}

#[test]
fn a_kvm_for_others() {
    if !geteuid().is_root() {
        return cannot_run("only the superuser can become another user");
    }
    let place = Place::new();
    let script = "mknod -m 660 /dev/kvm c 10 232; exec setpriv --reuid 65534 --regid 65534 --clear-groups";
    let shell = with_empty_dev(&place, &place.copy_of_rvm(), script);
    let message = "cannot open /dev/kvm: permission denied; add the user to the group 'kvm', or run as root";
    place.command_refuses(shell, 11, message);
}

#[test]
fn a_kvm_without_hardware() {
    let place = Place::new();
    if doctor::kvm::cpu_has_virtualization() {
        return cannot_run("this host's processor has virtualization");
    }
    let Err(doctor::kvm::Error::Emulated { .. }) = doctor::kvm::probe() else {
        return cannot_run("this host has no KVM that emulates");
    };
    let output = place.command(env!("CARGO_BIN_EXE_rvm")).args(["doctor", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(12), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verdict"], "not_hardware", "{report}");

    let output = place.boot::<&str>(&[]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // The speed differs from run to run.
    let (before, after) = said.split_once(" (").unwrap();
    let (_, after) = after.split_once(" instructions a second)").unwrap();
    assert_eq!(
        format!("{before}{after}"),
        "rvm: cannot run a VM on this host: KVM without hardware: this host emulates the guest's kernel mode; run rvm on \
         a machine with VMX or SVM, or ask for nested virtualization (`rvm doctor` tells more)\n"
    );
    assert_eq!(output.status.code(), Some(12));
}
