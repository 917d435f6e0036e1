//! The terminal of a process: a pair of the container's own devpts.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat, makedev};
use nix::sys::statfs::fstatfs;

use super::Failure;
use super::root::Root;
use crate::container::sys;

/// DEVPTS_SUPER_MAGIC of linux/magic.h.
const DEVPTS: libc::__fsword_t = 0x1cd1;

/// Both sides of a terminal.
pub struct Terminal {
    /// The agent's.
    pub master: OwnedFd,
    /// The process's.
    pub slave: OwnedFd,
}

/// Makes one. What the container has at /dev/pts/ptmx is opened as it would be by a process of the container (whose
/// group says what devices that may be), and used only if it is what it should be.
pub fn open(root: &Root) -> Result<Terminal, Failure> {
    pair(root).map_err(Failure::at("make a terminal in the container's /dev/pts"))
}

fn pair(root: &Root) -> io::Result<Terminal> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let master = root.open(Path::new("/dev/pts/ptmx"), flags)?;
    let file = fstat(&master)?;
    let is_character = SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    let is_in_devpts = fstatfs(&master)?.filesystem_type().0 == DEVPTS;
    if !is_in_devpts || !is_character || file.st_rdev != makedev(5, 2) {
        return Err(Errno::ENOTTY.into());
    }
    sys::unlock_terminal(master.as_fd())?;
    let slave = sys::open_terminal(master.as_fd())?;
    Ok(Terminal { master, slave })
}

/// Makes /dev/console the process's terminal.
pub fn be_console(root: &Root, terminal: &Terminal) -> Result<(), Failure> {
    let mount = || {
        let tree = sys::clone_tree(terminal.slave.as_fd(), c"", false)?;
        sys::attach(tree.as_fd(), root.file(Path::new("/dev/console"))?.as_fd())
    };
    mount().map_err(Failure::at("make /dev/console the terminal"))
}
