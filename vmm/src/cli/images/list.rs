//! `rvm images`.

use std::io;

use clap::Args;
use rvm_sandbox::images::{ImageSource, Listed, list};
use serde::Serialize;

use super::{failed, status, store};
use crate::cli::container::table;
use crate::cli::run::values::Size;
use crate::time::{Timestamp, roughly};

/// Digits of a digest that are shown.
const DIGITS: usize = 12;

#[derive(Args)]
pub struct ImagesArgs {
    /// Only images of this name, as alpine or alpine:3.20
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print digests only
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON, an array
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Print whole digests
    #[arg(long)]
    no_trunc: bool,
}

/// An image as `--json` has it.
#[derive(Serialize)]
struct Row {
    reference: Option<String>,
    repository: String,
    tag: String,
    digest: String,
    architecture: String,
    created: Option<String>,
    size: u64,
}

/// Lists the images in the store.
pub fn images(args: &ImagesArgs) -> u8 {
    let listed = match store().map_err(Into::into).and_then(|store| list(&store)) {
        Ok(listed) => listed,
        Err(error) => return failed(&error),
    };
    let rows = listed.iter().map(row).filter(|row| args.name.as_ref().is_none_or(|name| is_meant(row, name)));
    let rows: Vec<Row> = rows.collect();
    let text = if args.json {
        serde_json::to_string_pretty(&rows).map(|text| text + "\n").map_err(io::Error::other)
    } else {
        Ok(if args.quiet { digests(&rows, args.no_trunc) } else { as_table(&rows, args.no_trunc) })
    };
    status(text.and_then(|text| crate::cli::print(&text)))
}

fn row(image: &Listed) -> Row {
    let name = image.stored.name();
    // What is no reference is a place on this machine.
    let (repository, tag) = match name.map(str::parse) {
        Some(Ok(ImageSource::Registry(reference))) => {
            let tag = reference.tag().map(str::to_owned);
            let short = reference.short();
            let repository = short.split('@').next().unwrap_or_default();
            let suffix = tag.as_ref().map_or(String::new(), |tag| format!(":{tag}"));
            (repository.strip_suffix(&suffix).unwrap_or(repository).to_owned(), tag)
        }
        Some(_) => (name.unwrap_or_default().to_owned(), None),
        None => ("<none>".into(), None),
    };
    Row {
        reference: name.map(str::to_owned),
        repository,
        tag: tag.unwrap_or_else(|| "<none>".into()),
        digest: image.stored.digest.to_string(),
        architecture: image.platform.architecture.to_string(),
        created: image.created.clone(),
        size: image.size,
    }
}

fn is_meant(row: &Row, name: &str) -> bool {
    row.repository == name
        || row.reference.as_deref() == Some(name)
        || format!("{}:{}", row.repository, row.tag) == name
}

fn digest(row: &Row, whole: bool) -> &str {
    let digits = row.digest.strip_prefix("sha256:").unwrap_or(&row.digest);
    if whole { &row.digest } else { digits.get(..DIGITS).unwrap_or(digits) }
}

fn digests(rows: &[Row], whole: bool) -> String {
    rows.iter().fold(String::new(), |text, row| text + digest(row, whole) + "\n")
}

fn as_table(rows: &[Row], whole: bool) -> String {
    let mut lines = vec![["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        // Programs that make images may leave the time out, or write what is none.
        let created = row.created.as_ref().and_then(|created| created.parse::<Timestamp>().ok());
        let created = created.map_or_else(String::new, |created| format!("{} ago", roughly(created.age())));
        let digest = digest(row, whole).to_owned();
        vec![row.repository.clone(), row.tag.clone(), digest, created, Size(row.size).to_string()]
    }));
    table(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_row(repository: &str, tag: &str) -> Row {
        Row {
            reference: Some(format!("docker.io/library/{repository}:{tag}")),
            repository: repository.into(),
            tag: tag.into(),
            digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            architecture: "amd64".into(),
            created: None,
            size: 12_345_678,
        }
    }

    #[test]
    fn a_row_has_what_docker_shows() {
        let text = as_table(&[a_row("a-long-name", "1"), a_row("b", "latest")], false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "REPOSITORY    TAG      IMAGE ID       CREATED   SIZE",
                "a-long-name   1        0123456789ab             11.7 MiB",
                "b             latest   0123456789ab             11.7 MiB",
            ]
        );
    }

    #[test]
    fn a_name_is_meant_with_and_without_its_tag() {
        let row = a_row("alpine", "3.20");
        for (name, meant) in [
            ("alpine", true),
            ("alpine:3.20", true),
            ("docker.io/library/alpine:3.20", true),
            ("alpine:3", false),
            ("alp", false),
        ] {
            assert_eq!(is_meant(&row, name), meant, "{name}");
        }
    }
}
