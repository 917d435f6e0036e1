//! The kernels that rvm boots, told apart by their content, and what it hands them.

use std::fs;
use std::path::{Path, PathBuf};

use rvm_tests::artifact;
use tempfile::TempDir;

use super::run::said_by;

/// The kernel's number for who loaded it: the high digit of `type_of_loader` (Linux boot protocol).
const LOADER: &str = "cat /proc/sys/kernel/bootloader_type";

fn boots(kernel: &Path) -> String {
    let initrd = artifact::initramfs();
    let [kernel, initrd] = [kernel, &initrd].map(|path| path.to_str().unwrap());
    said_by(&["--kernel", kernel, "--initrd", initrd], LOADER)
}

#[test]
fn a_vmlinux_is_entered_in_64_bit_mode() {
    assert_eq!(boots(&artifact::vmlinux()), "255\n");
}

/// A copy of our kernel that tells of its PVH entry, but not that it is Linux.
fn vmlinux_of_nobody(directory: &TempDir) -> PathBuf {
    const PT_NOTE: [u8; 4] = [4, 0, 0, 0];
    let mut elf = fs::read(artifact::vmlinux()).unwrap();
    let count = usize::from(u16::from_le_bytes([elf[56], elf[57]]));
    let header = elf[64..].chunks_exact(56).take(count).find(|header| header[..4] == PT_NOTE);
    let header = header.expect("our kernel has notes");
    let [offset, length] = [8, 32].map(|at| u64::from_le_bytes(header[at..at + 8].try_into().unwrap()));
    let notes = &mut elf[usize::try_from(offset).unwrap()..][..usize::try_from(length).unwrap()];
    while let Some(at) = notes.windows(6).position(|owner| owner == b"Linux\0") {
        notes[at..at + 5].copy_from_slice(b"Hurd?");
    }
    let path = directory.path().join("vmlinux");
    fs::write(&path, elf).unwrap();
    path
}

#[test]
fn a_vmlinux_that_is_not_known_to_be_linux_is_entered_by_pvh() {
    let directory = TempDir::new().unwrap();
    assert_eq!(boots(&vmlinux_of_nobody(&directory)), "176\n");
}

#[test]
fn a_bz_image_boots() {
    assert_eq!(boots(&artifact::bz_image()), "255\n");
}

#[test]
fn an_initrd_of_ones_own_is_used() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("initrd");
    // Archives may follow one another.
    let own = cpio("hello", b"from the second archive\n");
    fs::write(&path, [fs::read(artifact::initramfs()).unwrap(), own].concat()).unwrap();
    let said = said_by(&["--initrd", path.to_str().unwrap()], "cat /hello");
    assert_eq!(said, "from the second archive\n");
}

/// An archive with one file (Documentation/driver-api/early-userspace/buffer-format.rst of Linux).
fn cpio(name: &str, content: &[u8]) -> Vec<u8> {
    let entry = |name: &str, mode: usize, content: &[u8]| {
        let numbers = [0, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        let mut entry: String = numbers.iter().map(|number| format!("{number:08X}")).collect();
        entry.insert_str(0, "070701");
        let mut entry = [entry.as_bytes(), name.as_bytes(), &[0]].concat();
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry.extend(content);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    };
    [entry(name, 0o100_644, content), entry("TRAILER!!!", 0, b"")].concat()
}
