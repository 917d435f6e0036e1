//! The contract between the host and the agent in a guest: a gRPC service over vsock, and streams beside it.
//!
//! `proto/agent.proto` says what every call does. Control goes by gRPC to [`RPC_PORT`]; bulk data does not: each
//! stream of a process or of an archive is a vsock connection of its own to [`STREAM_PORT`], which the host opens
//! and begins with the stream's [token](stream_header).
//!
//! For the host every message from here is a guest's: data, whatever it says.

#![allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from the .proto file, whose comments are the documentation"
)]

tonic::include_proto!("rvm.agent.v1");

/// Version of the protocol. Host and agent speak to each other only when theirs are equal: they come from one
/// build.
pub const PROTOCOL: u32 = 1;

/// vsock port of the gRPC service in the guest.
pub const RPC_PORT: u32 = 1024;

/// vsock port of the streams in the guest.
pub const STREAM_PORT: u32 = 1025;

/// vsock port of the host that takes questions about names: each connection has one, and then its answer, as messages
/// of DNS over TCP (RFC 1035, 4.2.2), of which the host makes datagrams.
pub const NAMES_DATAGRAM_PORT: u32 = 1026;

/// vsock port of the host behind which the name server itself is, by TCP.
pub const NAMES_STREAM_PORT: u32 = 1027;

/// Bytes with which the host begins a stream: its token, little-endian.
pub const STREAM_HEADER: usize = 8;

/// The first bytes of the stream with this token. The token is the host's choice, not 0, and unique while the
/// stream lives.
pub const fn stream_header(token: u64) -> [u8; STREAM_HEADER] {
    token.to_le_bytes()
}
