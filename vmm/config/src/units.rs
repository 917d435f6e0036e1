//! Sizes as people write them: `256M`, `2G`, a bare number of MiB.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount of guest memory, in whole MiB.
///
/// Written as a number with `M`, `MiB`, `G` or `GiB`; a bare number is MiB. In JSON a string so written, or a
/// number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct MemorySize {
    mib: u32,
}

/// Why a text is no amount of memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an amount of memory that a VM can have: write for example 256M or 2G")]
pub struct UnitError(String);

impl MemorySize {
    /// `mib` times 1,048,576 bytes.
    pub const fn from_mib(mib: u32) -> Self {
        Self { mib }
    }

    /// In MiB.
    pub const fn mib(self) -> u32 {
        self.mib
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        (self.mib as u64) << 20
    }
}

impl FromStr for MemorySize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError(text.to_owned());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let mib_per_unit = match text.strip_prefix(digits).unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "m" | "mb" | "mib" => 1,
            "g" | "gb" | "gib" => 1024,
            _ => return Err(error()),
        };
        let count: u32 = digits.parse().map_err(|_| error())?;
        Ok(Self { mib: count.checked_mul(mib_per_unit).ok_or_else(error)? })
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mib {
            mib if mib != 0 && mib % 1024 == 0 => write!(f, "{} GiB", mib / 1024),
            mib => write!(f, "{mib} MiB"),
        }
    }
}

/// The two ways to write an amount in JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Mib(u32),
    Text(String),
}

impl TryFrom<Written> for MemorySize {
    type Error = UnitError;

    fn try_from(written: Written) -> Result<Self, UnitError> {
        match written {
            Written::Mib(mib) => Ok(Self { mib }),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        format!("{}M", size.mib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mib) in [("128", 128), ("64M", 64), ("2G", 2048), ("1GiB", 1024), ("300mib", 300)] {
            assert_eq!(text.parse(), Ok(MemorySize::from_mib(mib)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_text() {
        for text in ["", "M", "1T", "-1", "1.5G", "4294967296", "4194304G", "12 M"] {
            assert_eq!(text.parse::<MemorySize>(), Err(UnitError(text.into())), "{text}");
        }
    }
}
