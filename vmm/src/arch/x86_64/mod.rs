//! x86-64: a machine without PCI and firmware, described by hardware-reduced ACPI (ACPI 6.5, section 4.1).

pub mod acpi;
pub mod clock;
pub mod cpuid;
pub mod layout;
pub mod regs;
pub mod start_info;
pub mod zero_page;
