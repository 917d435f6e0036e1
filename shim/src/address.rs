//! Addresses of streams, as containerd's clients write them: a path, or a URI (RFC 3986) with a scheme, a path and a query.
//! Everything in a URI may be percent-encoded; in a query `+` is a space, as in forms.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::ShimError;

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// What it leads to; `None`: it is a plain path.
    pub scheme: Option<String>,
    /// On the host.
    pub path: PathBuf,
    /// The query's parameters, in their order; of equal names the first.
    pub parameters: Vec<(OsString, OsString)>,
}

impl Address {
    /// Reads one.
    pub fn read(text: &str) -> Result<Self, ShimError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self { scheme: None, path: text.into(), parameters: Vec::new() });
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let invalid = |reason: &str| ShimError::Invalid {
            what: "the address of a stream",
            reason: format!("'{text}' {reason}"),
        };
        if !path.starts_with('/') {
            return Err(invalid("has no absolute path behind '://': three slashes are needed"));
        }
        let decoded = |text: &str| {
            let bytes = decode(text).filter(|bytes| !bytes.contains(&0));
            bytes
                .map(OsString::from_vec)
                .ok_or_else(|| invalid("has a '%' that no two digits of a byte follow"))
        };
        let mut parameters: Vec<(OsString, OsString)> = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, value) = (decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?);
            if parameters.iter().all(|(known, _)| *known != name) {
                parameters.push((name, value));
            }
        }
        Ok(Self { scheme: Some(scheme.to_owned()), path: decoded(path)?.into(), parameters })
    }
}

/// Takes percent-encoding away.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    Some(decoded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_as_it_is_and_a_uri_apart() {
        let plain = Address::read("/run/fifo/50%25?a=b").unwrap();
        assert_eq!((plain.scheme, plain.path), (None, "/run/fifo/50%25?a=b".into()));
        let uri = Address::read("binary:///usr/bin/my%20log?--to=%2Fvar&x+y=1%3D1&--to=no&flag#end").unwrap();
        assert_eq!((uri.scheme.as_deref(), uri.path.to_str()), (Some("binary"), Some("/usr/bin/my log")));
        let parameters = [("--to", "/var"), ("x y", "1=1"), ("flag", "")];
        assert_eq!(uri.parameters, parameters.map(|(name, value)| (name.into(), value.into())));
    }

    #[test]
    fn what_is_no_address_is_an_error() {
        for (text, words) in [
            ("binary://log?a=b", "no absolute path"),
            ("binary://", "no absolute path"),
            ("file:///a%2", "'%'"),
            ("file:///a%zz", "'%'"),
            ("file:///a%00b", "'%'"),
            ("binary:///a?b=%", "'%'"),
            ("binary:///a?%é=1", "'%'"),
        ] {
            let error = Address::read(text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(text), "{error}");
        }
    }
}
