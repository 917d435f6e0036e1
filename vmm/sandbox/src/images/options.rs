//! How images are fetched: what users set by the environment.
//!
//! `RVM_LAYER_LIMIT=SIZE`: how much the files of a layer may be, 16G unless set. `RVM_INSECURE=HOST[:PORT],...`:
//! registries that need not prove who they are, and may speak plain HTTP.

use rvm_config::MemorySize;

use super::image::{Limits, PullPolicy};
use super::registry::RegistryOptions;

/// How images are fetched.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// When.
    pub policy: PullPolicy,
    /// How large a layer may be.
    pub limits: Limits,
    /// From whom.
    pub registry: RegistryOptions,
}

/// Why the environment is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use '{0}' for RVM_LAYER_LIMIT: it is not a size; write for example 512M or 20G")]
pub struct OptionsError(String);

impl Options {
    /// As the environment has them.
    pub fn from_environment() -> Result<Self, OptionsError> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::from_words(set("RVM_LAYER_LIMIT").as_deref(), set("RVM_INSECURE").as_deref())
    }

    fn from_words(limit: Option<&str>, insecure: Option<&str>) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        if let Some(limit) = limit {
            let size: MemorySize = limit.parse().map_err(|_| OptionsError(limit.to_owned()))?;
            options.limits.bytes = size.bytes();
        }
        if let Some(insecure) = insecure {
            options.registry.insecure = insecure.split(',').map(|name| name.trim().to_owned()).collect();
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_sets_limits_and_registries() {
        let options = Options::from_words(Some("2G"), Some("a:5000, b")).expect("options");
        assert_eq!(
            (options.limits.bytes, options.registry.insecure),
            (2 << 30, vec!["a:5000".into(), "b".into()])
        );
        assert_eq!(Options::from_words(Some("much"), None).err(), Some(OptionsError("much".into())));
    }
}
