//! The ACPI tables that describe the machine (ACPI 6.5, sections 5.2.5, 5.2.8, 5.2.9, 5.2.12 and 6).
//!
//! Hardware-reduced: no power management timer, no event blocks, no legacy interrupt controller. An operating
//! system finds its processors, I/O APIC, serial port, virtio devices and panic device here, and how to power
//! off and reset.

use acpi_tables::Aml;
use acpi_tables::aml::{
    self, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;
use crate::devices::virtio::mmio::REGISTERS_SIZE;
use crate::devices::{acpi_power, i8042, pvpanic, serial};

const OEM_ID: [u8; 6] = *b"RVM   ";
const OEM_TABLE_ID: [u8; 8] = *b"RVMTABLE";

/// Writes the tables of a machine with these many processors and virtio devices to [`layout::ACPI_TABLES`].
pub fn write(memory: &GuestMemoryMmap, cpus: u8, virtio_devices: u8) -> Result<(), GuestMemoryError> {
    let mut next = layout::ACPI_TABLES + Rsdp::len() as u64;
    let mut place = |table: &dyn Aml| {
        let at = next.next_multiple_of(8);
        let bytes = bytes(table);
        next = at + bytes.len() as u64;
        memory.write_slice(&bytes, GuestAddress(at)).map(|()| at)
    };
    let dsdt = place(&dsdt(virtio_devices))?;
    let fadt = place(&fadt(dsdt).finalize())?;
    let madt = place(&madt(cpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&xsdt)?;
    memory.write_slice(&bytes(&Rsdp::new(OEM_ID, xsdt)), GuestAddress(layout::ACPI_TABLES))
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A byte-wide register at an I/O port.
fn port(address: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address.into())
}

fn fadt(dsdt: u64) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, 1)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.reset_reg = port(i8042::RESET_PORT);
    fadt.reset_value = i8042::RESET;
    fadt.sleep_control_reg = port(acpi_power::CONTROL_PORT);
    fadt.sleep_status_reg = port(acpi_power::STATUS_PORT);
    fadt
}

fn madt(cpus: u8) -> MADT {
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, 1, LocalInterruptController::Address(layout::LOCAL_APIC));
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

/// The differentiated table: the devices, and how to switch off.
fn dsdt(virtio_devices: u8) -> Sdt {
    let mut devices = Vec::new();
    serial_port(&mut devices);
    panic_device(&mut devices);
    for index in 0..virtio_devices {
        virtio(index, &mut devices);
    }
    let mut definition = Scope::raw(Path::new("_SB_"), devices);
    // The first two elements are the sleep types for the two control registers; there is one.
    let off = Package::new(vec![&acpi_power::S5, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    Name::new(Path::new("_S5_"), &off).to_aml_bytes(&mut definition);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, 1);
    dsdt.append_slice(&definition);
    dsdt
}

/// An edge-triggered, active-high interrupt line of its own: what an irqfd makes.
fn line(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn serial_port(devices: &mut Vec<u8>) {
    let (ports, line) = (IO::new(serial::PORT, serial::PORT, 0, 8), line(serial::GSI));
    let resources = ResourceTemplate::new(vec![&ports, &line]);
    Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &aml::ZERO),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_aml_bytes(devices);
}

fn panic_device(devices: &mut Vec<u8>) {
    let ports = IO::new(pvpanic::PORT, pvpanic::PORT, 0, 1);
    let resources = ResourceTemplate::new(vec![&ports]);
    Device::new(
        Path::new("PEVT"),
        vec![
            &Name::new(Path::new("_HID"), &"QEMU0001"),
            // Present, enabled, shown, working.
            &Name::new(Path::new("_STA"), &0x0f_u8),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_aml_bytes(devices);
}

fn virtio(index: u8, devices: &mut Vec<u8>) {
    let size = u32::try_from(REGISTERS_SIZE).unwrap_or_default();
    let base = u32::try_from(layout::VIRTIO_MMIO).unwrap_or_default() + u32::from(index) * size;
    let (registers, line) =
        (Memory32Fixed::new(true, base, size), line(layout::VIRTIO_GSI + u32::from(index)));
    let resources = ResourceTemplate::new(vec![&registers, &line]);
    Device::new(
        Path::new(&format!("V{index:03}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &index),
            // Coherent with the caches; Linux asks on some architectures.
            &Name::new(Path::new("_CCA"), &aml::ONE),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_aml_bytes(devices);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_found_from_the_pointer_and_sums_to_zero() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory, 32, 19).unwrap();
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        };
        let rsdp = read(layout::ACPI_TABLES, 36);
        assert_eq!((&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp)), (&b"RSD PTR "[..], 0, 0));
        let table = |at: u64| {
            let length: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
            let bytes = read(at, length as usize);
            assert_eq!(sum(&bytes), 0, "table at {at:#x}");
            bytes
        };
        let xsdt = table(u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
        let entries: Vec<_> =
            xsdt[36..].chunks(8).map(|entry| table(u64::from_le_bytes(entry.try_into().unwrap()))).collect();
        assert_eq!(entries.iter().map(|table| &table[..4]).collect::<Vec<_>>(), [b"FACP", b"APIC"]);
        let dsdt = table(u64::from_le_bytes(entries[0][140..148].try_into().unwrap()));
        assert_eq!(&dsdt[..4], b"DSDT");
        assert!(dsdt.windows(4).any(|name| name == b"V018"));
    }
}
