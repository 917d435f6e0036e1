//! Names of contents: `sha256:` and 64 hexadecimal digits (OCI image specification, "Descriptors", section "Digests").

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The digest of a blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    hex: String,
}

/// Why a text is no digest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no digest that rvm can check: 'sha256:' and 64 hexadecimal digits are")]
pub struct DigestError(String);

impl Digest {
    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self { hex: hex(Sha256::digest(data).as_slice()) }
    }

    /// The digits alone; they are fit for the name of a file.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = text.strip_prefix("sha256:").ok_or_else(|| DigestError(text.to_owned()))?;
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match digits.len() == 64 && digits.bytes().all(lower) {
            true => Ok(Self { hex: digits.to_owned() }),
            false => Err(DigestError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

/// Passes on what it reads from `R`, and makes its digest.
pub struct Hashing<R> {
    source: R,
    hasher: Sha256,
}

impl<R: Read> Hashing<R> {
    /// Nothing is read yet.
    pub fn new(source: R) -> Self {
        Self { source, hasher: Sha256::new() }
    }

    /// Of all that was read.
    pub fn digest(self) -> Digest {
        Digest { hex: hex(self.hasher.finalize().as_slice()) }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_made_while_reading() {
        let mut reader = Hashing::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).expect("memory can be read");
        let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(reader.digest().to_string(), digest);
        assert_eq!(Digest::of(b"abc").to_string(), digest);
    }

    #[test]
    fn only_sha256_in_lower_case_is_one() {
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(format!("sha256:{digits}").parse::<Digest>().is_ok());
        for text in [
            digits.to_owned(),
            format!("sha512:{digits}{digits}"),
            format!("sha256:{}", digits.to_uppercase()),
            format!("sha256:../{}", &digits[3..]),
            format!("sha256:{digits}0"),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(DigestError(text.clone())), "{text}");
        }
    }
}
