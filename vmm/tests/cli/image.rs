//! Kernels made by hand: as much of one as a test needs.

/// Where the segment of an ELF file is loaded, and entered.
const ADDRESS: u64 = 16 << 20;

/// Bytes of the segment in the file.
const SEGMENT: usize = 0x1000;

/// Bytes before the segment: file header, two program headers, a note.
pub const HEADERS: usize = 64 + 2 * 56 + NOTE.len();

/// The note by which a kernel tells its PVH entry (Xen's elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY, 18), which is
/// [`ADDRESS`].
const NOTE: [u8; 20] = *b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01";

/// An ELF file, and what it says of itself (System V ABI, chapters 4 and 5).
pub struct Elf {
    /// 1 for 32-bit, 2 for 64-bit.
    pub class: u8,
    pub machine: u16,
    /// Of the one segment, and the entry.
    pub address: u64,
    pub memory_size: u64,
    /// At the start of the segment.
    pub code: Vec<u8>,
    pub pvh: bool,
}

impl Default for Elf {
    /// A kernel for this machine that does nothing.
    fn default() -> Self {
        Self { class: 2, machine: 62, address: ADDRESS, memory_size: 0x1000, code: vec![0xf4], pvh: false }
    }
}

/// The file that `elf` describes.
pub fn elf(elf: &Elf) -> Vec<u8> {
    let mut file = Vec::from(*b"\x7fELF");
    file.extend([elf.class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(2_u16.to_le_bytes()); // e_type: executable
    file.extend(elf.machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend(elf.address.to_le_bytes()); // e_entry
    file.extend(64_u64.to_le_bytes()); // e_phoff
    file.extend([0; 12]); // e_shoff, e_flags
    file.extend([64_u16, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());

    let mut program_header = |kind: u32, numbers: [u64; 6]| {
        file.extend(kind.to_le_bytes());
        file.extend(5_u32.to_le_bytes()); // readable and executable
        file.extend(numbers.map(u64::to_le_bytes).concat());
    };
    let (load, note) = (1, if elf.pvh { 4 } else { 0 });
    let size = SEGMENT as u64;
    program_header(load, [HEADERS as u64, elf.address, elf.address, size, elf.memory_size, 0x1000]);
    let note_size = NOTE.len() as u64;
    program_header(note, [HEADERS as u64 - note_size, 0, 0, note_size, note_size, 4]);
    file.extend(NOTE);
    assert_eq!(file.len(), HEADERS);

    file.extend(&elf.code);
    file.resize(HEADERS + SEGMENT, 0);
    file
}

/// A bzImage in which rvm finds no fault, except what `change` makes of its header (Linux boot protocol).
pub fn bz_image(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut image = vec![0; 512 * 2 + 0x1000];
    let mut set = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, b"MZ");
    set(0x1f1, &[1]); // setup_sects
    set(0x1f4, &0x100_u32.to_le_bytes()); // syssize, in units of 16 bytes
    set(0x1fe, &[0x55, 0xaa]);
    set(0x202, b"HdrS");
    set(0x206, &0x20f_u16.to_le_bytes()); // version
    set(0x211, &[1]); // loadflags: loaded high
    set(0x214, &0x10_0000_u32.to_le_bytes()); // code32_start
    set(0x236, &1_u16.to_le_bytes()); // xloadflags: has a 64-bit entry
    set(0x258, &ADDRESS.to_le_bytes()); // pref_address
    set(0x260, &(1_u32 << 20).to_le_bytes()); // init_size
    change(&mut image);
    image
}
