//! Word from the kernel that links, addresses or routes of a namespace have changed, rtnetlink(7).

#![allow(unsafe_code, reason = "tokio wants to be promised that a descriptor that it waits for stays open")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use nix::unistd::read;
use tokio::io::unix::AsyncFd;

/// What is heard of (linux/rtnetlink.h).
const GROUPS: libc::c_int = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE;

/// Whoever connects a network does it in several steps: nothing has changed until there is no news for this long.
const SETTLED: Duration = Duration::from_millis(50);

/// Hears of changes, whether anybody asks or not.
pub struct Changes(OwnedFd);

/// Waits for changes.
pub struct Watch(AsyncFd<OwnedFd>);

impl Changes {
    /// Those in the network namespace of this thread, from now on.
    pub(super) fn hear() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS.cast_unsigned()))?;
        Ok(Self(socket))
    }

    /// For a task of this runtime.
    pub fn watch(self) -> io::Result<Watch> {
        // SAFETY: the descriptor is owned by what is registered, and stays the same one as long as that lives.
        let registered = unsafe { AsyncFd::register(self.0) };
        Ok(Watch(registered?))
    }
}

impl Watch {
    /// Waits for a change, and until it is over.
    pub async fn next(&mut self) -> io::Result<()> {
        self.news().await?;
        while tokio::time::timeout(SETTLED, self.news()).await.is_ok() {}
        Ok(())
    }

    /// Waits for news and takes it all in: what it is about is asked for anew.
    async fn news(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0; 8192];
        loop {
            match read(self.0.get_ref(), &mut buffer) {
                // More than there was room for.
                Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => break ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
