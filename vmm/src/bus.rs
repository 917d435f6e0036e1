//! Address bus: which device answers an access of a vCPU to a port or to memory that is not RAM.
//!
//! Built once, before the first vCPU runs, and never changed after; vCPU threads share it without a lock.
//! Each device has its own lock, taken for one register access. The data path (rings, host descriptors)
//! does not pass here.

use std::sync::{Arc, Mutex, PoisonError};

/// A device whose registers a vCPU reads and writes.
///
/// `offset` counts from the base of the range the device was attached at. `data` is the access as the guest
/// made it: 1 to 8 bytes, little-endian. Every byte is the guest's choice; neither call may panic.
pub trait BusDevice: Send {
    /// Fills `data` with what the registers at `offset` hold.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes the guest's write of `data` to the registers at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

struct Slot {
    base: u64,
    length: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// The ranges of one address space (ports, or guest-physical memory) and the devices behind them.
#[derive(Default)]
pub struct Bus {
    slots: Vec<Slot>,
}

impl Bus {
    /// Attaches `device` at `base..base + length`.
    ///
    /// # Panics
    /// When the range overlaps one that is attached already: the address map is ours, so that is a bug.
    pub fn attach(&mut self, base: u64, length: u64, device: Arc<Mutex<dyn BusDevice>>) {
        let free = |slot: &Slot| base + length <= slot.base || slot.base + slot.length <= base;
        assert!(self.slots.iter().all(free), "bus range {base:#x}+{length:#x} is taken");
        self.slots.push(Slot { base, length, device });
    }

    /// Reads `data` from `address`. Where no device answers, all bits are set, as on real buses.
    /// Answers whether a device was there.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((slot, offset)) = self.find(address, data.len()) else {
            data.fill(0xff);
            return false;
        };
        // A device that panicked has left its registers in some state; the guest only harms itself by it.
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.read(offset, data);
        true
    }

    /// Writes `data` to `address`; dropped where no device answers. Answers whether a device was there.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some((slot, offset)) = self.find(address, data.len()) else {
            return false;
        };
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.write(offset, data);
        true
    }

    /// The slot that holds all `length` bytes at `address`, and the offset in it. An access across the end
    /// of a range finds nothing.
    fn find(&self, address: u64, length: usize) -> Option<(&Slot, u64)> {
        self.slots.iter().find_map(|slot| {
            let offset = address.checked_sub(slot.base)?;
            let end = offset.checked_add(length as u64)?;
            (end <= slot.length).then_some((slot, offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers reads with the offset, and keeps the last write.
    #[derive(Default)]
    struct Probe(Option<(u64, Vec<u8>)>);

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap_or(u8::MAX));
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0 = Some((offset, data.to_vec()));
        }
    }

    fn bus_with_probe() -> (Bus, Arc<Mutex<Probe>>) {
        let probe = Arc::new(Mutex::new(Probe::default()));
        let mut bus = Bus::default();
        bus.attach(0x100, 8, probe.clone());
        (bus, probe)
    }

    #[test]
    fn an_access_reaches_the_device_with_its_offset() {
        let (bus, probe) = bus_with_probe();
        let mut data = [0; 2];
        assert!(bus.read(0x104, &mut data));
        assert_eq!(data, [4, 4]);
        assert!(bus.write(0x107, &[9]));
        assert_eq!(probe.lock().ok().and_then(|probe| probe.0.clone()), Some((7, vec![9])));
    }

    #[test]
    fn an_access_beside_or_across_the_end_finds_no_device() {
        let (bus, probe) = bus_with_probe();
        for address in [0, 0xff, 0x107, 0x108, u64::MAX] {
            let mut data = [0; 2];
            assert!(!bus.read(address, &mut data), "{address:#x}");
            assert_eq!(data, [0xff, 0xff]);
            assert!(!bus.write(address, &[1, 2]));
        }
        assert_eq!(probe.lock().ok().and_then(|probe| probe.0.clone()), None);
    }

    #[test]
    #[should_panic(expected = "is taken")]
    fn ranges_may_not_overlap() {
        let (mut bus, probe) = bus_with_probe();
        bus.attach(0x107, 1, probe);
    }
}
