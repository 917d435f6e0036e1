//! What the threads of a VMM may do on the host, however it was started.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The first number that a VMM takes as its user and group; its process's is added.
const FIRST_NUMBER: u32 = 0x7000_0000;
/// chown, dac_override, fowner, fsetid, sys_admin, mknod, setfcap.
const OF_A_FILE_SERVER: &str = "000000008820001b";
const NONE: &str = "0000000000000000";

/// The fields of a thread's `status` in /proc.
pub type Status = BTreeMap<String, String>;

/// Those of each thread of the process `pid`.
#[track_caller]
pub fn of_threads(pid: i32) -> Vec<Status> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let text = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().replace('\t', " ")))
    };
    text.map(|text| text.lines().filter_map(field).collect()).collect()
}

/// Limits of a VMM's resources (proc_pid_limits(5)), whoever started it: what it may have, or less. It may have more
/// descriptors for files that it shares.
const LIMITS: [(&str, u64); 7] = [
    ("Max core file size", 0),
    ("Max msgqueue size", 0),
    ("Max nice priority", 0),
    ("Max realtime priority", 0),
    ("Max locked memory", 8 << 20),
    ("Max processes", 1024),
    ("Max open files", 2048),
];
const OF_A_SHARE: u64 = 1 << 18;

/// Checks that the VMM `pid`, which root started, is nobody's, with no right of root's but those of a file server, if it
/// `shares` files, on that thread alone, and no resource that it has no use for. `threads` are among its own.
#[track_caller]
pub fn are_given_up(pid: i32, shares: bool, threads: &[&str]) {
    let own = FIRST_NUMBER + u32::try_from(pid).unwrap();
    let statuses = of_threads(pid);
    for status in &statuses {
        let name = status["Name"].as_str();
        let for_files = if matches!(name, "rvm-fs" | "rvm-vsock") { 0 } else { own };
        let capabilities = if name == "rvm-fs" { OF_A_FILE_SERVER } else { NONE };
        let expected = [
            ("Uid", format!("{own} {own} {own} {for_files}")),
            ("Gid", format!("{own} {own} {own} {for_files}")),
            ("Groups", String::new()),
            ("CapEff", capabilities.to_owned()),
            ("CapPrm", capabilities.to_owned()),
            ("CapInh", NONE.to_owned()),
            ("CapBnd", NONE.to_owned()),
            ("CapAmb", NONE.to_owned()),
            ("NoNewPrivs", "1".to_owned()),
        ];
        for (field, value) in expected {
            assert_eq!(status[field], value, "{field} of {name}");
        }
    }
    let has = |name: &str| statuses.iter().any(|status| status["Name"] == name);
    assert_eq!(has("rvm-fs"), shares);
    for thread in threads {
        assert!(has(thread), "{thread} of {statuses:?}");
    }
    // No other process of the same number could trace it, and no core is made of it.
    let owner = fs::metadata(Path::new("/proc").join(pid.to_string()).join("environ")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (0, 0));
    are_bounded(pid, shares);
}

fn are_bounded(pid: i32, shares: bool) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for (name, most) in LIMITS {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let mut limits = line.split_whitespace().take(2).map(|word| word.parse().unwrap_or(u64::MAX));
        let most = if shares && name == "Max open files" { most + OF_A_SHARE } else { most };
        // The lab's own limit of open files is lower, and root's VMM goes beyond it.
        let exact = name == "Max open files" && rvm_tests::artifact::in_lab();
        assert!(limits.all(|limit| if exact { limit == most } else { limit <= most }), "{name} {line}");
    }
}
