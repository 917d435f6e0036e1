//! `rvm doctor`: can this host run virtual machines, and if not, why and what to do.
//!
//! In one direction: [`facts`] looks at the host and decides nothing, [`report`] decides and touches
//! nothing. [`kvm`] is the part of the looking that runs a tiny guest; `rvm boot` uses it alone.

mod facts;
pub mod kvm;
mod report;

pub use report::{Check, Level, Report, Verdict};

use facts::Facts;

/// Examines this host. Takes some tens of milliseconds, most of them for the tiny guest.
pub fn examine() -> Report {
    report::judge(&Facts::gather())
}
