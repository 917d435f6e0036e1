//! Who else lives in a network namespace: a program there would lose what is led to a machine. Namespaces of CNI and of Docker
//! that wait for a container have interfaces, and no process.

use std::fs::{self, Metadata};
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use super::super::error::NetworkError;
use super::refused;

/// Refuses the network namespace of this thread if any process but this one is in it.
pub fn refuse_others() -> Result<(), NetworkError> {
    let id = |file: Metadata| (file.st_dev(), file.st_ino());
    let attempt = "find out who is in the network namespace";
    let wanted = id(fs::metadata("/proc/thread-self/ns/net").map_err(refused(attempt))?);
    let own = std::process::id();
    let processes = fs::read_dir("/proc").map_err(refused(attempt))?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // One that ends meanwhile is in none.
    let is_there = |process: &u32| {
        let file = fs::metadata(format!("/proc/{process}/ns/net"));
        *process != own && file.is_ok_and(|file| id(file) == wanted)
    };
    match numbers.into_iter().find(is_there) {
        Some(process) => {
            let name = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("comm"));
            Err(NetworkError::InUse { process, name: name.unwrap_or_default().trim_end().to_owned() })
        }
        None => Ok(()),
    }
}
