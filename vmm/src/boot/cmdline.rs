//! The kernel command line: rvm's defaults, then the user's words, then what goes to the first process.

use rvm_config::{Kernel, MAX_CMDLINE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::native::layout;

/// The command line is too long for the kernel.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "kernel command line of {0} bytes, rvm's own part included, is too long: at most {MAX_CMDLINE}; shorten it, or \
     leave out rvm's part with --bare-cmdline"
)]
pub struct CmdlineError(pub usize);

/// What rvm says to a kernel unless told not to.
///
/// - `console=ttyS0`: messages and the first process's standard streams go to the serial port.
/// - `quiet`: each character on the console is an exit; warnings and errors still show.
/// - `reboot=k`: reset by the keyboard controller first; it is there, other ways are tried after it.
/// - `panic=-1`: reset at once after a panic, which the VMM has been told of.
/// - `page_reporting.page_reporting_order=5`: free memory goes back to the host in pieces of 128 KiB, not of 2 MiB: an idle
///   guest keeps 5 to 9 MiB less (adr 11).
pub const DEFAULT_CMDLINE: &str =
    "console=ttyS0 quiet reboot=k panic=-1 page_reporting.page_reporting_order=5";

/// The whole command line for `kernel`.
///
/// The user's words follow rvm's, so that they win where a kernel takes the last of two; what follows ` -- `
/// stays at the end, for the first process.
pub fn compose(kernel: &Kernel) -> Result<String, CmdlineError> {
    let line = match (kernel.bare_cmdline, kernel.cmdline.trim()) {
        (true, own) => own.to_owned(),
        (false, "") => DEFAULT_CMDLINE.to_owned(),
        (false, own) => format!("{DEFAULT_CMDLINE} {own}"),
    };
    match line.len() {
        0..=MAX_CMDLINE => Ok(line),
        length => Err(CmdlineError(length)),
    }
}

/// Writes `cmdline` and a closing zero to [`layout::CMDLINE`]; gives its length without the zero.
pub(super) fn write(memory: &GuestMemoryMmap, cmdline: &str) -> Result<u32, GuestMemoryError> {
    memory.write_slice(cmdline.as_bytes(), GuestAddress(layout::CMDLINE))?;
    memory.write_obj(0_u8, GuestAddress(layout::CMDLINE + cmdline.len() as u64))?;
    Ok(u32::try_from(cmdline.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(cmdline: &str, bare_cmdline: bool) -> Kernel {
        Kernel { cmdline: cmdline.to_owned(), bare_cmdline, ..Default::default() }
    }

    #[test]
    fn the_users_words_come_after_ours() {
        let line = compose(&kernel("quiet=0 -- echo hi", false));
        assert_eq!(line, Ok(format!("{DEFAULT_CMDLINE} quiet=0 -- echo hi")));
        assert_eq!(compose(&kernel("a b", true)), Ok("a b".to_owned()));
        assert_eq!(compose(&kernel("", false)), Ok(DEFAULT_CMDLINE.to_owned()));
    }

    #[test]
    fn our_part_counts_for_the_length() {
        let fits = MAX_CMDLINE - DEFAULT_CMDLINE.len() - 1;
        assert!(compose(&kernel(&"x".repeat(fits), false)).is_ok());
        assert_eq!(compose(&kernel(&"x".repeat(fits + 1), false)), Err(CmdlineError(MAX_CMDLINE + 1)));
    }
}
