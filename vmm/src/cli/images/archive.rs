//! `rvm load` and `rvm save`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;
use rvm_sandbox::images::{self, Options, SaveError};

use super::progress::Shown;
use super::{FAILED, failed, status, store};
use crate::logging::say;

#[derive(Args)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct LoadArgs {
    /// The archive: of an OCI image layout, or written by docker save; may be compressed [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Say nothing of how it gets on
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Args)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct SaveArgs {
    /// Names, or the first digits of digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// The archive, of an OCI image layout [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Brings the images of an archive into the store.
pub fn load(args: &LoadArgs) -> u8 {
    let (place, archive) = match &args.input {
        Some(path) => (path.display().to_string(), File::open(path)),
        None => ("standard input".into(), io::stdin().as_fd().try_clone_to_owned().map(File::from)),
    };
    let archive = match archive {
        Ok(archive) => archive,
        Err(error) => {
            say(&format!("cannot open '{place}': {error}"));
            return FAILED;
        }
    };
    if args.input.is_none() && archive.is_terminal() {
        say("standard input is a terminal: give the archive with -i FILE, or as rvm load < FILE");
        return FAILED;
    }
    let shown = Shown::new(args.quiet);
    let loaded = Options::from_environment()
        .map_err(Into::into)
        .and_then(|options| images::load(&store()?, &place, archive, &options.limits, &shown));
    match loaded {
        Ok(loaded) => {
            let lines = loaded.iter().map(|stored| match stored.name() {
                Some(name) => format!("Loaded image: {name}\n"),
                None => format!("Loaded image ID: {}\n", stored.digest),
            });
            status(crate::cli::print(&lines.collect::<String>()))
        }
        Err(error) => failed(&error),
    }
}

/// Writes images to an archive.
pub fn save(args: &SaveArgs) -> u8 {
    if let Some(path) = &args.output {
        return save_to(path, args);
    }
    if io::stdout().is_terminal() {
        say("standard output is a terminal: give a file with -o FILE, or as rvm save IMAGE > FILE");
        return FAILED;
    }
    let store = match store() {
        Ok(store) => store,
        Err(error) => return failed(&error),
    };
    match images::save(&store, &args.images, BufWriter::new(io::stdout().lock())) {
        // A reader that is gone has read all it wanted.
        Err(SaveError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => FAILED,
        result => status(result),
    }
}

/// Writes them to a file, which is there when it is complete, or not at all.
fn save_to(path: &Path, args: &SaveArgs) -> u8 {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let saved = store().map_err(Into::into).and_then(|store| {
        let file = File::create(&part).map_err(SaveError::Write)?;
        images::save(&store, &args.images, BufWriter::new(&file))?;
        file.sync_all().and_then(|()| std::fs::rename(&part, path)).map_err(SaveError::Write)
    });
    if saved.is_err() {
        // It may not have been made.
        std::fs::remove_file(&part).ok();
    }
    status(saved)
}
