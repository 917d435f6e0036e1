//! The devices a guest sees.

pub mod acpi_power;
pub mod event_port;
pub mod i8042;
pub mod machine_event;
pub mod pvpanic;
pub mod serial;
pub mod virtio;
