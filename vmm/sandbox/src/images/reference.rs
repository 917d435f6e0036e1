//! Names of images, as users write them.
//!
//! A name without a registry is one of Docker Hub, a name without a tag has `latest`: as with Docker. What a name may
//! look like: OCI distribution specification, "Pulling manifests".

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::digest::Digest;

const DOCKER_HUB: &str = "docker.io";
/// Longest name, registry included.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Its host and port.
    pub registry: String,
    /// Its name there.
    pub repository: String,
    /// Which of its versions.
    pub version: Version,
}

/// A version of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// What the registry has under this name now.
    Tag(String),
    /// These contents.
    Digest(Digest),
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// `NAME[:TAG|@DIGEST]`: in the store, or in a registry.
    Registry(Reference),
    /// `oci:DIR[:TAG]`: a directory that is an OCI image layout.
    Oci(PathBuf, Option<String>),
    /// `oci-archive:FILE[:TAG]`: a tar archive of one.
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME]`: what `docker save` writes.
    DockerArchive(PathBuf, Option<String>),
    /// `dir:PATH`: a directory that is a root file system.
    Directory(PathBuf),
}

/// Why a text names no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It is not the name of an image.
    #[error(
        "'{text}' is no name of an image: {why}; write NAME[:TAG], as alpine:3.20 or registry:5000/team/app@sha256:..."
    )]
    Name {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A place without a path.
    #[error("'{0}' has no path behind the colon")]
    Path(String),
}

impl Reference {
    /// How a name is shown: as short as it can be written.
    pub fn short(&self) -> String {
        let full = self.to_string();
        let hub = full.strip_prefix("docker.io/").map(|rest| rest.strip_prefix("library/").unwrap_or(rest));
        hub.map_or(full.clone(), str::to_owned)
    }

    /// The tag, if the version is one.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let error = |why| ReferenceError::Name { text: text.to_owned(), why };
        let (name, version) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|_| error("its digest is not sha256 and 64 digits"))?;
                // A tag beside a digest says nothing more.
                (split_tag(name).0, Version::Digest(digest))
            }
            None => {
                let (name, tag) = split_tag(text);
                (name, Version::Tag(tag.unwrap_or("latest").to_owned()))
            }
        };
        if let Version::Tag(tag) = &version
            && !is_tag(tag)
        {
            return Err(error(
                "its tag has other characters than letters, digits, '_', '.', '-', or too many",
            ));
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => (DOCKER_HUB, name.to_owned()),
            None => (DOCKER_HUB, format!("library/{name}")),
        };
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        let host =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
        let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'[';
        if !registry.bytes().next().is_some_and(first) || !registry.bytes().all(host) {
            return Err(error("its registry is no host name"));
        }
        if !path.split('/').all(is_component) || name.len() > NAME_MAX {
            return Err(error("a name has lower case letters and digits, with '.', '_', '-' between them"));
        }
        Ok(Self { registry: registry.to_owned(), repository: path, version })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, repository, version } = self;
        match version {
            Version::Tag(tag) => write!(f, "{registry}/{repository}:{tag}"),
            Version::Digest(digest) => write!(f, "{registry}/{repository}@{digest}"),
        }
    }
}

impl FromStr for ImageSource {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let place = |path: &str| match path {
            "" => Err(ReferenceError::Path(text.to_owned())),
            path => Ok(PathBuf::from(path)),
        };
        let chosen = |path: &str| {
            // A colon in a path's last part begins a tag; docker's names have more than one.
            let start = path.rfind('/').map_or(0, |slash| slash + 1);
            match path[start..].split_once(':') {
                Some((file, tag)) => Ok((place(&path[..start + file.len()])?, Some(tag.to_owned()))),
                None => Ok((place(path)?, None)),
            }
        };
        match text.split_once(':') {
            Some(("oci", path)) => chosen(path).map(|(path, tag)| Self::Oci(path, tag)),
            Some(("oci-archive", path)) => chosen(path).map(|(path, tag)| Self::OciArchive(path, tag)),
            Some(("docker-archive", path)) => {
                chosen(path).map(|(path, name)| Self::DockerArchive(path, name))
            }
            Some(("dir", path)) => place(path).map(Self::Directory),
            _ => text.parse().map(Self::Registry),
        }
    }
}

impl ImageSource {
    /// The same, whatever directory one is in.
    pub fn absolute(self) -> std::io::Result<Self> {
        use std::path::absolute;
        Ok(match self {
            Self::Registry(reference) => Self::Registry(reference),
            Self::Oci(path, tag) => Self::Oci(absolute(path)?, tag),
            Self::OciArchive(path, tag) => Self::OciArchive(absolute(path)?, tag),
            Self::DockerArchive(path, name) => Self::DockerArchive(absolute(path)?, name),
            Self::Directory(path) => Self::Directory(absolute(path)?),
        })
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, tag) = match self {
            Self::Registry(reference) => return f.write_str(&reference.short()),
            Self::Oci(path, tag) => ("oci", path, tag.as_ref()),
            Self::OciArchive(path, tag) => ("oci-archive", path, tag.as_ref()),
            Self::DockerArchive(path, tag) => ("docker-archive", path, tag.as_ref()),
            Self::Directory(path) => ("dir", path, None),
        };
        write!(f, "{kind}:{}", path.display())?;
        tag.map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

/// The tag begins at the last colon, unless that is a registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let rest = |byte: u8| word(byte) || matches!(byte, b'.' | b'-');
    tag.len() <= TAG_MAX && tag.bytes().next().is_some_and(word) && tag.bytes().all(rest)
}

/// Letters and digits, with separators between them: one of `.`, `_`, `__`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let ends = |end: Option<u8>| end.is_some_and(letter);
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && separators.into_iter().all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn names_are_completed_as_docker_does() {
        for (text, full, short) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("docker.io/alpine", "docker.io/alpine:latest", "alpine:latest"),
            ("team/app", "docker.io/team/app:latest", "team/app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b:tag", "localhost:5000/a/b:tag", "localhost:5000/a/b:tag"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("ghcr.io/a__b/c-d.e", "ghcr.io/a__b/c-d.e:latest", "ghcr.io/a__b/c-d.e:latest"),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(
                (reference.to_string(), reference.short()),
                (full.to_owned(), short.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_digest_is_a_version() {
        let text = format!("localhost:5000/a@sha256:{DIGITS}");
        assert_eq!(text.parse::<Reference>().expect("a name").to_string(), text);
        let tagged: Reference = format!("localhost:5000/a:1@sha256:{DIGITS}").parse().expect("a name");
        assert_eq!(tagged.to_string(), text);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ":",
            "Alpine",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:b:c d",
            "a@sha256:12",
            "a@md5:12",
            "-a",
            "a..b",
            "a_-b",
            "../a",
            "a/../b",
            "localhost:5000/",
            "a:-tag",
            "höst.de/a",
            "a b",
            "a\n",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn places_on_this_machine_are_told_by_their_kind() {
        let tag = |tag: &str| Some(tag.to_owned());
        for (text, source) in [
            ("oci:a/b", ImageSource::Oci("a/b".into(), None)),
            ("oci:/a:b/c:1.0", ImageSource::Oci("/a:b/c".into(), tag("1.0"))),
            ("oci-archive:a.tar", ImageSource::OciArchive("a.tar".into(), None)),
            ("docker-archive:/x/a.tar:app:1", ImageSource::DockerArchive("/x/a.tar".into(), tag("app:1"))),
            ("dir:/rootfs:1", ImageSource::Directory("/rootfs:1".into())),
        ] {
            assert_eq!(text.parse(), Ok(source), "{text}");
        }
        assert_eq!("oci:".parse::<ImageSource>(), Err(ReferenceError::Path("oci:".into())));
    }
}
