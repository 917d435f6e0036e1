//! What `start` is given on standard input, and what it answers: two forms, by containerd's age.
//!
//! | containerd | standard input | answer |
//! |---|---|---|
//! | up to 2.2 | nothing, or `google.protobuf.Any`, the runtime options | JSON, version 2 |
//! | from 2.3 | `containerd.runtime.bootstrap.v1.BootstrapParams` | `BootstrapResult`, version 3 |
//!
//! Nothing marks the form. An Any decodes as parameters as well: its type name is their instance id, its bytes their
//! namespace. So it is parameters only where these two are what the flags say.

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};
use serde::Serialize;

use crate::flags::Flags;
use crate::log::Level;

/// The answer's version in each form: what a task service of that version name is spoken to by.
const OLD_VERSION: i32 = 2;
const NEW_VERSION: i32 = 3;

/// How the pod's service is spoken to.
const PROTOCOL: &str = "ttrpc";

/// The type of runtime options, which may be one of several things that a newer containerd says.
const OPTIONS: &str = "runtimeoptions.v1.Options";

/// Which form containerd spoke, with what it said.
#[derive(Clone, Debug, PartialEq)]
pub enum Bootstrap {
    /// Up to 2.2, with the runtime options, if there are any.
    Old(Option<Any>),
    /// From 2.3.
    New(Box<BootstrapParams>),
}

#[derive(Serialize)]
struct OldAnswer<'a> {
    version: i32,
    address: &'a str,
    protocol: &'a str,
}

impl Bootstrap {
    /// Tells the forms apart.
    pub fn parse(input: &[u8], flags: &Flags) -> Self {
        match BootstrapParams::parse_from_bytes(input) {
            Ok(params) if params.instance_id == flags.id && params.namespace == flags.namespace => {
                Self::New(Box::new(params))
            }
            _ => Self::Old(Any::parse_from_bytes(input).ok().filter(|options| !options.type_url.is_empty())),
        }
    }

    /// The runtime options, if there are any.
    pub fn runtime_options(&self) -> Option<&Any> {
        match self {
            Self::Old(options) => options.as_ref(),
            Self::New(params) => {
                let mut said = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
                said.find(|value| value.type_url.ends_with(OPTIONS))
            }
        }
    }

    /// Where sockets are to be, if containerd said so.
    pub fn socket_directory(&self) -> Option<&str> {
        match self {
            Self::Old(_) => None,
            Self::New(params) => params.socket_dir.as_deref().filter(|directory| !directory.is_empty()),
        }
    }

    /// Where events go, if containerd said so here.
    pub fn events_address(&self) -> Option<&str> {
        match self {
            Self::Old(_) => None,
            Self::New(params) => {
                Some(params.containerd_ttrpc_address.as_str()).filter(|address| !address.is_empty())
            }
        }
    }

    /// From which level on the shim's log is to have lines, if containerd said so here.
    pub fn log_level(&self) -> Option<Level> {
        let Self::New(params) = self else { return None };
        // 0 is `info`, each level is 4 from the next, and what is between them is the nearest one.
        Some(match params.log_level.value() {
            ..-2 => Level::Debug,
            -2..2 => Level::Info,
            2..6 => Level::Warning,
            6.. => Level::Error,
        })
    }

    /// The answer that the pod's service is at `address`.
    pub fn answer(&self, address: &str) -> protobuf::Result<Vec<u8>> {
        match self {
            Self::Old(_) => {
                let answer = OldAnswer { version: OLD_VERSION, address, protocol: PROTOCOL };
                Ok(serde_json::to_vec(&answer).map_err(std::io::Error::from)?)
            }
            Self::New(_) => BootstrapResult {
                version: NEW_VERSION,
                address: address.to_owned(),
                protocol: PROTOCOL.to_owned(),
                ..BootstrapResult::default()
            }
            .write_to_bytes(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags { namespace: "ns".to_owned(), id: "c1".to_owned(), ..Flags::default() }
    }

    /// Field `number` of a message: a string, or bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    #[test]
    fn an_old_containerd_has_its_answer_as_json_of_version_2() {
        let options = [field(1, b"containerd.runc.v1.Options"), field(2, b"\x38\x01")].concat();
        for (input, kind) in [(Vec::new(), None), (options, Some("containerd.runc.v1.Options"))] {
            let bootstrap = Bootstrap::parse(&input, &flags());
            assert!(matches!(bootstrap, Bootstrap::Old(_)));
            assert_eq!(bootstrap.runtime_options().map(|options| options.type_url.as_str()), kind);
            let answer = bootstrap.answer("unix:///run/containerd/s/ab").unwrap();
            let expected = br#"{"version":2,"address":"unix:///run/containerd/s/ab","protocol":"ttrpc"}"#;
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn a_new_containerd_has_its_answer_as_a_message_of_version_3() {
        let input = [
            field(1, b"c1"),
            field(2, b"ns"),
            field(4, b"2.3.0"),
            field(5, b"/run/containerd/containerd.sock.ttrpc"),
            field(6, b"/run/containerd/containerd.sock"),
            field(8, &field(1, &field(1, b"containerd.io/other"))),
            field(8, &field(1, &[field(1, b"runtimeoptions.v1.Options"), field(2, b"ab")].concat())),
            field(9, b"/run/s"),
        ]
        .concat();
        let bootstrap = Bootstrap::parse(&input, &flags());
        assert_eq!(bootstrap.socket_directory(), Some("/run/s"));
        assert_eq!(bootstrap.events_address(), Some("/run/containerd/containerd.sock.ttrpc"));
        assert_eq!(bootstrap.runtime_options().unwrap().value, b"ab");
        let answer = bootstrap.answer("unix:///run/s/ab").unwrap();
        let expected = [&[1 << 3, 3][..], &field(2, b"unix:///run/s/ab"), &field(3, b"ttrpc")].concat();
        assert_eq!(answer, expected);
    }

    #[test]
    fn the_log_says_as_much_as_containerd_wants() {
        for (said, level) in [
            (-8_i8, Level::Debug),
            (-4, Level::Debug),
            (-1, Level::Info),
            (0, Level::Info),
            (4, Level::Warning),
            (8, Level::Error),
            (12, Level::Error),
        ] {
            // An enumeration is a varint, of 64 bits where it is negative.
            let mut varint = i64::from(said).cast_unsigned();
            let mut input = [field(1, b"c1"), field(2, b"ns"), vec![3 << 3]].concat();
            while varint >= 0x80 {
                input.push(u8::try_from(varint & 0x7f).unwrap() | 0x80);
                varint >>= 7;
            }
            input.push(u8::try_from(varint).unwrap());
            assert_eq!(Bootstrap::parse(&input, &flags()).log_level(), Some(level), "{said}");
        }
        assert_eq!(Bootstrap::parse(&[], &flags()).log_level(), None);
    }

    #[test]
    fn parameters_of_another_container_are_an_any_that_happens_to_decode() {
        let input = [field(1, b"c2"), field(2, b"ns")].concat();
        assert!(matches!(Bootstrap::parse(&input, &flags()), Bootstrap::Old(_)));
        let input = [field(1, b"c1"), field(2, b"other")].concat();
        assert!(matches!(Bootstrap::parse(&input, &flags()), Bootstrap::Old(_)));
        assert_eq!(Bootstrap::parse(b"\xff\xff", &flags()), Bootstrap::Old(None));
    }
}
