//! What a disk says about itself: feature bits (virtio 1.2, section 5.2.3) and configuration (section 5.2.4).
//!
//! ```text
//!  offset  field                       here
//!       0  capacity u64                in sectors of 512 bytes; may change, with a configuration interrupt
//!       8  size_max u32                (not offered: a segment is as long as it is)
//!      12  seg_max u32                 the queue's descriptors less header and status
//!      16  geometry                    (not offered)
//!      20  blk_size u32                512: the host's page cache takes any sector
//!      24  physical_block_exp u8       3: below 4 KiB the page cache reads before it writes
//!      25  alignment_offset u8         0
//!      26  min_io_size u16             8 blocks
//!      28  opt_io_size u32             0: nothing to say
//!      32  writeback u8                (CONFIG_WCE not offered: the cache follows FLUSH)
//!      34  num_queues u16              (MQ not offered)
//!      36  max_discard_sectors u32
//!      40  max_discard_seg u32         1
//!      44  discard_sector_alignment    8
//!      48  max_write_zeroes_sectors
//!      52  max_write_zeroes_seg u32    1
//!      56  write_zeroes_may_unmap u8   1
//! ```

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Descriptors of the queue. With indirect descriptors also the number of requests in flight.
pub const QUEUE_SIZE: u16 = 256;
/// Most data segments of a request: a chain of the queue's size has room for a header and a status besides.
pub const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Most sectors of a discard: 1 GiB, which no file system takes long to give back.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Most sectors of a write-zeroes: 32 MiB, because where the host's file system cannot do it the device writes.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;

/// Where the configuration has the disk's capacity, the one field that changes.
pub const CAPACITY: usize = 0;

const BLK_SIZE: u32 = 512;
/// 4 KiB, the host's page, as a power of two of [`BLK_SIZE`].
const PHYSICAL_BLOCK_EXP: u8 = 3;
const PHYSICAL_BLOCK: u8 = 1 << PHYSICAL_BLOCK_EXP;
const BYTES: usize = 60;

/// The feature bits of a disk.
pub fn features(read_only: bool) -> u64 {
    let always = bit(VIRTIO_BLK_F_SEG_MAX)
        | bit(VIRTIO_BLK_F_BLK_SIZE)
        | bit(VIRTIO_BLK_F_TOPOLOGY)
        | bit(VIRTIO_BLK_F_FLUSH)
        | bit(VIRTIO_RING_F_INDIRECT_DESC)
        | bit(VIRTIO_RING_F_EVENT_IDX);
    match read_only {
        true => always | bit(VIRTIO_BLK_F_RO),
        false => always | bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES),
    }
}

/// The feature that `number` stands for.
pub const fn bit(number: u32) -> u64 {
    1 << number
}

/// The configuration of a disk of `sectors`.
pub fn config(sectors: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
    put(CAPACITY, &sectors.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &BLK_SIZE.to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXP]);
    put(26, &u16::from(PHYSICAL_BLOCK).to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &1_u32.to_le_bytes());
    put(44, &u32::from(PHYSICAL_BLOCK).to_le_bytes());
    put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
    put(52, &1_u32.to_le_bytes());
    put(56, &[1]);
    bytes
}
