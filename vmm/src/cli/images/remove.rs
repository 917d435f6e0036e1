//! `rvm rmi` and `rvm prune`.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};

use clap::Args;
use rvm_sandbox::images::store::{Removed, Stored};
use rvm_sandbox::images::{ImageError, Store, StoreError, find};

use super::{FAILED, failed, status, store};
use crate::cli::run::values::Size;
use crate::logging::{chain, say};

#[derive(Args)]
pub struct RmiArgs {
    /// Names, or the first digits of digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Remove an image though a VM uses it, and one with several names; layers in use stay until `rvm prune`
    #[arg(short, long)]
    force: bool,
}

#[derive(Args)]
pub struct PruneArgs {
    /// Remove all images that no VM uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Why an image is not removed.
#[derive(Debug, thiserror::Error)]
enum RmiError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot remove image '{0}': a VM uses it; end the VM, or remove the name alone with -f")]
    Used(String),
    #[error("cannot remove image '{0}' by its digest: it has several names; give one of them, or -f for all")]
    Names(String),
}

/// Removes images by their names.
pub fn rmi(args: &RmiArgs) -> u8 {
    let store = match store() {
        Ok(store) => store,
        Err(error) => return failed(&error),
    };
    let mut worst = 0;
    for image in &args.images {
        let told = remove(&store, image, args.force).map(|removed| crate::cli::print(&report(&removed)));
        worst = match told {
            Ok(Ok(())) => worst,
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        };
    }
    worst
}

fn remove(store: &Store, text: &str, force: bool) -> Result<Removed, RmiError> {
    let index = store.index()?;
    let stored = find(&index, text)?.clone();
    let others = index.images.iter().filter(|other| other.digest == stored.digest).count() - 1;
    let by_digest = stored.digest.to_string().contains(text) && stored.name() != Some(text);
    if by_digest && others > 0 && !force {
        return Err(RmiError::Names(text.to_owned()));
    }
    let mut in_use = false;
    let removed = store.remove(|image, used| {
        let meant = image.digest == stored.digest && (by_digest || image.name() == stored.name());
        // With another name it stays an image.
        in_use |= meant && used && others == 0 && !force;
        meant && !in_use
    })?;
    if in_use { Err(RmiError::Used(text.to_owned())) } else { Ok(removed) }
}

/// As Docker has it: a line for each name that is gone, and one for each file.
fn report(removed: &Removed) -> String {
    let names = removed.images.iter().filter_map(Stored::name).map(|name| format!("Untagged: {name}\n"));
    let digests: BTreeSet<String> =
        removed.images.iter().map(|image| image.digest.hex().to_owned()).collect();
    let files = removed.files.iter().filter_map(|file| file.file_name()?.to_str());
    let files = files.filter(|name| digests.contains(*name)).map(|name| format!("Deleted: sha256:{name}\n"));
    names.chain(files).collect()
}

/// Removes what nobody needs.
pub fn prune(args: &PruneArgs) -> u8 {
    let what = if args.all {
        "all images that no VM uses"
    } else {
        "all images without a name, and what none needs"
    };
    if !args.force && !agreed(what) {
        return FAILED;
    }
    let removed =
        store().and_then(|store| store.remove(|image, used| !used && (args.all || image.name().is_none())));
    match removed {
        Ok(removed) => {
            let text = format!("{}Total reclaimed space: {}\n", report(&removed), Size(removed.bytes));
            status(crate::cli::print(&text))
        }
        Err(error) => {
            say(&chain(&error));
            FAILED
        }
    }
}

/// Asks on the terminal.
fn agreed(what: &str) -> bool {
    let mut out = io::stderr();
    let asked = write!(out, "This removes {what}. Go on? [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    asked.and_then(|()| io::stdin().lock().read_line(&mut answer)).is_ok()
        && matches!(answer.trim(), "y" | "Y" | "yes")
}
