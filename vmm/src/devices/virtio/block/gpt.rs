//! The partition tables of a disk that is made of several images (UEFI 2.10, section 5.3): made, never read.
//!
//! ```text
//!  sector  0          1       2 ... 33   2048 ...                          n-33 ... n-2  n-1
//!          protective header  entries    part 1, part 2, ... each          entries       header
//!          MBR                           at a multiple of 1 MiB
//! ```
//!
//! The same parts always make the same tables: identifiers come of the disk's name, the parts' sizes and numbers.

use super::request::SECTOR;

/// Every part starts at a multiple of this many sectors: 1 MiB, as partitioning tools do it.
pub const ALIGNMENT: u64 = (1 << 20) / SECTOR;
/// Most parts: the entries of a table of usual size.
pub const MOST_PARTS: usize = ENTRIES as usize;

const ENTRIES: u32 = 128;
const ENTRY_SIZE: u32 = 128;
const TABLE: usize = (ENTRIES * ENTRY_SIZE) as usize;
const TABLE_SECTORS: u64 = TABLE as u64 / SECTOR;
/// Behind protective MBR, header and entries.
const FIRST_USABLE: u64 = 2 + TABLE_SECTORS;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_SIZE: u32 = 92;
/// What MBR and header take: a sector each.
const HEADER_SECTOR: usize = 512;
const _: () = assert!(HEADER_SECTOR as u64 == SECTOR);
/// Where a header has its own checksum, which is taken with zeroes there.
const HEADER_CRC: usize = 16;
/// "Linux filesystem data", 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it is stored.
const LINUX_DATA: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// What a disk has around its parts.
pub struct Tables {
    /// The disk's first bytes: MBR, header, entries.
    pub front: Vec<u8>,
    /// Its last bytes: entries, header.
    pub back: Vec<u8>,
    /// The sector at which `back` starts.
    pub back_start: u64,
    /// Where each part is.
    pub places: Vec<Place>,
}

/// Where a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first sector.
    pub start: u64,
    /// Its last.
    pub last: u64,
}

/// The tables of a disk named `name` of parts that have these numbers of sectors. `None` for parts that no disk can
/// have: none, more than [`MOST_PARTS`], an empty one, or altogether more than there are sectors.
pub fn tables(name: &[u8], sectors: &[u64]) -> Option<Tables> {
    if !(1..=MOST_PARTS).contains(&sectors.len()) {
        return None;
    }
    let (mut places, mut end) = (Vec::with_capacity(sectors.len()), ALIGNMENT);
    for sectors in sectors {
        let last = end.checked_add(sectors.checked_sub(1)?)?;
        places.push(Place { start: end, last });
        end = last.checked_add(1)?.checked_next_multiple_of(ALIGNMENT)?;
    }
    let back_start = end;
    let capacity = back_start.checked_add(TABLE_SECTORS + 1)?;
    // In bytes it must be a number as well.
    capacity.checked_mul(SECTOR)?;

    let identity = Identity::new(name, sectors);
    let entries = entries(&places, &identity);
    let header =
        Header { disk: identity.of(0), entries_crc: crc32(&entries), back_start, last: capacity - 1 };
    let mut front = protective_mbr(capacity);
    front.extend(header.at_front());
    front.extend(&entries);
    let mut back = entries;
    back.extend(header.at_back());
    Some(Tables { front, back, back_start, places })
}

/// The MBR of a disk of `capacity` sectors that keeps tools without GPT away: one partition over all of it.
fn protective_mbr(capacity: u64) -> Vec<u8> {
    let mut mbr = vec![0; HEADER_SECTOR];
    let sectors = u32::try_from(capacity - 1).unwrap_or(u32::MAX);
    // Cylinders, heads and sectors are those of sector 1, and of what is out of reach.
    put(&mut mbr, 446, &[0, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    put(&mut mbr, 454, &1_u32.to_le_bytes());
    put(&mut mbr, 458, &sectors.to_le_bytes());
    put(&mut mbr, 510, &[0x55, 0xaa]);
    mbr
}

/// What both headers say.
struct Header {
    disk: [u8; 16],
    entries_crc: u32,
    back_start: u64,
    /// The disk's last sector.
    last: u64,
}

impl Header {
    fn at_front(&self) -> Vec<u8> {
        self.bytes(1, self.last, 2)
    }

    fn at_back(&self) -> Vec<u8> {
        self.bytes(self.last, 1, self.back_start)
    }

    /// The header at sector `own`, the other being at `other`, with entries from `entries` on.
    fn bytes(&self, own: u64, other: u64, entries: u64) -> Vec<u8> {
        let mut header = vec![0; HEADER_SECTOR];
        put(&mut header, 0, SIGNATURE);
        put(&mut header, 8, &REVISION.to_le_bytes());
        put(&mut header, 12, &HEADER_SIZE.to_le_bytes());
        put(&mut header, 24, &own.to_le_bytes());
        put(&mut header, 32, &other.to_le_bytes());
        put(&mut header, 40, &FIRST_USABLE.to_le_bytes());
        put(&mut header, 48, &(self.back_start - 1).to_le_bytes());
        put(&mut header, 56, &self.disk);
        put(&mut header, 72, &entries.to_le_bytes());
        put(&mut header, 80, &ENTRIES.to_le_bytes());
        put(&mut header, 84, &ENTRY_SIZE.to_le_bytes());
        put(&mut header, 88, &self.entries_crc.to_le_bytes());
        let crc = crc32(&header[..HEADER_SIZE as usize]);
        put(&mut header, HEADER_CRC, &crc.to_le_bytes());
        header
    }
}

/// The table of entries, one for each of `places`.
fn entries(places: &[Place], identity: &Identity) -> Vec<u8> {
    let mut table = vec![0; TABLE];
    for ((number, place), entry) in (1..).zip(places).zip(table.chunks_exact_mut(ENTRY_SIZE as usize)) {
        put(entry, 0, &LINUX_DATA);
        put(entry, 16, &identity.of(number));
        put(entry, 32, &place.start.to_le_bytes());
        put(entry, 40, &place.last.to_le_bytes());
        let name = format!("part{number}");
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        put(entry, 56, &name);
    }
    table
}

/// Puts a field at its offset into a structure made here.
fn put(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..offset + field.len()].copy_from_slice(field);
}

/// Identifiers of a disk and its partitions.
struct Identity(u128);

impl Identity {
    fn new(name: &[u8], sectors: &[u64]) -> Self {
        let seed = hash(HASH_START, name);
        Self(sectors.iter().fold(seed, |state, sectors| hash(state, &sectors.to_le_bytes())))
    }

    /// The identifier of partition `number`, or of the disk, which is 0: a UUID of version 8 (RFC 9562), as stored.
    fn of(&self, number: u32) -> [u8; 16] {
        let mut uuid = hash(self.0, &number.to_le_bytes()).to_le_bytes();
        uuid[7] = uuid[7] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }
}

/// FNV-1a with 128 bits: to tell apart, not to withstand anybody.
const HASH_START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const HASH_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

fn hash(state: u128, bytes: &[u8]) -> u128 {
    bytes.iter().fold(state, |state, byte| (state ^ u128::from(*byte)).wrapping_mul(HASH_PRIME))
}

/// The checksum of GPT: CRC-32 of ISO 3309.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| CRC_TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ crc >> 8;
    !bytes.iter().fold(!0, step)
}

/// What each byte adds to a [`crc32`].
static CRC_TABLE: [u32; 256] = {
    let (mut table, mut byte) = ([0; 256], 0_u32);
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { 0xedb8_8320 ^ crc >> 1 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn parts_have_places_that_do_not_meet() {
        let tables = tables(b"disk", &[1, 2048, 2049, 7]).unwrap();
        let places: Vec<_> = tables.places.iter().map(|place| (place.start, place.last)).collect();
        assert_eq!(places, [(2048, 2048), (4096, 6143), (6144, 8192), (10240, 10246)]);
        assert_eq!(tables.back_start, 12288);
    }

    #[test]
    fn headers_agree_with_each_other_and_with_their_checksums() {
        let tables = tables(b"disk", &[100, 200]).unwrap();
        let last = tables.back_start + 32;
        let (front, back) = (&tables.front[512..1024], &tables.back[TABLE..]);
        assert_eq!((tables.front.len(), tables.back.len()), (34 * 512, 33 * 512));
        for (header, own, other, entries) in [(front, 1, last, 2), (back, last, 1, tables.back_start)] {
            assert_eq!(&header[..8], b"EFI PART");
            let fields = [24, 32, 40, 48, 72].map(|offset| u64_at(header, offset));
            assert_eq!(fields, [own, other, 34, tables.back_start - 1, entries]);
            assert_eq!([80, 84].map(|offset| u32_at(header, offset)), [128, 128]);
            assert_eq!(u32_at(header, 88), crc32(&tables.back[..TABLE]));
            let mut zeroed = header[..92].to_vec();
            zeroed[16..20].fill(0);
            assert_eq!(u32_at(header, 16), crc32(&zeroed));
        }
        assert_eq!(tables.front[1024..], tables.back[..TABLE]);
        let mbr = &tables.front[..512];
        assert_eq!((mbr[450], u32_at(mbr, 454), u64::from(u32_at(mbr, 458))), (0xee, 1, last));
        assert_eq!(mbr[510..], [0x55, 0xaa]);
    }

    #[test]
    fn identifiers_are_unique_and_always_the_same() {
        let all = |name: &[u8]| {
            let tables = tables(name, &[5; MOST_PARTS]).unwrap();
            let entries = tables.back[..TABLE].chunks_exact(128).map(|entry| entry[16..32].to_vec());
            entries.chain([tables.front[568..584].to_vec()]).collect::<HashSet<_>>()
        };
        let (one, other) = (all(b"one"), all(b"other"));
        assert_eq!((one.len(), one.union(&other).count()), (MOST_PARTS + 1, 2 * (MOST_PARTS + 1)));
        assert_eq!(one, all(b"one"));
    }

    #[test]
    fn parts_that_no_disk_can_have_have_no_tables() {
        for sectors in
            [vec![], vec![1; MOST_PARTS + 1], vec![0], vec![1, 0], vec![u64::MAX], vec![u64::MAX / 2; 2]]
        {
            assert!(tables(b"disk", &sectors).is_none(), "{sectors:?}");
        }
        assert!(tables(b"disk", &[u64::MAX / SECTOR]).is_none());
    }
}
