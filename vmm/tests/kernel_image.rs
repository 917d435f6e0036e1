//! Kernel images with anything in their headers: each is booted or refused, and the loader survives it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "cli/image.rs"]
mod image;

use std::fs;

use rvm::arch::native::regs::Entry;
use rvm::boot::{self, FileKind, LoadedKernel, NamedFile};
use rvm::memory;
use rvm_config::MemorySize;
use tempfile::TempDir;
use vm_memory::GuestMemoryMmap;

use image::Elf;

struct Bench {
    directory: TempDir,
    memory: GuestMemoryMmap,
}

impl Bench {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            memory: memory::allocate(MemorySize::from_mib(64)).unwrap(),
        }
    }

    fn load(&self, image: &[u8]) -> Result<LoadedKernel, boot::KernelError> {
        let path = self.directory.path().join("k");
        fs::write(&path, image).unwrap();
        boot::load_kernel(&self.memory, NamedFile::open(FileKind::Kernel, path).unwrap())
    }

    /// Loads `whole` with each byte of `header`, and each run of eight, replaced by values at the edges.
    fn survives(&self, whole: &[u8], header: std::ops::Range<usize>) {
        let (mut taken, mut refused) = (0, 0);
        for at in header {
            for value in [0, 0x7f, 0x80, 0xff] {
                for length in [1, 8] {
                    let mut image = whole.to_vec();
                    image.iter_mut().skip(at).take(length).for_each(|byte| *byte = value);
                    match self.load(&image) {
                        Ok(_) => taken += 1,
                        Err(_) => refused += 1,
                    }
                }
            }
        }
        assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    }
}

#[test]
fn an_elf_header_may_have_anything_in_it() {
    let bench = Bench::new();
    let kernel = image::elf(&Elf { pvh: true, ..Elf::default() });
    assert!(matches!(bench.load(&kernel).unwrap().entry, Entry::Pvh(_)));
    bench.survives(&kernel, 0..image::HEADERS);
}

#[test]
fn a_bz_image_header_may_have_anything_in_it() {
    let bench = Bench::new();
    let kernel = image::bz_image(|_| {});
    bench.load(&kernel).unwrap();
    bench.survives(&kernel, 0x1f1..0x270);
}
