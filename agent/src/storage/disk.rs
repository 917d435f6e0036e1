//! Disks of the guest, by the serial number that the host gave them.
//!
//! A placeholder disk is there from the boot with no capacity; the host gives it its image later, and may then give it
//! another one.
//! Linux tells nobody when a disk's capacity changes from none (set_capacity_and_notify() in block/genhd.c sends no
//! uevent then), so who waits for one has to look. That is rare: the interrupt for the change is there
//! before the call that names the disk.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::refusal::Refusal;
use crate::sys::mounting;

/// How long a disk is waited for, or its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a partition is waited for: as long as the kernel may take to hear of the disk's new length.
const PARTITION_PATIENCE: Duration = Duration::from_secs(2);
/// The first pause between two looks, and the longest: each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// The unit of /sys/block/NAME/size.
const SECTOR_BYTES: u64 = 512;
/// Bytes of a serial number (VIRTIO_BLK_ID_BYTES in the virtio specification, 5.2.6).
const MAX_SERIAL: usize = 20;

/// The device of a disk of this length in bytes, if that is not 0, or of a partition of it if that is not 0.
pub async fn find(serial: &str, length: u64, partition: u32) -> Result<PathBuf, Refusal> {
    if serial.is_empty() || serial.len() > MAX_SERIAL {
        return Err(Refusal::invalid(format!("the disk {serial:?}"), "its id has to have 1 to 20 bytes"));
    }
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(name) = disk_named(Path::new("/sys/block"), serial, length) {
            match partition {
                0 => return Ok(Path::new("/dev").join(name)),
                number => match partition_of(&name, number) {
                    Err(Refusal::Absent(_)) if begin.elapsed() < PARTITION_PATIENCE => {}
                    found => return found,
                },
            }
        } else if begin.elapsed() >= PATIENCE {
            return Err(Refusal::Absent(format!("disk {serial} (after 10 s)")));
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Waits until nothing is mounted of a device any more. Its last mount may be one of a namespace whose last process has
/// just ended: the kernel takes that down, and writes what is left, after the process is gone.
pub async fn released(device: &Path) -> Result<(), Refusal> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        // A file system has its device for itself (BLK_OPEN_EXCL), as whoever opens it with this flag would.
        match OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL).open(device) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) && begin.elapsed() < PATIENCE => {}
            opened => {
                let step = || format!("wait for the end of the file system of {}", device.display());
                return opened.map(drop).map_err(Refusal::kernel(step));
            }
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// The kernel's name of the disk of a serial number that has this length in bytes, or any but none.
fn disk_named(block: &Path, serial: &str, length: u64) -> Option<String> {
    fs::read_dir(block).ok()?.flatten().find_map(|entry| {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
        if read("serial")?.trim_end_matches(['\n', '\0']) != serial {
            return None;
        }
        let bytes = read("size")?.trim_end().parse::<u64>().ok()?.saturating_mul(SECTOR_BYTES);
        let found = bytes != 0 && (length == 0 || length == bytes);
        found.then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// The device of a partition. The table is read again first, for the kernel does not when a disk gets its capacity;
/// it refuses while one is in use, and then they are known.
fn partition_of(disk: &str, number: u32) -> Result<PathBuf, Refusal> {
    let device = Path::new("/dev").join(disk);
    let separator = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    let partition = Path::new("/dev").join(format!("{disk}{separator}{number}"));
    let reread = File::open(&device).and_then(mounting::reread_partitions);
    if partition.exists() {
        return Ok(partition);
    }
    reread.map_err(Refusal::kernel(|| format!("read the partition table of {}", device.display())))?;
    Err(Refusal::Absent(format!("partition {number} of {}", device.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{disk_named, find};
    use crate::refusal::Refusal;
    use std::fs;
    use std::path::Path;

    fn disk(block: &Path, name: &str, serial: &str, size: &str) {
        fs::create_dir(block.join(name)).unwrap();
        fs::write(block.join(name).join("serial"), serial).unwrap();
        fs::write(block.join(name).join("size"), size).unwrap();
    }

    #[test]
    fn a_disk_is_known_by_its_serial_number_once_it_has_its_capacity() {
        let block = tempfile::tempdir().unwrap();
        disk(block.path(), "vda", "layers-0\n", "0\n");
        disk(block.path(), "vdb", "layers-1", "2048\n");
        fs::create_dir(block.path().join("loop0")).unwrap();
        let named = |serial, length| disk_named(block.path(), serial, length);
        assert_eq!(named("layers-0", 0), None);
        assert_eq!(named("layers-1", 0).as_deref(), Some("vdb"));
        fs::write(block.path().join("vda/size"), "8\n").unwrap();
        assert_eq!(named("layers-0", 0).as_deref(), Some("vda"));
        assert_eq!((named("layers-0", 4096).as_deref(), named("layers-0", 512)), (Some("vda"), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_does_not_come_is_not_waited_for_for_ever() {
        assert!(matches!(find("no-such-disk", 0, 0).await, Err(Refusal::Absent(_))));
        assert!(matches!(find("", 0, 0).await, Err(Refusal::Invalid { .. })));
    }
}
