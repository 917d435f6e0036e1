//! The header in front of every packet (virtio 1.2, section 5.10.6): 44 bytes, little-endian.
//!
//! ```text
//!  0        8        16       20       24   28    30  32     36         40
//!  src_cid  dst_cid  src_port dst_port len  type  op  flags  buf_alloc  fwd_cnt
//! ```

/// Bytes of a header.
pub const HEADER_SIZE: usize = 44;
/// The host's context identifier (5.10.4).
pub const HOST_CID: u64 = 2;
/// The socket type that is offered, VIRTIO_VSOCK_TYPE_STREAM.
pub const STREAM: u16 = 1;

/// SHUTDOWN flag: the sender will receive no more.
pub const NO_RECEIVE: u32 = 1;
/// SHUTDOWN flag: the sender will send no more.
pub const NO_SEND: u32 = 2;
/// Both SHUTDOWN flags: the sender is done with the connection.
pub const NO_MORE: u32 = NO_RECEIVE | NO_SEND;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Agrees to one.
    Response = 2,
    /// Refuses one, ends one at once, or confirms its end.
    Reset = 3,
    /// Tells that no more is sent or received, by its flags.
    Shutdown = 4,
    /// Data.
    Data = 5,
    /// Tells how much the sender can take.
    CreditUpdate = 6,
    /// Asks for a [`Op::CreditUpdate`].
    CreditRequest = 7,
}

/// A packet's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Who sends it.
    pub src_cid: u64,
    /// Who it is for.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// Bytes of data after the header.
    pub len: u32,
    /// The socket type; [`STREAM`] or one that is not offered.
    pub kind: u16,
    /// What the packet is for, see [`Header::op`].
    pub op: u16,
    /// Flags, of which SHUTDOWN alone has some.
    pub flags: u32,
    /// How many bytes the sender keeps for a reader that is not ready.
    pub buf_alloc: u32,
    /// How many bytes the sender has passed on to its reader since the connection began (wraps).
    pub fwd_cnt: u32,
}

impl Header {
    /// The header in its bytes on the ring.
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        let rest = &mut bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(rest)),
            dst_cid: u64::from_le_bytes(take(rest)),
            src_port: u32::from_le_bytes(take(rest)),
            dst_port: u32::from_le_bytes(take(rest)),
            len: u32::from_le_bytes(take(rest)),
            kind: u16::from_le_bytes(take(rest)),
            op: u16::from_le_bytes(take(rest)),
            flags: u32::from_le_bytes(take(rest)),
            buf_alloc: u32::from_le_bytes(take(rest)),
            fwd_cnt: u32::from_le_bytes(take(rest)),
        }
    }

    /// The bytes of the header on the ring.
    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let Self { src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt } = self;
        let mut bytes = [0; HEADER_SIZE];
        let rest = &mut bytes.as_mut_slice();
        put(rest, src_cid.to_le_bytes());
        put(rest, dst_cid.to_le_bytes());
        put(rest, src_port.to_le_bytes());
        put(rest, dst_port.to_le_bytes());
        put(rest, len.to_le_bytes());
        put(rest, kind.to_le_bytes());
        put(rest, op.to_le_bytes());
        put(rest, flags.to_le_bytes());
        put(rest, buf_alloc.to_le_bytes());
        put(rest, fwd_cnt.to_le_bytes());
        bytes
    }

    /// What the packet is for; `None` for a number without a meaning.
    pub fn op(&self) -> Option<Op> {
        let ops = [
            Op::Request,
            Op::Response,
            Op::Reset,
            Op::Shutdown,
            Op::Data,
            Op::CreditUpdate,
            Op::CreditRequest,
        ];
        ops.into_iter().find(|op| *op as u16 == self.op)
    }

    /// The RST that answers this packet: of the same type, the other way.
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }
}

/// Takes a field off the front.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (field, after) = rest.split_first_chunk().expect("the fields fill the header");
    *rest = after;
    *field
}

/// Puts a field to the front.
fn put<const N: usize>(rest: &mut &mut [u8], value: [u8; N]) {
    let (field, after) = std::mem::take(rest).split_first_chunk_mut().expect("the fields fill the header");
    *field = value;
    *rest = after;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_lie_where_the_specification_has_them() {
        let bytes: [u8; HEADER_SIZE] = std::array::from_fn(|index| u8::try_from(index).unwrap_or(0));
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_port, 0x1716_1514);
        assert_eq!((header.len, header.kind, header.op), (0x1b1a_1918, 0x1d1c, 0x1f1e));
        assert_eq!((header.flags, header.fwd_cnt), (0x2322_2120, 0x2b2a_2928));
        assert_eq!(header.to_bytes(), bytes);
    }

    #[test]
    fn numbers_that_are_no_operation_are_none() {
        for (op, expected) in [(0, None), (1, Some(Op::Request)), (7, Some(Op::CreditRequest)), (8, None)] {
            assert_eq!(Header { op, ..Header::default() }.op(), expected);
        }
    }
}
