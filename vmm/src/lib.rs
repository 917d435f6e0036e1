//! The KVM monitor.
