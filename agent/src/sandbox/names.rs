//! The files by which the programs of containers know names: /run/rvm/etc/{hostname,hosts,resolv.conf}, to be bound
//! into containers (hostname(5), hosts(5), resolv.conf(5)).
//!
//! They are changed in place: what is bound into a running container is the file, not its name.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use rvm_agent_proto::{Dns, HostEntry};

use crate::refusal::Refusal;

/// Where they are.
const ETC: &str = "/run/rvm/etc";

/// What the files say.
#[derive(Debug, Default)]
pub struct Names {
    /// The host's name, once one was set.
    pub hostname: Option<String>,
    /// Names of others, as the last Configure gave them.
    pub hosts: Vec<HostEntry>,
    /// Where names are asked for.
    pub dns: Option<Dns>,
}

impl Names {
    /// Writes all three.
    pub fn write(&self) -> Result<(), Refusal> {
        let hostname = self.hostname.as_deref().unwrap_or("rvm");
        fs::create_dir_all(ETC).map_err(Refusal::kernel(|| format!("make {ETC}")))?;
        write("hostname", &format!("{hostname}\n"))?;
        write("hosts", &hosts(hostname, &self.hosts))?;
        write("resolv.conf", &self.dns.as_ref().map(resolv_conf).unwrap_or_default())
    }
}

fn write(name: &str, text: &str) -> Result<(), Refusal> {
    let path = Path::new(ETC).join(name);
    fs::write(&path, text).map_err(Refusal::kernel(|| format!("write {}", path.display())))
}

/// Refuses what would not be one name, or one line.
pub fn check(hosts: &[HostEntry], dns: Option<&Dns>) -> Result<(), Refusal> {
    for entry in hosts {
        address(&entry.address)?;
        if entry.names.is_empty() {
            return Err(Refusal::invalid(format!("the host {}", entry.address), "it has no name"));
        }
        entry.names.iter().try_for_each(|name| word(name))?;
    }
    if let Some(dns) = dns {
        dns.servers.iter().try_for_each(|server| address(server))?;
        dns.search.iter().chain(&dns.options).try_for_each(|name| word(name))?;
    }
    Ok(())
}

fn address(text: &str) -> Result<(), Refusal> {
    match text.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Refusal::invalid(format!("the address {text:?}"), "it is neither of IPv4 nor of IPv6")),
    }
}

/// Refuses what the readers of these files would not take for one word.
fn word(text: &str) -> Result<(), Refusal> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        true => Ok(()),
        false => Err(Refusal::invalid(format!("the name {text:?}"), "it has to be a word")),
    }
}

fn hosts(hostname: &str, entries: &[HostEntry]) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n");
    for entry in entries {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
    text
}

fn resolv_conf(dns: &Dns) -> String {
    let mut lines: Vec<String> = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for (word, values) in [("search", &dns.search), ("options", &dns.options)] {
        if !values.is_empty() {
            lines.push(format!("{word} {}\n", values.join(" ")));
        }
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::{Dns, HostEntry, check, hosts, resolv_conf};

    fn dns(servers: &[&str], search: &[&str]) -> Dns {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Dns { servers: owned(servers), search: owned(search), options: owned(&["ndots:2"]) }
    }

    #[test]
    fn the_files_are_as_their_readers_want_them() {
        let resolv = resolv_conf(&dns(&["192.0.2.1", "2001:db8::1"], &["a.example", "b.example"]));
        assert_eq!(
            resolv,
            "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example b.example\noptions ndots:2\n"
        );
        let entry = HostEntry { address: "192.0.2.9".into(), names: vec!["db".into(), "db.example".into()] };
        assert!(hosts("box", &[entry]).ends_with("127.0.1.1\tbox\n192.0.2.9\tdb db.example\n"));
    }

    #[test]
    fn what_would_be_another_line_is_refused() {
        for search in ["a\nnameserver 203.0.113.1", "a b", "", "#"] {
            assert!(check(&[], Some(&dns(&[], &[search]))).is_err(), "{search:?}");
        }
        assert!(check(&[], Some(&dns(&["192.0.2.1\n"], &[]))).is_err());
        let nameless = HostEntry { address: "192.0.2.9".into(), names: vec![] };
        assert!(check(&[nameless], None).is_err());
    }
}
