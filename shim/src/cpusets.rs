//! Sets of the host's processors and memory nodes, cpuset(7). A guest has other numbers, and as many processors as it was
//! booted with: so the sets of a pod's containers are the machine's, in its control group on the host, and the guest hears
//! nothing of them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::ShimError;

/// Where processors and nodes have smaller numbers, on every host.
const NUMBERS: u16 = 8192;

/// A set of numbers, as in `0-3,7`; empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(BTreeSet<u16>);

/// What a container may use of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSets {
    /// Processors.
    pub cpus: Numbers,
    /// Memory nodes.
    pub mems: Numbers,
}

impl CpuSets {
    /// What `linux.resources` say.
    pub fn of(resources: &Value) -> Result<Self, ShimError> {
        let numbers = |name: &str, field| {
            // As with runc, what names the group's file comes last.
            let of_group = resources["unified"][format!("cpuset.{name}")].as_str();
            let text = of_group.or(resources["cpu"][name].as_str()).unwrap_or_default();
            Numbers::parse(text).ok_or_else(|| ShimError::Invalid {
                what: field,
                reason: format!("'{text}' is no list of numbers below {NUMBERS}, as in 0-3,7"),
            })
        };
        let cpus = numbers("cpus", "linux.resources.cpu.cpus")?;
        Ok(Self { cpus, mems: numbers("mems", "linux.resources.cpu.mems")? })
    }

    /// The same, taken out of `resources`.
    pub fn take(resources: &mut Value) -> Result<Self, ShimError> {
        let sets = Self::of(resources)?;
        for (object, begin) in [("cpu", ""), ("unified", "cpuset.")] {
            if let Some(object) = resources.get_mut(object).and_then(Value::as_object_mut) {
                object.remove(&format!("{begin}cpus"));
                object.remove(&format!("{begin}mems"));
            }
        }
        Ok(sets)
    }

    /// Whether there is no restriction.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What `changes` say goes over this, as in an update.
    pub fn change(&mut self, changes: Self) {
        if !changes.cpus.0.is_empty() {
            self.cpus = changes.cpus;
        }
        if !changes.mems.0.is_empty() {
            self.mems = changes.mems;
        }
    }

    /// What all of these may use together: those that say nothing have no part in it.
    pub fn union(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), |mut union, sets| {
            union.cpus.0.extend(sets.cpus.0);
            union.mems.0.extend(sets.mems.0);
            union
        })
    }
}

impl Numbers {
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|number| *number < NUMBERS);
        let mut numbers = BTreeSet::new();
        for part in text.split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| numbers.extend(first..=last))?;
        }
        Some(Self(numbers))
    }

    /// How many there are; `None`: no restriction.
    pub fn count(&self) -> Option<u64> {
        u64::try_from(self.0.len()).ok().filter(|count| *count > 0)
    }

    /// As the files of control groups have them; empty: as the group above.
    pub fn list(&self) -> String {
        let numbers: Vec<_> = self.0.iter().map(u16::to_string).collect();
        numbers.join(",")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use serde_json::json;

    use super::*;

    fn sets(cpus: &str, mems: &str) -> CpuSets {
        CpuSets::of(&json!({ "cpu": { "cpus": cpus, "mems": mems } })).unwrap()
    }

    #[test]
    fn sets_are_read_as_the_kernel_reads_them() {
        let read = |text: &str| Numbers::parse(text).map(|numbers| (numbers.list(), numbers.count()));
        assert_eq!(read("0-2, 7,1"), Some(("0,1,2,7".to_owned(), Some(4))));
        assert_eq!(read(""), Some((String::new(), None)));
        for text in ["a", "1-", "-1", "3-1", "1,,2", "8192", "0-99999", "0-7:2/4"] {
            assert_eq!(read(text), None, "{text}");
        }
        let error = CpuSets::of(&json!({ "cpu": { "mems": "x" } })).unwrap_err().to_string();
        assert!(error.contains("linux.resources.cpu.mems") && error.contains("'x'"), "{error}");
    }

    #[test]
    fn sets_are_taken_out_of_what_the_guest_is_told() {
        let mut resources = json!({ "cpu": { "cpus": "1", "mems": "0", "shares": 2 } });
        assert_eq!(CpuSets::take(&mut resources).unwrap(), sets("1", "0"));
        assert_eq!(resources, json!({ "cpu": { "shares": 2 } }));
        let mut resources =
            json!({ "cpu": { "cpus": "1" }, "unified": { "cpuset.cpus": "2", "cpu.idle": "1" } });
        assert_eq!(CpuSets::take(&mut resources).unwrap(), sets("2", ""));
        assert_eq!(resources, json!({ "cpu": {}, "unified": { "cpu.idle": "1" } }));
        for none in [json!({}), json!(null), json!([]), json!({ "cpu": 3 })] {
            assert!(CpuSets::take(&mut none.clone()).unwrap().is_empty(), "{none}");
        }
    }

    #[test]
    fn a_machine_may_use_what_its_containers_may() {
        let all = [sets("1", ""), sets("", "0"), sets("3-4", "")];
        assert_eq!(CpuSets::union(all), sets("1,3,4", "0"));
        let mut own = sets("1", "0");
        own.change(sets("2", ""));
        assert_eq!(own, sets("2", "0"));
    }
}
