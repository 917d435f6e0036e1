//! A network that others made: a network namespace in which CNI plugins or Docker put interfaces, with addresses and
//! routes, before the machine is started or after.
//!
//! ```text
//!  network of others ── eth0 ══ redirected ══ rvm0 (tap) ── VMM ── eth0 of the guest
//! ```
//!
//! Every interface gets a card of the guest's, which takes its place: its name, its Ethernet address, its addresses,
//! routes and neighbours, its MTU. On the host two redirections ([`tc`]) join it with the card's tap, so that whatever
//! arrives goes to the guest, and nothing of it to the namespace's own kernel. A machine cannot be given cards while it
//! runs: it has as many as it needs when it starts, and spare ones for what comes later.
//!
//! Whoever made the network removes it. The taps end with the VMM, and the redirections with the [`Cards`]: interfaces that stay
//! are their namespace's own again.

mod changes;
mod others;
mod scan;
mod tc;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rvm_agent_proto as proto;
use rvm_config::{MacAddress, Net, NetHost};

use super::error::NetworkError;
use super::netlink::Netlink;
use super::{link, tap};
pub use changes::{Changes, Watch};
pub use others::refuse_others;
use scan::Interface;
use tc::Redirection;

/// The cards of a machine, and the network namespace in which their other ends are.
pub struct Cards {
    /// Speaks to the kernel of that namespace.
    netlink: Netlink,
    cards: Vec<Card>,
    /// What the guest was told last of routes and neighbours.
    told: (Vec<proto::Route>, Vec<proto::Neighbour>),
    changes: Option<Changes>,
}

struct Card {
    /// Until the VMM has it.
    tap: Option<OwnedFd>,
    /// The tap's number in the namespace.
    index: u32,
    /// The card's address as the guest knows it now.
    mac: MacAddress,
    /// The interface whose place it takes.
    joined: Option<Joined>,
}

struct Joined {
    /// Its number in the namespace.
    index: u32,
    /// The addresses that the guest was told.
    addresses: Vec<String>,
    /// Of what arrives there.
    redirection: Redirection,
}

/// What the guest is to be told of the network that it has now.
#[derive(Debug, Default, PartialEq)]
pub struct Adopted {
    /// Those that are new, that have changed, or that are there no more.
    pub interfaces: Vec<proto::Interface>,
    /// Those over all interfaces.
    pub routes: Vec<proto::Route>,
    /// Those that were set by hand.
    pub neighbours: Vec<proto::Neighbour>,
}

impl Cards {
    /// Makes cards in the network namespace of this thread: one for each interface that is there, and `spare` more.
    pub fn make(spare: usize) -> Result<Self, NetworkError> {
        let changes = Changes::hear().map_err(refused("hear of changes of the network"))?;
        let mut netlink = Netlink::route().map_err(refused("ask the kernel about links"))?;
        let there = scan::interfaces(&mut netlink, &[]).map_err(refused("list the links of the network"))?;
        let mut cards = Vec::new();
        for number in 0..there.len() + spare {
            let name = format!("rvm{number}");
            let tap = tap::make(&name).map_err(|error| match error.kind() {
                io::ErrorKind::ResourceBusy => NetworkError::NamespaceTaken,
                _ => refused("make a tap device")(error),
            })?;
            let index = link::index(&name).map_err(refused("find a tap device"))?.unwrap_or_default();
            link::up(&mut netlink, index).map_err(refused("bring a tap device up"))?;
            cards.push(Card { tap: Some(tap), index, mac: address(number), joined: None });
        }
        Ok(Self { netlink, cards, told: Default::default(), changes: Some(changes) })
    }

    /// For the VMM's configuration; the descriptors are [`Self::descriptors`].
    pub fn configuration(&self) -> Vec<Net> {
        let taps = self.cards.iter().filter_map(|card| Some((card.tap.as_ref()?, card.mac)));
        taps.map(|(tap, mac)| Net {
            host: NetHost::Tap(rvm_config::Tap::Fd(tap.as_raw_fd())),
            mac: Some(mac),
            mtu: None,
            offload: true,
        })
        .collect()
    }

    /// What the VMM must inherit under the same numbers.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.cards.iter().filter_map(|card| Some(card.tap.as_ref()?.as_fd())).collect()
    }

    /// Closes this process's descriptors of the taps: the VMM has them, and its end is their end.
    pub fn handed_over(&mut self) {
        for card in &mut self.cards {
            card.tap = None;
        }
    }

    /// Word of changes since the cards were made, after which it is time to [`Self::adopt`]. There is one, for the first
    /// who asks.
    pub fn changes(&mut self) -> Option<Changes> {
        self.changes.take()
    }

    /// Gives every interface a card that has none yet; what the guest is to be told, `None` if that is nothing new.
    pub fn adopt(&mut self) -> Result<Option<Adopted>, NetworkError> {
        let attempt = "read the links, addresses and routes of the container's network";
        let taps: Vec<u32> = self.cards.iter().map(|card| card.index).collect();
        let there = scan::interfaces(&mut self.netlink, &taps).map_err(refused(attempt))?;
        // Before anything is joined: what is joined and not told would stay unknown to the guest.
        self.check(&there)?;
        let mut now = scan::Told::read(&mut self.netlink, &there).map_err(refused(attempt))?;
        let mut adopted = Adopted { interfaces: self.give_up(&there), ..Adopted::default() };
        for interface in &there {
            let addresses = now.addresses.remove(&interface.name).unwrap_or_default();
            adopted.interfaces.extend(self.join(interface, addresses)?);
        }
        let told = (now.routes, now.neighbours);
        if adopted.interfaces.is_empty() && told == self.told {
            return Ok(None);
        }
        self.told = told.clone();
        (adopted.routes, adopted.neighbours) = told;
        Ok(Some(adopted))
    }

    /// Whether each of these interfaces can have a card.
    fn check(&self, there: &[Interface]) -> Result<(), NetworkError> {
        let (needed, have) = (there.len(), self.cards.len());
        match there.iter().find(|interface| !interface.resolves) {
            Some(interface) => Err(NetworkError::NoArp(interface.name.clone())),
            None if needed > have => Err(NetworkError::TooFewCards { needed, have }),
            None => Ok(()),
        }
    }

    /// Frees the cards of interfaces that are gone. Their new names bring them down.
    fn give_up(&mut self, there: &[Interface]) -> Vec<proto::Interface> {
        let gone = |joined: &mut Joined| there.iter().all(|interface| interface.index != joined.index);
        let freed = self.cards.iter_mut().enumerate().filter_map(|(number, card)| {
            let joined = card.joined.take_if(gone)?;
            Some(proto::Interface {
                mac: std::mem::replace(&mut card.mac, address(number)).to_string(),
                name: format!("spare{number}"),
                new_mac: card.mac.to_string(),
                removed_addresses: joined.addresses,
                ..proto::Interface::default()
            })
        });
        freed.collect()
    }

    /// Leads what arrives at an interface to its card, and back; what the guest is to be told, if that is new.
    fn join(
        &mut self,
        interface: &Interface,
        addresses: Vec<String>,
    ) -> Result<Option<proto::Interface>, NetworkError> {
        let is_its_own =
            |card: &Card| card.joined.as_ref().is_some_and(|joined| joined.index == interface.index);
        let own = self.cards.iter().position(is_its_own);
        let place = own.or_else(|| self.cards.iter().position(|card| card.joined.is_none()));
        let Some(card) = place.and_then(|place| self.cards.get_mut(place)) else {
            // The check found one for each.
            return Ok(None);
        };
        let (had, redirection) = match card.joined.take() {
            Some(joined) => (Some(joined.addresses), joined.redirection),
            None => {
                let attempt = "redirect the packets of the container's network to the VM";
                let there = tc::redirect(&mut self.netlink, interface.index, card.index);
                let there = there.map_err(refused(attempt))?;
                tc::redirect(&mut self.netlink, card.index, interface.index).map_err(refused(attempt))?;
                (None, there)
            }
        };
        let removed = had.iter().flatten().filter(|had| !addresses.contains(had)).cloned().collect();
        let changed = had.as_ref() != Some(&addresses);
        card.joined = Some(Joined { index: interface.index, addresses: addresses.clone(), redirection });
        let known_as = std::mem::replace(&mut card.mac, interface.mac);
        Ok(changed.then(|| proto::Interface {
            mac: known_as.to_string(),
            name: interface.name.clone(),
            new_mac: interface.mac.to_string(),
            mtu: interface.mtu,
            addresses,
            up: true,
            no_prefix_route: true,
            removed_addresses: removed,
        }))
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        for joined in self.cards.iter_mut().filter_map(|card| card.joined.take()) {
            joined.redirection.end(&mut self.netlink);
        }
    }
}

/// The address of a card that has no interface yet: it only has to differ from the others of the same machine.
fn address(number: usize) -> MacAddress {
    let number = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let [a, b, c, d] = number;
    MacAddress([2, b'r', a, b, c, d])
}

fn refused(attempt: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::Io { attempt: attempt.to_owned(), source }
}

#[cfg(test)]
mod tests;
