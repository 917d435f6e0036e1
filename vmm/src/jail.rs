//! What the VMM gives up before the guest runs: everything that only its preparation took, so that whoever breaks out of
//! the guest has no use for what is left.
//!
//! Capabilities, capabilities(7): none, or where directories are shared, those by which a file server that is root acts for
//! owners of files. A VMM of an ordinary user has none to begin with. What is left of system calls is in
//! [`crate::seccomp`].

use std::io;

use nix::sys::resource::{Resource, setrlimit};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What serving a directory takes: files of any owner, their owners, modes, device nodes, capabilities, and the
/// attributes `trusted.*`, by which an overlayfs in the guest keeps its books.
const OF_A_FILE_SERVER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// Gives up, for this thread and all that it starts, what no later step needs. Every path has been opened.
pub fn enter(shares_files: bool) -> io::Result<()> {
    let needed = if shares_files { OF_A_FILE_SERVER } else { CapabilitySet::empty() };
    // A core would have the guest's memory in it.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().difference(needed).iter() {
        match remove_capability_from_bounding_set(capability) {
            // A kernel that does not know it; a user who has none to pass on.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let had = capabilities(None)?;
    let kept = had.permitted.intersection(needed);
    Ok(set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?)
}
