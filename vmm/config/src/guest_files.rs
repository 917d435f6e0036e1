//! The kernel and guest image that come with rvm, for machines that name none.

use std::path::{Path, PathBuf};

use crate::Kernel;

/// They are nowhere.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot find {file}, which comes with rvm, in {looked}; build it with `make build`, name a directory in \
     RVM_GUEST_DIR, or give --kernel"
)]
pub struct GuestFilesError {
    file: &'static str,
    looked: String,
}

const KERNEL: &str = "vmlinux";
const IMAGE: &str = "initramfs.cpio";
const AGENT_IMAGE: &str = "initramfs-agent.cpio";

/// Which kernel and which initrd `kernel` means. A kernel of the user's own has no initrd unless named.
pub fn paths(kernel: &Kernel) -> Result<(PathBuf, Option<PathBuf>), GuestFilesError> {
    match (&kernel.image, &kernel.initrd) {
        (Some(image), initrd) => Ok((image.clone(), initrd.clone())),
        (None, Some(initrd)) => Ok((find(KERNEL)?, Some(initrd.clone()))),
        (None, None) => Ok((find(KERNEL)?, Some(find(IMAGE)?))),
    }
}

/// Where the files may be: a directory of the user's choice alone, or beside the program, or installed.
fn directories() -> Vec<PathBuf> {
    if let Some(chosen) = std::env::var_os("RVM_GUEST_DIR") {
        return vec![chosen.into()];
    }
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(|directory| directory.join("guest"));
    beside.into_iter().chain([PathBuf::from("/usr/lib/rvm")]).collect()
}

fn find(file: &'static str) -> Result<PathBuf, GuestFilesError> {
    let directories = directories();
    let found = directories.iter().map(|directory| directory.join(file)).find(|path| path.exists());
    found.ok_or_else(|| {
        let looked: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
        GuestFilesError { file, looked: looked.join(" or ") }
    })
}

/// The kernel, and the guest image that containers run in.
pub fn of_containers() -> Result<(PathBuf, PathBuf), GuestFilesError> {
    Ok((find(KERNEL)?, find(AGENT_IMAGE)?))
}
