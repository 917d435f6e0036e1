//! Redirections between links, as `tc filter … u32 match u32 0 0 action mirred egress redirect` makes them
//! (tc-u32(8), tc-mirred(8)). The classifier `matchall` says the same in fewer words, but small kernels lack it.

use std::io;

use super::super::netlink::{Message, NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, nested, text};

/// Where what arrives at a link is looked at: the parent of such a queueing discipline, and its handle
/// (linux/pkt_sched.h).
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;

/// Attributes of `struct tcmsg` (linux/rtnetlink.h).
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// Of the classifier `u32` (linux/pkt_cls.h).
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
/// Of an action; actions are numbered from 1.
const FIRST_ACTION: u16 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
/// Of the action `mirred` (linux/tc_act/tc_mirred.h).
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;

/// Before every filter of somebody else's.
const PRIORITY: u32 = 1;

/// What was added to a link to redirect what arrives there.
#[derive(Clone, Copy, Debug)]
pub struct Redirection {
    from: u32,
    /// Its queueing discipline is new as well.
    with_discipline: bool,
}

impl Redirection {
    /// Takes it away. A link that is gone has none.
    pub fn end(self, netlink: &mut Netlink) {
        let ending = match self.with_discipline {
            true => message(libc::RTM_DELQDISC, self.from, INGRESS_HANDLE, TC_H_INGRESS, 0),
            false => filter(libc::RTM_DELTFILTER, self.from),
        };
        netlink.apply(ending).ok();
    }
}

/// Sends everything that arrives at the link `from` out of the link `to`, whatever was redirected there before.
pub fn redirect(netlink: &mut Netlink, from: u32, to: u32) -> io::Result<Redirection> {
    let discipline = message(libc::RTM_NEWQDISC, from, INGRESS_HANDLE, TC_H_INGRESS, 0)
        .with(NLM_F_CREATE | NLM_F_EXCL)
        .attribute(TCA_KIND, &text("ingress"));
    let with_discipline = match netlink.apply(discipline) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // A machine whose shim was killed left its redirection, which leads nowhere. Without one, that is no error.
            netlink.apply(filter(libc::RTM_DELTFILTER, from)).ok();
            false
        }
        done => done.map(|()| true)?,
    };
    // struct tc_u32_sel: flags, shift, number of keys; where the next header is; the hash. One key, which is its mask,
    // value, and offsets: all 0 fits everything.
    let mut selector = vec![TC_U32_TERMINAL, 0, 1];
    selector.resize(16 + 16, 0);
    // struct tc_mirred: index, capabilities, action, two counts of references; what to do; the link.
    let parameters = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to].map(u32::to_ne_bytes);
    let action = [
        attribute(TCA_ACT_KIND, &text("mirred")),
        nested(TCA_ACT_OPTIONS, &attribute(TCA_MIRRED_PARMS, parameters.as_flattened())),
    ];
    let options =
        [attribute(TCA_U32_SEL, &selector), nested(TCA_U32_ACT, &nested(FIRST_ACTION, &action.concat()))];
    let filter = filter(libc::RTM_NEWTFILTER, from)
        .with(NLM_F_CREATE | NLM_F_EXCL)
        .attribute(TCA_KIND, &text("u32"))
        .append(&nested(TCA_OPTIONS, &options.concat()));
    netlink.apply(filter)?;
    Ok(Redirection { from, with_discipline })
}

/// A message about our filter on what arrives at `link`.
fn filter(kind: u16, link: u32) -> Message {
    // The protocol is in network byte order.
    let every_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    message(kind, link, 0, INGRESS_HANDLE, PRIORITY << 16 | u32::from(every_protocol))
}

/// A message with a `struct tcmsg`: family and padding, link, handle, parent, information.
fn message(kind: u16, link: u32, handle: u32, parent: u32, information: u32) -> Message {
    let fixed = [0, link, handle, parent, information].map(u32::to_ne_bytes);
    Message::new(kind, fixed.as_flattened())
}
