//! The end of the guest: processes stopped, disks clean, host told, power off.

use std::path::Path;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::Signal;
use nix::unistd::{pause, sync};
use rvm_config::guest_abi::GuestEvent;

use crate::console::{self, say};
use crate::port::EventPort;
use crate::reap::Signals;

/// How long processes have to end after SIGTERM, when the guest ends.
pub const TERM_GRACE: Duration = Duration::from_secs(2);
/// How long the kernel has to end them after SIGKILL: one that hangs on a dead device never ends.
const KILL_GRACE: Duration = Duration::from_secs(3);

/// Ends every process that `signal` reaches: asked first, killed after `grace`. `false` if one outlived
/// even that.
///
/// SIGHUP follows SIGTERM because interactive shells ignore the latter, and SIGCONT because a stopped
/// process acts on neither.
pub fn stop_processes(signals: &Signals, grace: Duration, signal: impl Fn(Signal)) -> bool {
    for ask in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
        signal(ask);
    }
    if signals.until_childless(grace) {
        return true;
    }
    signal(Signal::SIGKILL);
    signals.until_childless(KILL_GRACE)
}

/// Tells the host the exit code and powers the guest off.
pub fn power_off(code: u8) -> ! {
    sync();
    match EventPort::open() {
        Some(port) => port.tell(GuestEvent::Exit(code)),
        None => say(&format!("exit code {code}")),
    }
    console::drain();
    // Without ACPI Linux cannot power off, and halts instead, for ever. A reset ends a guest, too.
    let modes = match Path::new("/sys/firmware/acpi").exists() {
        true => [RebootMode::RB_POWER_OFF, RebootMode::RB_AUTOBOOT],
        false => [RebootMode::RB_AUTOBOOT, RebootMode::RB_POWER_OFF],
    };
    for mode in modes {
        let Err(err) = reboot(mode);
        say(&format!("cannot power off ({mode:?}): {err}"));
    }
    // An init that returns is a kernel panic, which says less than the lines above.
    loop {
        pause();
    }
}
