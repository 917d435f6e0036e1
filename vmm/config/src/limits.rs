//! What a machine may be, checked without touching the host.

use std::collections::HashSet;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::{Console, Control, Disk, DiskSource, MAX_DISK_PARTS, MemorySize, NetHost, Share, Tap, VmConfig};

/// Most virtual CPUs of a machine.
pub const MAX_CPUS: u8 = 32;
/// Least memory that the guest kernel boots in.
pub const MIN_MEMORY: MemorySize = MemorySize::from_mib(64);
/// Most memory: what 40 bits of guest-physical address can reach, less the hole below 4 GiB.
pub const MAX_MEMORY: MemorySize = MemorySize::from_mib(1 << 19);
/// Most virtio devices: each has an interrupt line of its own, from GSI 5 to 23.
pub const MAX_DEVICES: usize = 19;
/// Longest kernel command line, in bytes without the closing zero (`COMMAND_LINE_SIZE` of x86).
pub const MAX_CMDLINE: usize = 2047;
/// Longest serial number of a disk, in bytes (virtio 1.2, section 5.2.6).
const MAX_DISK_ID: usize = 20;
/// Longest tag of a share, in bytes (virtio 1.2, section 5.11.4).
pub const MAX_TAG: usize = 36;
/// Longest name of a network interface, in bytes (IFNAMSIZ without the closing zero).
const MAX_TAP_NAME: usize = 15;
/// Longest path of the vsock socket: sun_path holds 108 bytes, `_<port>` takes up to 11 and the end one.
pub const MAX_SOCKET_PATH: usize = 96;

/// What is wrong with a machine; each names the field, what it says, and what it may say.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Virtual CPUs out of bounds.
    #[error("cpus cannot be {0}: a VM has 1 to {MAX_CPUS}")]
    Cpus(u8),
    /// Memory out of bounds.
    #[error("memory cannot be {0}: a VM has {MIN_MEMORY} to {MAX_MEMORY}")]
    Memory(MemorySize),
    /// A balloon that leaves the guest too little.
    #[error(
        "balloon cannot take {size} of {memory}: {MIN_MEMORY} must be left; take less, or give the VM more memory"
    )]
    Balloon {
        /// Asked for.
        size: MemorySize,
        /// The machine's.
        memory: MemorySize,
    },
    /// More devices than interrupt lines.
    #[error(
        "{0} devices are too many: a VM has at most {MAX_DEVICES}; leave some out, or make one disk of several images \
         (parts=)"
    )]
    Devices(usize),
    /// A command line that the kernel would cut.
    #[error("kernel command line of {0} bytes is too long: at most {MAX_CMDLINE}; shorten it")]
    CmdlineLength(usize),
    /// A byte in the command line that the kernel cannot take.
    #[error("kernel command line has a character at byte {0} that is not printable ASCII; leave it out")]
    CmdlineCharacter(usize),
    /// A serial number that does not fit.
    #[error("disk id '{0}' must be 1 to {MAX_DISK_ID} printable ASCII characters")]
    DiskId(String),
    /// A tag that the guest could not name.
    #[error(
        "tag '{0}' of a share must be 1 to {MAX_TAG} bytes without spaces, commas and control characters; choose \
         another"
    )]
    Tag(String),
    /// A tag used by two shares.
    #[error("the tag '{0}' is given to two shares; give each its own")]
    TagTwice(String),
    /// Two disks that cannot be told apart, one of them a placeholder.
    #[error("disk id '{0}' is given to two disks, one of them a placeholder; give each its own")]
    DiskIdTwice(String),
    /// A placeholder that nobody could name.
    #[error("a disk that is a placeholder needs an id, by which something is attached to it later")]
    PlaceholderId,
    /// More images than a disk has partitions, or none.
    #[error("a disk cannot be made of {0} parts: it has 1 to {MAX_DISK_PARTS}")]
    DiskParts(usize),
    /// A name that no interface can have.
    #[error("tap name '{0}' must be 1 to {MAX_TAP_NAME} bytes without '/' and spaces")]
    TapName(String),
    /// A tap used by two cards.
    #[error("{0} is given to two network cards; give each its own")]
    TapTwice(String),
    /// A packet size no card has.
    #[error("mtu cannot be {0}: a card has 68 to 65535; give such a size, or none")]
    Mtu(u16),
    /// A reserved context identifier.
    #[error("vsock cid cannot be {0}: a guest has 3 to 4294967294")]
    Cid(u32),
    /// A console for nobody to read.
    #[error(
        "console cannot be captured without a control socket to give it to; add one, or say where it goes"
    )]
    Captured,
    /// One descriptor for two.
    #[error("control socket cannot be descriptor 0, which the console reads; say where the console goes")]
    ControlIsInput,
    /// A socket path too long for the system.
    #[error("vsock socket path '{0}' is too long: at most {MAX_SOCKET_PATH} bytes")]
    SocketPath(String),
}

/// A number of vCPUs in JSON; what is out of bounds of the type is out of bounds of the machine.
pub(crate) fn cpus<'de, D: Deserializer<'de>>(json: D) -> Result<u8, D::Error> {
    let number = u64::deserialize(json)?;
    u8::try_from(number)
        .map_err(|_| D::Error::custom(format!("cpus cannot be {number}: a VM has 1 to {MAX_CPUS}")))
}

impl VmConfig {
    /// Checks everything that can be checked without opening a file; reports the first fault.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(ConfigError::Cpus(self.cpus));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            return Err(ConfigError::Memory(self.memory));
        }
        if self.device_count() > MAX_DEVICES {
            return Err(ConfigError::Devices(self.device_count()));
        }
        self.validate_balloon(self.balloon.as_ref().map_or(MemorySize::from_mib(0), |balloon| balloon.size))?;
        self.validate_control()?;
        validate_cmdline(&self.kernel.cmdline)?;
        self.validate_disks()?;
        self.validate_shares()?;
        self.validate_nets()?;
        self.validate_vsock()
    }

    /// How many virtio devices the machine has.
    pub fn device_count(&self) -> usize {
        let single = [self.vsock.is_some(), self.balloon.is_some(), self.rng];
        self.disks.len()
            + self.shares.len()
            + self.nets.len()
            + single.into_iter().filter(|there| *there).count()
    }

    fn validate_control(&self) -> Result<(), ConfigError> {
        match (&self.console, &self.control) {
            (Console::Captured, None) => Err(ConfigError::Captured),
            (Console::Stdio, Some(Control { fd: 0 })) => Err(ConfigError::ControlIsInput),
            _ => Ok(()),
        }
    }

    /// Checks that a balloon of `size` leaves the machine enough memory.
    pub fn validate_balloon(&self, size: MemorySize) -> Result<(), ConfigError> {
        let left = self.memory.mib().checked_sub(size.mib());
        match left {
            Some(left) if left >= MIN_MEMORY.mib() => Ok(()),
            _ => Err(ConfigError::Balloon { size, memory: self.memory }),
        }
    }

    fn validate_disks(&self) -> Result<(), ConfigError> {
        let mut ids = self.disks.iter().filter_map(|disk| disk.id.as_ref());
        let fits = |id: &&String| {
            (1..=MAX_DISK_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        ids.find(|id| !fits(id)).map_or(Ok(()), |id| Err(ConfigError::DiskId(id.clone())))?;
        for disk in &self.disks {
            match &disk.source {
                DiskSource::Path(_) => {}
                DiskSource::Parts(parts) if (1..=MAX_DISK_PARTS).contains(&parts.len()) => {}
                DiskSource::Parts(parts) => return Err(ConfigError::DiskParts(parts.len())),
                DiskSource::Placeholder => self.validate_placeholder(disk)?,
            }
        }
        Ok(())
    }

    fn validate_placeholder(&self, disk: &Disk) -> Result<(), ConfigError> {
        let id = disk.id.as_ref().ok_or(ConfigError::PlaceholderId)?;
        match self.disks.iter().filter(|other| other.id.as_ref() == Some(id)).count() {
            1 => Ok(()),
            _ => Err(ConfigError::DiskIdTwice(id.clone())),
        }
    }

    fn validate_shares(&self) -> Result<(), ConfigError> {
        let mut taken = HashSet::new();
        for Share { tag, .. } in &self.shares {
            let odd =
                |character: char| character == ',' || character.is_whitespace() || character.is_control();
            if !(1..=MAX_TAG).contains(&tag.len()) || tag.contains(odd) {
                return Err(ConfigError::Tag(tag.clone()));
            }
            if !taken.insert(tag) {
                return Err(ConfigError::TagTwice(tag.clone()));
            }
        }
        Ok(())
    }

    fn validate_nets(&self) -> Result<(), ConfigError> {
        let mut taken = HashSet::new();
        for net in &self.nets {
            if let NetHost::Tap(Tap::Name(name)) = &net.host {
                let odd = |byte: u8| byte == b'/' || byte.is_ascii_whitespace() || byte.is_ascii_control();
                if !(1..=MAX_TAP_NAME).contains(&name.len()) || name.bytes().any(odd) {
                    return Err(ConfigError::TapName(name.clone()));
                }
            }
            // A descriptor is one, whatever it is taken for.
            if !taken.insert(net.host.to_string()) {
                return Err(ConfigError::TapTwice(net.host.to_string()));
            }
            if let Some(mtu @ 0..68) = net.mtu {
                return Err(ConfigError::Mtu(mtu));
            }
        }
        Ok(())
    }

    fn validate_vsock(&self) -> Result<(), ConfigError> {
        let Some(vsock) = &self.vsock else {
            return Ok(());
        };
        if !(3..u32::MAX).contains(&vsock.cid) {
            return Err(ConfigError::Cid(vsock.cid));
        }
        match vsock.socket.as_os_str().len() {
            0..=MAX_SOCKET_PATH => Ok(()),
            _ => Err(ConfigError::SocketPath(vsock.socket.display().to_string())),
        }
    }
}

/// Whether `cmdline` can be given to a kernel: short enough, printable ASCII.
fn validate_cmdline(cmdline: &str) -> Result<(), ConfigError> {
    if let Some(at) = cmdline.bytes().position(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(ConfigError::CmdlineCharacter(at));
    }
    match cmdline.len() {
        0..=MAX_CMDLINE => Ok(()),
        length => Err(ConfigError::CmdlineLength(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default machine with one thing changed.
    fn machine(change: impl FnOnce(&mut VmConfig)) -> VmConfig {
        let mut machine = VmConfig::default();
        change(&mut machine);
        machine
    }

    #[test]
    fn the_default_machine_is_valid() {
        assert_eq!(VmConfig::default().validate(), Ok(()));
    }

    #[test]
    fn numbers_at_the_bounds_are_taken_and_beyond_refused() {
        let mib = MemorySize::from_mib;
        for (cpus, memory, then) in [
            (0, mib(128), Err(ConfigError::Cpus(0))),
            (1, mib(64), Ok(())),
            (32, mib(1 << 19), Ok(())),
            (33, mib(128), Err(ConfigError::Cpus(33))),
            (1, mib(0), Err(ConfigError::Memory(mib(0)))),
            (1, mib(63), Err(ConfigError::Memory(mib(63)))),
            (1, mib((1 << 19) + 1), Err(ConfigError::Memory(mib((1 << 19) + 1)))),
        ] {
            let machine = machine(|machine| (machine.cpus, machine.memory) = (cpus, memory));
            assert_eq!(machine.validate(), then);
        }
    }

    #[test]
    fn a_command_line_fits_or_is_refused() {
        let with = |cmdline: String| machine(|machine| machine.kernel.cmdline = cmdline).validate();
        assert_eq!(with("x".repeat(2047)), Ok(()));
        assert_eq!(with("x".repeat(2048)), Err(ConfigError::CmdlineLength(2048)));
        assert_eq!(with("a\nb".into()), Err(ConfigError::CmdlineCharacter(1)));
    }

    #[test]
    fn devices_have_their_bounds() {
        let disks = |count| machine(|machine| machine.disks = vec!["a".parse().expect("a disk"); count]);
        assert_eq!(disks(17).validate(), Ok(()));
        assert_eq!(disks(18).validate(), Err(ConfigError::Devices(20)));

        let net = |net: &str| machine(|machine| machine.nets = vec![net.parse().expect("a card")]).validate();
        assert_eq!(net("tap=a/b"), Err(ConfigError::TapName("a/b".into())));
        assert_eq!(net("abcdefghijklmnop"), Err(ConfigError::TapName("abcdefghijklmnop".into())));
        assert_eq!(net("tap0,mtu=67"), Err(ConfigError::Mtu(67)));
        let twice = machine(|machine| machine.nets = vec!["t".parse().expect("a card"); 2]);
        assert_eq!(twice.validate(), Err(ConfigError::TapTwice("tap 't'".into())));
        let twice = machine(|machine| machine.nets = vec!["fd=5".parse().expect("a card"); 2]);
        assert_eq!(twice.validate(), Err(ConfigError::TapTwice("descriptor 5".into())));

        let share = |tag: &str, count| {
            let share = format!("/srv,tag={tag}").parse().expect("a share");
            machine(|machine| machine.shares = vec![share; count]).validate()
        };
        assert_eq!(share(&"t".repeat(36), 1), Ok(()));
        assert_eq!(share(&"t".repeat(37), 1), Err(ConfigError::Tag("t".repeat(37))));
        assert_eq!(share("a b", 1), Err(ConfigError::Tag("a b".into())));
        assert_eq!(share("data", 2), Err(ConfigError::TagTwice("data".into())));
        assert_eq!(share("data", 18), Err(ConfigError::Devices(20)));

        let vsock = |text: &str| machine(|machine| machine.vsock = text.parse().ok()).validate();
        assert_eq!(vsock("/s,cid=2"), Err(ConfigError::Cid(2)));
        assert_eq!(vsock(&"s".repeat(97)), Err(ConfigError::SocketPath("s".repeat(97))));

        let id =
            machine(|machine| machine.disks = vec!["a,id=012345678901234567890".parse().expect("a disk")]);
        assert_eq!(id.validate(), Err(ConfigError::DiskId("012345678901234567890".into())));
    }

    #[test]
    fn console_and_control_socket_go_together() {
        let captured =
            |control| machine(|machine| (machine.console, machine.control) = (Console::Captured, control));
        assert_eq!(captured(None).validate(), Err(ConfigError::Captured));
        assert_eq!(captured(Some(Control { fd: 3 })).validate(), Ok(()));
        let both = machine(|machine| machine.control = Some(Control { fd: 0 }));
        assert_eq!(both.validate(), Err(ConfigError::ControlIsInput));
    }

    #[test]
    fn a_descriptor_is_given_to_one_card() {
        let nets = vec!["fd=5".parse().expect("a card"), "socket-fd=5".parse().expect("a card")];
        let twice = machine(|machine| machine.nets = nets);
        assert_eq!(twice.validate(), Err(ConfigError::TapTwice("descriptor 5".into())));
    }

    #[test]
    fn placeholders_have_names_of_their_own_and_parts_a_number() {
        let disks = |disks: &[&str]| {
            let disks = disks.iter().map(|disk| disk.parse().expect("a disk"));
            machine(|machine| machine.disks = disks.collect()).validate()
        };
        assert_eq!(disks(&["placeholder=on,id=a", "placeholder=on,id=b", "c,id=c", "d,id=c"]), Ok(()));
        assert_eq!(disks(&["placeholder=on"]), Err(ConfigError::PlaceholderId));
        assert_eq!(disks(&["placeholder=on,id=a", "x,id=a"]), Err(ConfigError::DiskIdTwice("a".into())));
        assert_eq!(disks(&["parts="]), Err(ConfigError::DiskParts(0)));
        for (count, then) in [(1, Ok(())), (128, Ok(())), (129, Err(ConfigError::DiskParts(129)))] {
            assert_eq!(disks(&[&format!("parts={}", vec!["p"; count].join(":"))]), then);
        }
    }

    #[test]
    fn a_balloon_leaves_the_guest_room() {
        let balloon = machine(|machine| machine.balloon = "65".parse().ok());
        let (size, memory) = (MemorySize::from_mib(65), MemorySize::from_mib(128));
        assert_eq!(balloon.validate(), Err(ConfigError::Balloon { size, memory }));
    }
}
