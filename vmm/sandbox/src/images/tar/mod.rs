//! Reads tar archives as a stream: ustar, pax (POSIX.1-2001), and GNU's extensions for long names and sparse files.
//!
//! Every byte is an attacker's. What an entry says is bounded here (names, headers, numbers); what it means for a file
//! system is decided by [`crate::images::layer`]. Nothing is kept but the entry at hand.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{Entry, EntryKind, TarReader};
pub use writer::TarWriter;

use std::io;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It ends within an entry.
    #[error("it is cut short within {0}")]
    Truncated(String),
    /// A header that is none.
    #[error("there is no tar header where one must be: {0}")]
    Header(&'static str),
    /// A pax header that is none.
    #[error("the pax header of an entry cannot be understood: {0}")]
    Pax(&'static str),
    /// A header longer than any honest one.
    #[error("a header for a long name or for attributes has {0} bytes, more than the {1} that rvm reads")]
    Long(u64, u64),
    /// A map of a sparse file that is none.
    #[error("the map of sparse file '{0}' cannot be understood")]
    Sparse(String),
    /// An entry of another system.
    #[error("'{name}' is of type '{kind}', which rvm does not know")]
    Kind {
        /// The entry.
        name: String,
        /// Its type, a letter.
        kind: char,
    },
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
