//! What a specification names of the host's: taken out of it where the guest has its own, and refused where it has not.

use serde_json::Value;

use super::{Joinable, LABELS};
use crate::error::ShimError;

/// Those that the guest makes or joins. Who names one of the pod's, which is the VMM's on the host, joins the guest's.
pub fn namespaces(spec: &mut Value, pod: Option<Joinable>) -> Result<(), ShimError> {
    let mut all = spec["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
    let unsupported = |what: String, reason| Err(ShimError::Unsupported { what, reason });
    let hosts = [("pid", "processes"), ("ipc", "shared memory and queues"), ("uts", "name")];
    if let Some((_, what)) =
        hosts.iter().find(|(kind, _)| all.iter().all(|namespace| namespace["type"] != *kind))
    {
        return unsupported(
            format!("the host's {what} in a container"),
            "a virtual machine does not see them; leave the namespace to the container, as is the default",
        );
    }
    all.retain(|namespace| namespace["type"] != "network");
    for namespace in &mut all {
        let path = namespace["path"].as_str().unwrap_or_default().to_owned();
        let kind = namespace["type"].as_str().unwrap_or_default().to_owned();
        if path.is_empty() {
            continue;
        }
        let pods = pod.filter(|pod| path == format!("/proc/{}/ns/{kind}", pod.vmm));
        match (pods, kind.as_str()) {
            (Some(pod), "pid" | "ipc" | "uts") => {
                namespace["path"] = format!("/proc/{}/ns/{kind}", pod.first).into();
            }
            _ => {
                return unsupported(
                    format!("the {kind} namespace '{path}'"),
                    "it is not of the container's own virtual machine; containers of one pod, or of one network (`--network \
                     container:NAME`), share theirs",
                );
            }
        }
    }
    spec["linux"]["namespaces"] = all.into();
    Ok(())
}

/// Device nodes, by the numbers that the guest has devices of: null, zero, full, random, urandom, tty, console, ptmx, tun,
/// fuse. A privileged container is given all of the host's, of which it has these.
pub fn devices(spec: &mut Value) -> Result<(), ShimError> {
    const OF_THE_GUEST: [(u64, u64); 10] =
        [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200), (10, 229)];
    let rules = spec["linux"]["resources"]["devices"].as_array();
    let allows_all = |rule: &Value| {
        rule["allow"] == true
            && ["type", "major", "minor"].iter().all(|key| rule.get(key).is_none_or(Value::is_null))
    };
    let privileged = rules.into_iter().flatten().any(allows_all);
    let linux = spec.get_mut("linux").and_then(|linux| linux.get_mut("devices"));
    let Some(all) = linux.and_then(Value::as_array_mut) else { return Ok(()) };
    let is_the_guests = |device: &Value| {
        let numbers = (device["major"].as_u64(), device["minor"].as_u64());
        device["type"] == "p" || OF_THE_GUEST.iter().any(|known| numbers == (Some(known.0), Some(known.1)))
    };
    match all.iter().find(|device| !is_the_guests(device)) {
        Some(device) if !privileged => Err(ShimError::Unsupported {
            what: format!("the device '{}'", device["path"].as_str().unwrap_or_default()),
            reason: "it is the host's, and a virtual machine has no way to it",
        }),
        _ => {
            all.retain(is_the_guests);
            Ok(())
        }
    }
}

/// Limits for single block devices, of a specification's resources: they are named by the host's numbers.
pub fn block_devices(resources: &Value) -> Result<(), ShimError> {
    const FIELDS: [&str; 5] = [
        "weightDevice",
        "throttleReadBpsDevice",
        "throttleWriteBpsDevice",
        "throttleReadIOPSDevice",
        "throttleWriteIOPSDevice",
    ];
    // The files of a group that have a line for each device.
    const FILES: [&str; 2] = ["io.max", "io.latency"];
    const REASON: &str = "it is the host's, and what a virtual machine has of these numbers is another";
    if let Some((file, line)) = FILES.iter().find_map(|file| Some((file, resources["unified"].get(file)?))) {
        let what = format!("linux.resources.unified of '{file}', for the device in {line}");
        return Err(ShimError::Unsupported { what, reason: REASON });
    }
    let limited = FIELDS.iter().find_map(|field| Some((field, resources["blockIO"][field].get(0)?)));
    limited.map_or(Ok(()), |(field, device)| {
        let (major, minor) = (&device["major"], &device["minor"]);
        Err(ShimError::Unsupported {
            what: format!("linux.resources.blockIO.{field} for the device {major}:{minor}"),
            reason: REASON,
        })
    })
}

/// `process` of one that is made in a container that runs, as containerd's clients copy it from the container's
/// specification, without names of the host's security modules: as of the first process, they mean nothing in the guest.
pub fn process(text: Vec<u8>) -> Vec<u8> {
    // What is no JSON is the guest's to refuse, with the place.
    let Ok(Value::Object(mut process)) = serde_json::from_slice(&text) else { return text };
    let labels = LABELS.map(|name| process.remove(name).is_some());
    match labels.contains(&true) {
        true => Value::Object(process).to_string().into(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::process;

    #[test]
    fn names_of_the_hosts_security_modules_are_left_out_of_a_process() {
        let labelled =
            r#"{"args":["true"],"apparmorProfile":"docker-default","cwd":"/","selinuxLabel":"a:b:c"}"#;
        let plain = r#"{"args":["true"],"cwd":"/"}"#;
        for (text, expected) in [(labelled, plain), (plain, plain), ("[", "["), ("[7]", "[7]")] {
            assert_eq!(process(text.into()), expected.as_bytes());
        }
    }
}
