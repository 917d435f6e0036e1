//! What pods of `io.containerd.rvm.v2` have on the host, so that a test can tell what is left of them.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

/// The socket, the place and the mounts of the pod `id`, in a namespace of the containerd that listens at `address`.
pub fn of_pod(address: &str, namespace: &str, id: &str) -> Vec<String> {
    let socket = format!("/run/containerd/s/{}", hash(&format!("{address}/{namespace}/{id}"), 32));
    let place = format!("/run/rvm-shim/{}", hash(&format!("{namespace}/{id}"), 10));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&place)).map(str::to_owned).collect();
    [socket, place].into_iter().filter(|path| Path::new(path).exists()).chain(mounts).collect()
}

fn hash(text: &str, bytes: usize) -> String {
    Sha256::digest(text).iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// The shims of those pods of a namespace, and their VMMs, by number and command line.
pub fn shims_and_vmms(namespace: &str, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str()?.parse::<i32>().ok()
    });
    let processes: Vec<_> = pids.map(|pid| (pid, words(pid))).collect();
    let follows = |words: &[String], flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).cloned()
    };
    let is_shim = |words: &[String]| {
        words.first().is_some_and(|program| program.ends_with("containerd-shim-rvm-v2"))
            && follows(words, "-namespace").as_deref() == Some(namespace)
            && follows(words, "-id").is_some_and(|id| is_meant(&id))
    };
    let shims: Vec<_> = processes.iter().filter(|(_, words)| is_shim(words)).map(|(pid, _)| *pid).collect();
    let of_namespace =
        processes.into_iter().filter(|(pid, _)| shims.contains(pid) || shims.contains(&parent(*pid)));
    of_namespace.map(|(pid, words)| format!("process {pid}: {}", words.join(" "))).collect()
}

fn words(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The parent of a process: 0 when it is gone.
pub fn parent(pid: i32) -> i32 {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// Whether this process is a VMM: that which was one, as long as it is there.
pub fn is_vmm(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.ends_with("rvm"))
}
