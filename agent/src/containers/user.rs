//! Who a process is, by the names in its container's own /etc/passwd and /etc/group (passwd(5), group(5)).
//!
//! These files are a stranger's: they are opened without leaving the container's root, read up to a bound, and a
//! line that is not one is passed over.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use oci_spec::runtime::Process;
use rvm_agent_proto as proto;

use crate::refusal::Refusal;

/// The most of a file that is read.
const MAX_FILE: u64 = 1 << 20;
/// The largest number of a user or group that Linux takes in every place.
const MAX_ID: u32 = i32::MAX.unsigned_abs();

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// A line of /etc/group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// What the container's files say.
#[derive(Debug, Default)]
struct Names {
    accounts: Vec<Account>,
    groups: Vec<Group>,
}

/// Who a process becomes.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    additional: Vec<u32>,
    home: String,
}

/// Gives a process the user that is asked for, by the names below `root`, and its HOME where it has none.
pub fn apply(wanted: &proto::User, root: &OwnedFd, process: &mut Process) -> Result<(), Refusal> {
    let names = Names {
        accounts: read(root, "etc/passwd")?.lines().filter_map(Account::parse).collect(),
        groups: read(root, "etc/group")?.lines().filter_map(Group::parse).collect(),
    };
    let mut user = process.user().clone();
    let own = (user.uid(), user.gid(), user.additional_gids().as_deref());
    let identity = names.identify(wanted, own)?;
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(identity.additional));
    process.set_user(user);
    let environment = process.env_mut().get_or_insert_default();
    if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
        environment.push(format!("HOME={}", identity.home));
    }
    Ok(())
}

/// The text of a file below a root; nothing where there is none.
fn read(root: &OwnedFd, path: &str) -> Result<String, Refusal> {
    let step = || format!("read /{path} of the container");
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, path, how).map(File::from).map_err(io::Error::from) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file.map_err(Refusal::kernel(step))?,
    };
    if !file.metadata().map_err(Refusal::kernel(step))?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(Refusal::kernel(step))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Account {
    /// `name:password:uid:gid:comment:home:shell`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or_default().to_owned() })
    }
}

impl Group {
    /// `name:password:gid:members`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default().split(',').map(str::to_owned).collect();
        Some(Self { name, gid, members })
    }
}

impl Names {
    /// Who is wanted; where that is nobody, whom the specification has: user, group and other groups.
    fn identify(
        &self,
        wanted: &proto::User,
        (uid, gid, additional): (u32, u32, Option<&[u32]>),
    ) -> Result<Identity, Refusal> {
        let (user, group) = match wanted.user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (wanted.user.as_str(), None),
        };
        let (uid, account) = match user {
            "" => (uid, self.account(|account| account.uid == uid)),
            user => self.user(user)?,
        };
        let gid = match (group, account) {
            (Some(group), _) => self.group(group)?,
            (None, _) if user.is_empty() => gid,
            (None, account) => account.map_or(0, |account| account.gid),
        };
        let mut all = match (additional, account) {
            (Some(additional), _) if user.is_empty() => additional.to_vec(),
            (_, Some(account)) if group.is_none() => self.groups_of(&account.name),
            _ => Vec::new(),
        };
        for group in &wanted.groups {
            all.push(self.group(group)?);
        }
        all.sort_unstable();
        all.dedup();
        let home = account.map(|account| account.home.clone()).filter(|home| !home.is_empty());
        Ok(Identity { uid, gid, additional: all, home: home.unwrap_or_else(|| "/".to_owned()) })
    }

    fn account(&self, is_it: impl Fn(&Account) -> bool) -> Option<&Account> {
        self.accounts.iter().find(|account| is_it(account))
    }

    /// A user by name or number; a number need not be in the file.
    fn user(&self, user: &str) -> Result<(u32, Option<&Account>), Refusal> {
        if let Some(account) = self.account(|account| account.name == user) {
            return Ok((account.uid, Some(account)));
        }
        let uid = number("user", user, "/etc/passwd of the container does not have that name")?;
        Ok((uid, self.account(|account| account.uid == uid)))
    }

    /// A group by name or number; a number need not be in the file.
    fn group(&self, group: &str) -> Result<u32, Refusal> {
        match self.groups.iter().find(|line| line.name == group) {
            Some(line) => Ok(line.gid),
            None => number("group", group, "/etc/group of the container does not have that name"),
        }
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        let lists = self.groups.iter().filter(|group| group.members.iter().any(|member| member == user));
        lists.map(|group| group.gid).collect()
    }
}

fn number(what: &str, text: &str, otherwise: &'static str) -> Result<u32, Refusal> {
    // A number in Rust may have a plus.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number <= MAX_ID => Ok(number),
        Ok(_) if digits => Err(Refusal::invalid(format!("the {what} {text}"), "it is above 2147483647")),
        _ => Err(Refusal::invalid(format!("the {what} {text:?}"), otherwise)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Account, Group, Identity, Names, apply};
    use oci_spec::runtime::Process;
    use rvm_agent_proto::User;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:5:5::/:\n\
        web:x:33:33:www:/var/www:/bin/false\n7:x:8:9::/seven:\nlast:x:2:2";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nlogs:x:4:web,root\nbad:x:x:web\ndata:x:50:web";

    fn names() -> Names {
        Names {
            accounts: PASSWD.lines().filter_map(Account::parse).collect(),
            groups: GROUP.lines().filter_map(Group::parse).collect(),
        }
    }

    /// uid, gid, other groups and home of who is asked for so.
    fn identify(user: &str, groups: &[&str]) -> Option<(u32, u32, Vec<u32>, String)> {
        let wanted = User { user: user.into(), groups: groups.iter().map(ToString::to_string).collect() };
        let identity = names().identify(&wanted, (0, 0, None)).ok()?;
        let Identity { uid, gid, additional, home } = identity;
        Some((uid, gid, additional, home))
    }

    #[test]
    fn a_user_is_known_by_name_or_number_as_docker_has_it() {
        for (user, expected) in [
            ("", (0, 0, vec![4], "/root")),
            ("root", (0, 0, vec![4], "/root")),
            ("web", (33, 33, vec![4, 50], "/var/www")),
            ("33", (33, 33, vec![4, 50], "/var/www")),
            ("web:logs", (33, 4, vec![], "/var/www")),
            ("web:77", (33, 77, vec![], "/var/www")),
            ("1000", (1000, 0, vec![], "/")),
            ("1000:1001", (1000, 1001, vec![], "/")),
            // A name that is a number goes before the number.
            ("7", (8, 9, vec![], "/seven")),
            ("last", (2, 2, vec![], "/")),
        ] {
            let (uid, gid, groups, home) = identify(user, &[]).unwrap();
            assert_eq!((uid, gid, groups, home.as_str()), expected, "{user:?}");
        }
    }

    #[test]
    fn more_groups_are_added_once() {
        assert_eq!(identify("web", &["data", "0", "50"]).unwrap().2, [0, 4, 50]);
    }

    #[test]
    fn who_is_not_there_is_refused() {
        for user in ["nobody", "web:nogroup", "+1", "-1", "4294967295", "broken", "1000:", "a b"] {
            assert_eq!(identify(user, &[]), None, "{user:?}");
        }
        assert_eq!(identify("web", &["nogroup"]), None);
    }

    #[test]
    fn the_specifications_user_stays_where_none_is_asked_for() {
        let identity = names().identify(&User::default(), (1000, 1001, Some(&[5]))).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.additional), (1000, 1001, vec![5]));
    }

    #[test]
    fn the_files_are_those_of_the_root_wherever_its_links_lead() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(outside.path().join("passwd"), "evil:x:666:666::/:\n").unwrap();
        symlink(outside.path().join("passwd"), root.path().join("etc/passwd")).unwrap();
        fs::write(root.path().join("etc/group"), "web:x:33:\n").unwrap();
        let fd = File::open(root.path()).unwrap().into();

        let mut process = Process::default();
        let evil = User { user: "evil".into(), groups: vec![] };
        assert!(apply(&evil, &fd, &mut process).is_err());

        process.set_env(Some(vec!["HOME=/kept".into()]));
        let user = User { user: "5:web".into(), groups: vec![] };
        apply(&user, &fd, &mut process).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (5, 33));
        assert_eq!(process.env().as_ref().unwrap(), &["HOME=/kept"]);
    }
}
