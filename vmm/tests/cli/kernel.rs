//! Kernels that cannot be booted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::image::{self, Elf};
use crate::place::{Place, as_ordinary_user};

const BOOT_K: [&str; 2] = ["--kernel", "k"];

#[test]
fn one_that_is_missing() {
    let message =
        "cannot open kernel 'k': there is no such file; give the path of an ELF vmlinux or a bzImage";
    let place = Place::new();
    place.refuses(&BOOT_K, 20, message);
    place.refuses(&["--kernel", "guest/vmlinux/k"], 20, &message.replace("'k'", "'guest/vmlinux/k'"));
}

#[test]
fn one_that_may_not_be_read() {
    let place = Place::new();
    place.file("k", image::elf(&Elf::default()));
    fs::set_permissions(place.path("k"), fs::Permissions::from_mode(0o000)).unwrap();
    let message = "cannot open kernel 'k': permission denied; let this user read it";
    place.command_refuses(as_ordinary_user(&place, &BOOT_K), 28, message);
}

#[test]
fn an_empty_file() {
    let place = Place::new();
    place.file("k", "");
    let message = "cannot use kernel 'k': the file is empty; give the path of an ELF vmlinux or a bzImage";
    place.refuses(&BOOT_K, 21, message);
}

#[test]
fn what_is_no_file() {
    let place = Place::new();
    let _socket = UnixListener::bind(place.path("s")).unwrap();
    nix::unistd::mkfifo(&place.path("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, what) in [(".", "a directory"), ("s", "a socket"), ("p", "a pipe"), ("/dev/zero", "a device")]
    {
        let message = format!(
            "cannot open kernel '{path}': it is {what}; give the path of an ELF vmlinux or a bzImage"
        );
        place.refuses(&["--kernel", path], 22, &message);
    }
}

#[test]
fn a_text_file() {
    let place = Place::new();
    let message = "cannot boot kernel 'k': it is no kernel; give the path of an ELF vmlinux or a bzImage";
    for text in ["x", "\x7fEL", "no kernel at all\n", &"line\n".repeat(1000)] {
        place.file("k", text);
        place.refuses(&BOOT_K, 23, message);
    }
}

#[test]
fn an_elf_file_cut_short_anywhere() {
    let place = Place::new();
    let whole = image::elf(&Elf::default());
    for length in [4, 17, 19, 63, 64, 64 + 111, image::HEADERS, whole.len() - 1] {
        place.file("k", &whole[..length]);
        place.refuses(&BOOT_K, 24, "cannot boot kernel 'k': the file is truncated; build or copy it again");
    }
}

#[test]
fn a_bz_image_cut_short_anywhere() {
    let place = Place::new();
    let whole = image::bz_image(|_| {});
    for length in [2, 0x1f4, 0x205, 0x206, 0x236, 0x250, 512 * 2, whole.len() - 16] {
        place.file("k", &whole[..length]);
        place.refuses(&BOOT_K, 24, "cannot boot kernel 'k': the file is truncated; build or copy it again");
    }
}

#[test]
fn one_for_another_architecture() {
    let place = Place::new();
    let elf = |class, machine| image::elf(&Elf { class, machine, ..Elf::default() });
    let mut big_endian = elf(2, 22_u16.to_be());
    big_endian[5] = 2;
    let arm64_image = [&[0; 0x38], b"ARM\x64".as_slice(), &[0; 0x1000]].concat();
    for (kernel, machine) in [
        (elf(2, 183), "arm64"),
        (arm64_image, "arm64"),
        (elf(1, 3), "32-bit x86"),
        (elf(1, 62), "the x32 ABI, or no processor there is"),
        (elf(1, 40), "32-bit Arm"),
        (elf(2, 243), "RISC-V"),
        (elf(2, 21), "PowerPC"),
        (elf(2, 0xbeef), "ELF machine 48879"),
        (big_endian, "s390"),
        (image::bz_image(|image| image[0x236] = 0), "32-bit x86"),
    ] {
        place.file("k", kernel);
        let message = format!(
            "cannot boot kernel 'k': it is for {machine}, this machine is x86-64; build it for x86-64"
        );
        place.refuses(&BOOT_K, 25, &message);
    }
}

#[test]
fn one_larger_than_memory() {
    let place = Place::new();
    let elf = |address, memory_size| image::elf(&Elf { address, memory_size, ..Elf::default() });
    let init_size =
        image::bz_image(|image| image[0x260..0x264].copy_from_slice(&(1_u32 << 30).to_le_bytes()));
    for (kernel, up_to) in [
        (elf(16 << 20, 1 << 30), "1040 MiB"),
        (elf(128 << 20, 0x1000), "129 MiB"),
        (elf(1 << 40, 0x1000), "1048577 MiB"),
        (elf(u64::MAX - 0xfff, 0x2000), "17592186044416 MiB"),
        (init_size, "1040 MiB"),
    ] {
        place.file("k", kernel);
        let message = format!(
            "cannot boot kernel 'k': it needs memory up to {up_to}, the VM has 128 MiB there; give the VM more memory"
        );
        place.refuses(&BOOT_K, 26, &message);
    }
}

#[test]
fn a_large_kernel_file_for_a_small_machine() {
    let place = Place::new();
    place.file("k", image::bz_image(|_| {}));
    fs::File::options().write(true).open(place.path("k")).unwrap().set_len(201 << 20).unwrap();
    let message = "cannot boot kernel 'k': it needs memory up to 202 MiB, the VM has 128 MiB there; give the VM more \
                   memory";
    place.refuses(&BOOT_K, 26, message);
}

#[test]
fn one_that_says_of_itself_what_cannot_be() {
    let place = Place::new();
    let damaged = |message: &str| {
        format!("cannot boot kernel 'k': the image is damaged ({message}); build or copy it again")
    };
    let vmlinux = |at: usize, byte| {
        let mut image = image::elf(&Elf::default());
        image[at] = byte;
        image
    };
    for (kernel, message) in [
        (vmlinux(64, 0), "nothing in it is to be loaded"),
        (vmlinux(54, 1), "invalid program header size"),
        (vmlinux(27, 0), "invalid entry address"),
        (image::bz_image(|image| image[0x211] = 0), "invalid bzimage"),
    ] {
        place.file("k", kernel);
        place.refuses(&BOOT_K, 27, &damaged(message));
    }
}

#[test]
fn none_given_and_rvms_own_not_there() {
    let place = Place::new();
    fs::remove_file(place.path("guest/vmlinux")).unwrap();
    let message = "cannot find vmlinux, which comes with rvm, in guest; build it with `make build`, name a directory in \
                   RVM_GUEST_DIR, or give --kernel";
    place.refuses::<&str>(&[], 29, message);
}
