//! The terminal in raw mode, and back.
//!
//! It is restored when the guard is dropped, and by [`restore`] where nothing is dropped: a panic, or an exit in
//! the middle. The state to go back to is kept for the process, as the terminal is the process's.

#![allow(unsafe_code, reason = "asking a terminal for its size is an ioctl")]

use std::io;
use std::sync::Mutex;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The terminal as it was, while it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input's terminal is raw as long as this lives.
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal of standard input raw: every key goes to the guest, Ctrl-c included.
    pub fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        if let Ok(mut kept) = BEFORE.lock() {
            kept.get_or_insert(before);
        }
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was, if it is raw. May be called at any time, and more than once.
pub fn restore() {
    // A panic while the lock is held cannot be helped here; there is none between lock and unlock.
    if let Ok(mut kept) = BEFORE.try_lock()
        && let Some(before) = kept.take()
    {
        // A terminal that is gone needs no restoring.
        tcsetattr(io::stdin(), SetArg::TCSANOW, &before).ok();
    }
}

/// Columns and rows of the terminal on standard input; `None` where there is none, or it does not know.
pub fn size() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize through the pointer, which is of `size`.
    let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}
