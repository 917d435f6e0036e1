//! Options of the command line: `key=value,key=value,flag`, the first possibly a bare value.

use std::str::FromStr;

/// Why an option of the command line cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A key that the option does not have.
    #[error("unknown key '{key}' (known: {known})")]
    UnknownKey {
        /// As written.
        key: String,
        /// What could have been written.
        known: &'static str,
    },
    /// A key without which the option means nothing.
    #[error("'{0}=' is missing")]
    MissingKey(&'static str),
    /// A value that its key does not take.
    #[error("'{key}' cannot be '{value}': {reason}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// As written.
        value: String,
        /// What the key takes.
        reason: String,
    },
    /// Two keys of which only one may be given.
    #[error("'{0}' and '{1}' exclude each other")]
    Exclusive(&'static str, &'static str),
}

/// The keys and values of `text`. A part without `=` is a flag and has no value; if it comes first it is the
/// value of `first` instead.
pub(crate) fn pairs<'a>(text: &'a str, first: &'a str) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
    text.split(',').enumerate().map(move |(index, part)| match part.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None if index == 0 => (first, Some(part)),
        None => (part, None),
    })
}

/// The value of `key`, parsed.
pub(crate) fn value<T>(key: &'static str, value: Option<&str>) -> Result<T, OptionError>
where
    T: FromStr,
    T::Err: ToString,
{
    let value = value.unwrap_or_default();
    value.parse().map_err(|error: T::Err| OptionError::BadValue {
        key,
        value: value.to_owned(),
        reason: error.to_string(),
    })
}

/// The value of a flag: on when it stands alone.
pub(crate) fn flag(key: &'static str, value: Option<&str>) -> Result<bool, OptionError> {
    match value {
        None | Some("on" | "true") => Ok(true),
        Some("off" | "false") => Ok(false),
        Some(other) => Err(OptionError::BadValue {
            key,
            value: other.to_owned(),
            reason: "on or off is expected".to_owned(),
        }),
    }
}
