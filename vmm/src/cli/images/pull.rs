//! `rvm pull`.

use clap::Args;
use rvm_sandbox::images::{ImageSource, Options, PullPolicy, resolve};

use super::progress::Shown;
use super::{failed, status, store};

#[derive(Args)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the brackets of a help text are no links")]
pub struct PullArgs {
    /// NAME[:TAG|@DIGEST], or a place on this machine: oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Say nothing of how it gets on
    #[arg(short, long)]
    quiet: bool,
    /// Whether the registry must prove who it is; off allows plain HTTP, too
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    tls_verify: bool,
}

/// Fetches an image, or a newer one of the same name.
pub fn pull(args: &PullArgs) -> u8 {
    let shown = Shown::new(args.quiet);
    let pulled = Options::from_environment().map_err(Into::into).and_then(|options| {
        let source: ImageSource = args.image.parse()?;
        let mut options = options;
        options.policy = PullPolicy::Always;
        options.registry.tls_verify &= args.tls_verify;
        resolve(&store()?, &source, &options, &shown)
    });
    match pulled {
        Ok(image) => status(crate::cli::print(&format!("{}\n", image.reference))),
        Err(error) => failed(&error),
    }
}
