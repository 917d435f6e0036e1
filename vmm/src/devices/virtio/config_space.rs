//! Device-specific configuration space (virtio 1.2, section 2.5).
//!
//! Read by vCPU threads through the transport while the device's worker may change it. The lock protects the
//! bytes and the generation together, so that a driver that sees the same generation before and after its
//! reads has not seen half a change (section 2.5.3). It is taken for register accesses only.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The bytes of a device's configuration, and the count of the device's changes to them.
pub struct ConfigSpace {
    state: Mutex<State>,
    /// What the driver may write.
    writable: Range<usize>,
}

struct State {
    bytes: Vec<u8>,
    generation: u32,
}

impl ConfigSpace {
    /// A space of which the driver may write no byte.
    pub fn read_only(bytes: &[u8]) -> Self {
        Self::new(bytes, 0..0)
    }

    /// A space of which the driver may write the bytes in `writable`.
    pub fn new(bytes: &[u8], writable: Range<usize>) -> Self {
        Self { state: Mutex::new(State { bytes: bytes.to_vec(), generation: 0 }), writable }
    }

    /// Fills `data` from `offset`; what lies past the end reads as zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        let state = self.lock();
        let there = state.bytes.get(offset..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(there) {
            *to = *from;
        }
    }

    /// The driver's write; bytes it may not write are left as they are.
    pub fn write_by_driver(&self, offset: usize, data: &[u8]) {
        let mut state = self.lock();
        for (index, value) in (offset..).zip(data) {
            if self.writable.contains(&index)
                && let Some(byte) = state.bytes.get_mut(index)
            {
                *byte = *value;
            }
        }
    }

    /// The device's own change. The caller then tells the driver ([`super::Interrupt::config_changed`]).
    ///
    /// # Panics
    /// When the change does not fit the space: its offset and size are the device's own.
    pub fn update(&self, offset: usize, data: &[u8]) {
        let mut state = self.lock();
        state.bytes[offset..offset + data.len()].copy_from_slice(data);
        state.generation = state.generation.wrapping_add(1);
    }

    /// How often the device changed the space (wraps).
    pub fn generation(&self) -> u32 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_the_end_give_zero() {
        let space = ConfigSpace::read_only(&[1, 2, 3]);
        let mut data = [9; 4];
        space.read(1, &mut data);
        assert_eq!(data, [2, 3, 0, 0]);
        space.read(usize::MAX, &mut data);
        assert_eq!(data, [0; 4]);
    }

    #[test]
    fn the_driver_writes_only_what_it_may() {
        let space = ConfigSpace::new(&[0; 4], 2..4);
        space.write_by_driver(1, &[7, 7, 7, 7]);
        let mut data = [0; 4];
        space.read(0, &mut data);
        assert_eq!(data, [0, 0, 7, 7]);
        assert_eq!(space.generation(), 0);
    }

    #[test]
    fn a_change_by_the_device_is_a_new_generation() {
        let space = ConfigSpace::read_only(&[0; 4]);
        space.update(1, &[5]);
        let mut data = [0; 2];
        space.read(0, &mut data);
        assert_eq!((data, space.generation()), ([0, 5], 1));
    }
}
