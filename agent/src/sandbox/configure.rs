//! Configure: the guest's name, clock, randomness, kernel parameters, network, and the files with names.
//!
//! All that can be checked is checked before anything is changed; what the kernel refuses then ends the call, and
//! what was applied before it stays (each part can be applied again).

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use rvm_agent_proto::ConfigureRequest;

use crate::net;
use crate::refusal::Refusal;
use crate::sandbox::names::{self, Names};
use crate::sys;

/// Longest host name of Linux (__NEW_UTS_LEN).
const MAX_HOSTNAME: usize = 64;
/// More entropy than this is of no use to a generator whose state has 32 bytes.
const MAX_ENTROPY: usize = 512;
const NS_A_SECOND: i64 = 1_000_000_000;

/// Applies what the request has, in the order of its message.
pub fn apply(request: &ConfigureRequest, names: &mut Names) -> Result<(), Refusal> {
    check_hostname(request.hostname.as_deref())?;
    if request.entropy.len() > MAX_ENTROPY {
        return Err(Refusal::invalid("entropy", "it is longer than 512 bytes"));
    }
    let sysctls = sysctls(&request.sysctls)?;
    names::check(&request.hosts, request.dns.as_ref())?;
    let network = net::Network::parse(&request.interfaces, &request.routes, &request.neighbours)?;

    if let Some(name) = &request.hostname {
        nix::unistd::sethostname(name).map_err(Refusal::kernel(|| format!("set the host name to {name}")))?;
        names.hostname = Some(name.clone());
    }
    if let Some(now) = request.time_ns {
        set_clock(now)?;
    }
    if !request.entropy.is_empty() {
        sys::add_entropy(&request.entropy)
            .map_err(Refusal::kernel(|| "add entropy to /dev/urandom".to_owned()))?;
    }
    for (path, value) in sysctls {
        fs::write(&path, value)
            .map_err(Refusal::kernel(|| format!("write {value:?} to {}", path.display())))?;
    }
    network.apply()?;
    if let Some(dns) = &request.dns {
        names.dns = Some(dns.clone());
    }
    if !request.hosts.is_empty() {
        names.hosts.clone_from(&request.hosts);
    }
    names.write()
}

fn check_hostname(name: Option<&str>) -> Result<(), Refusal> {
    let Some(name) = name else { return Ok(()) };
    let fits = (1..=MAX_HOSTNAME).contains(&name.len());
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    match fits && plain {
        true => Ok(()),
        false => Err(Refusal::invalid(
            format!("the host name {name:?}"),
            "it has to be 1 to 64 letters, digits, dots, hyphens and underscores",
        )),
    }
}

fn set_clock(now_ns: i64) -> Result<(), Refusal> {
    let time = TimeSpec::new(now_ns.div_euclid(NS_A_SECOND), now_ns.rem_euclid(NS_A_SECOND));
    clock_settime(ClockId::CLOCK_REALTIME, time)
        .map_err(Refusal::kernel(|| format!("set the clock to {now_ns} ns after 1970")))
}

/// The files below /proc/sys for names with dots, and what is to be written to them.
fn sysctls(wanted: &HashMap<String, String>) -> Result<Vec<(PathBuf, &str)>, Refusal> {
    wanted.iter().map(|(name, value)| Ok((sysctl_path(name)?, value.as_str()))).collect()
}

/// The file of a kernel parameter. As with sysctl(8), a slash in a name stands for a dot in a file's.
fn sysctl_path(name: &str) -> Result<PathBuf, Refusal> {
    let part_is_plain = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/".contains(&byte);
        !part.is_empty() && !part.starts_with('/') && !part.ends_with('/') && part.bytes().all(plain)
    };
    if !name.split('.').all(part_is_plain) || name.contains("//") {
        let reason = "it has to be words of letters, digits, - and _, with dots between them";
        return Err(Refusal::invalid(format!("the sysctl {name:?}"), reason));
    }
    let parts = name.split('.').map(|part| part.replace('/', "."));
    let mut path = PathBuf::from("/proc/sys");
    path.extend(parts);
    match path.exists() {
        true => Ok(path),
        false => Err(Refusal::Absent(format!("sysctl {name} in this guest's kernel"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{check_hostname, sysctl_path};
    use crate::refusal::Refusal;
    use std::path::Path;

    #[test]
    fn a_sysctl_is_a_file_below_proc_sys() {
        assert_eq!(sysctl_path("kernel.ostype").unwrap(), Path::new("/proc/sys/kernel/ostype"));
        assert!(matches!(sysctl_path("net.ipv4.no_such"), Err(Refusal::Absent(_))));
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_sysctls() {
        for name in
            ["", ".", "..", "kernel..ostype", "../etc/passwd", "kernel.ostype/", "/etc", "a b", "kernel.//"]
        {
            assert!(matches!(sysctl_path(name), Err(Refusal::Invalid { .. })), "{name:?}");
        }
    }

    #[test]
    fn host_names_are_checked_before_they_are_set() {
        for (name, good) in
            [("box", true), ("a-1.example_x", true), ("", false), ("a b", false), ("ä", false)]
        {
            assert_eq!(check_hostname(Some(name)).is_ok(), good, "{name:?}");
        }
        assert!(check_hostname(Some(&"x".repeat(65))).is_err());
    }
}
