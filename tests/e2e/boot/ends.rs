//! Every way a machine can end has its own exit status (docs/exit-status.md), and rvm says which it was.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::image::{self, Elf};
use super::run::{Running, boot, guest, run};

#[test]
fn a_power_off_is_no_failure() {
    for script in ["poweroff -f", "poweroff; sleep 1000"] {
        let ran = guest(&[], script);
        assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "{ran:?}");
    }
}

#[test]
fn a_reboot_ends_the_vm() {
    let ran = guest(&[], "reboot -f");
    assert_eq!(ran.error, "rvm: the guest asked for a reset; the VM ends\n");
    assert_eq!(ran.status, Some(90));
}

#[test]
fn a_kernel_panic_is_told_and_its_reason_is_on_the_console() {
    let ran = guest(&[], "echo c >/proc/sysrq-trigger");
    assert!(ran.out.contains("Kernel panic - not syncing: sysrq triggered crash"), "{ran:?}");
    assert_eq!(ran.error, "rvm: the guest's kernel panicked; its last lines on the console say why\n");
    assert_eq!(ran.status, Some(91));
}

#[test]
fn a_kernel_without_a_first_process_panics() {
    let ran = run(boot(&["--cmdline", "rdinit=/nonexistent"]));
    assert!(ran.out.contains("Kernel panic - not syncing: VFS: Unable to mount root fs"), "{ran:?}");
    assert_eq!(ran.status, Some(91));
}

/// A kernel that consists of `code`, entered in 64-bit mode.
fn kernel_of(directory: &TempDir, code: &[u8]) -> PathBuf {
    let elf = Elf { code: code.to_vec(), ..Elf::default() };
    let path = directory.path().join("kernel");
    fs::write(&path, image::elf(&elf)).unwrap();
    path
}

#[test]
fn a_triple_fault_is_told() {
    let directory = TempDir::new().unwrap();
    #[rustfmt::skip]
    let code = [
        0x0f, 0x01, 0x1d, 2, 0, 0, 0,  // lidt [table]
        0x0f, 0x0b,                    // ud2, for which the table has no handler
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  // table: empty, at 0
    ];
    for cpus in ["1", "4"] {
        let kernel = kernel_of(&directory, &code);
        let ran = run(boot(&["--kernel", kernel.to_str().unwrap(), "--cpus", cpus]));
        assert_eq!(ran.error, "rvm: the guest crashed (triple fault)\n");
        assert_eq!((ran.status, ran.out.as_str()), (Some(92), ""));
    }
}

#[test]
fn an_instruction_that_kvm_cannot_run_is_told() {
    let directory = TempDir::new().unwrap();
    #[rustfmt::skip]
    let code = [
        0xb8, 0, 0, 0, 0x20,  // mov eax, 512 MiB: mapped, but no memory there
        0xff, 0xe0,           // jmp rax
    ];
    let kernel = kernel_of(&directory, &code);
    let ran = run(boot(&["--kernel", kernel.to_str().unwrap()]));
    assert!(ran.error.starts_with("rvm: KVM met an instruction or state that it cannot emulate"), "{ran:?}");
    assert_eq!(ran.status, Some(93));
}

#[test]
fn signals_end_even_a_guest_that_does_nothing_any_more() {
    #[rustfmt::skip]
    let code = [
        0x66, 0xba, 0xf8, 3,  // mov dx, 0x3f8
        0xb0, b'!',           // mov al, '!'
        0xee,                 // out dx, al
        0xb0, b'\n',          // mov al, '\n'
        0xee,                 // out dx, al
        0xfa,                 // cli
        0xf4,                 // hlt
    ];
    let directory = TempDir::new().unwrap();
    let kernel = kernel_of(&directory, &code);
    for (signal, status) in
        [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129), (Signal::SIGQUIT, 131)]
    {
        let mut running = Running::start(boot(&["--kernel", kernel.to_str().unwrap()]));
        running.out.wait_for("!\n");
        running.signal(signal);
        let ran = running.end();
        assert_eq!(ran.error, format!("rvm: ended by {signal}\n"));
        assert_eq!(ran.status, Some(status));
    }
}
