//! The limit of a file's length (`ulimit -f`, RLIMIT_FSIZE): a write beyond it fails, and does not end the process.

use nix::sys::signal::{SigSet, Signal};

/// Keeps away from this thread, and all that it starts, the signal that ends a process whose file becomes longer than its
/// limit: a disk tells its guest of the error instead. To be called before any other thread is started.
pub fn is_an_error() {
    // Fails only for what is no signal.
    SigSet::from(Signal::SIGXFSZ).thread_block().ok();
}
