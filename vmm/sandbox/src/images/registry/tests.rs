//! Pulls from a registry that behaves, and from others.

use std::fs;

use crate::images::testing::registry::{Answer, Registry, Request};
use crate::images::testing::{Layout, config, gzip, layer_archive};
use crate::images::*;

/// A store, and a layout with an image `app` of two layers; the upper one has 36,000 bytes that gzip cannot make less.
struct Place {
    data: tempfile::TempDir,
    store: Store,
    layout: Layout,
    options: Options,
}

impl Place {
    fn new() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let store = Store::open(data.path()).expect("a store");
        let layout = Layout::empty();
        let noise: Vec<u8> =
            (0..9_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        layout.add("app", &[layer_archive(&[("a", b"1")]), layer_archive(&[("noise", &noise)])]);
        let registry = RegistryOptions {
            passwords: Vec::new(),
            pause: std::time::Duration::ZERO,
            ..RegistryOptions::default()
        };
        let options = Options { policy: PullPolicy::Always, registry, ..Options::default() };
        Self { data, store, layout, options }
    }

    fn pull(&self, registry: &Registry, image: &str) -> Result<Image, ImageError> {
        let source = format!("{}/{image}", registry.address).parse().expect("a name");
        resolve(&self.store, &source, &self.options, &Quiet)
    }

    /// Why an image cannot be pulled; nothing of it is kept.
    fn refusal(&self, registry: &Registry, image: &str) -> String {
        let error = self.pull(registry, image).expect_err("it cannot be pulled");
        assert_eq!(list(&self.store).expect("a list").len(), 0, "no image is in the store");
        let left = fs::read_dir(self.data.path().join("tmp")).expect("a directory").count();
        assert_eq!(left, 0, "nothing incomplete is left");
        causes(&error)
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    error.source().map_or(error.to_string(), |source| format!("{error}: {}", causes(source)))
}

fn honest(_: &Request, _: &mut Answer) {}

#[test]
fn an_image_is_pulled_once() {
    let place = Place::new();
    let registry = Registry::start(&place.layout, honest);
    let image = place.pull(&registry, "team/app:app").expect("an image");
    assert_eq!((image.layers.len(), image.reference), (2, format!("{}/team/app:app", registry.address)));
    assert_eq!(image.config.cmd().as_deref(), Some(&["/bin/sh".to_owned()][..]));
    place.pull(&registry, "team/app:app").expect("an image");
    assert_eq!(registry.requests("/blobs/").len(), 3, "a configuration and two layers");
}

#[test]
fn what_is_here_is_not_asked_for() {
    let mut place = Place::new();
    let registry = Registry::start(&place.layout, honest);
    place.options.policy = PullPolicy::Never;
    let name = format!("{}/app:app", registry.address);
    let message = format!("image '{name}' is not on this machine; rvm pull {name} fetches it");
    assert_eq!(place.refusal(&registry, "app:app"), message);
    place.options.policy = PullPolicy::Missing;
    place.pull(&registry, "app:app").expect("an image");
    place.pull(&registry, "app:app").expect("an image");
    assert_eq!(registry.requests("/manifests/").len(), 1);
}

#[test]
fn an_image_is_pulled_by_its_digest() {
    let place = Place::new();
    let digest = place.layout.add("other", &[layer_archive(&[("b", b"2")])]);
    let registry = Registry::start(&place.layout, honest);
    assert_eq!(place.pull(&registry, &format!("app@{digest}")).expect("an image").digest, digest);
}

#[test]
fn of_an_index_the_image_for_this_machine_is_pulled() {
    let place = Place::new();
    let wanted = place.layout.add("wanted", &[layer_archive(&[("b", b"2")])]);
    let entry = |digest: &digest::Digest, architecture: &str| {
        let platform = serde_json::json!({"os": "linux", "architecture": architecture});
        serde_json::json!({"mediaType": "m", "digest": digest, "size": 1, "platform": platform})
    };
    let index = [
        entry(&digest::Digest::of(b"none"), "s390x"),
        entry(&wanted, &Platform::host().architecture.to_string()),
    ];
    place.layout.tag("index", &serde_json::json!({"schemaVersion": 2, "manifests": index}));
    let registry = Registry::start(&place.layout, honest);
    assert_eq!(place.pull(&registry, "app:index").expect("an image").digest, wanted);
}

#[test]
fn a_layer_goes_on_where_the_connection_broke() {
    let place = Place::new();
    let registry = Registry::start(&place.layout, |request, answer| {
        if request.path.contains("/blobs/") && answer.body.len() > 10_000 {
            answer.cut = Some(10_000);
        }
    });
    let image = place.pull(&registry, "app:app").expect("an image");
    assert_eq!(image.layers.len(), 2);
    let from: Vec<usize> =
        registry.requests("/blobs/").iter().map(|request| request.from).filter(|from| *from > 0).collect();
    assert_eq!(from, [10_000, 20_000, 30_000]);
}

#[test]
fn a_registry_without_ranges_sends_it_again() {
    let place = Place::new();
    let mut whole = Vec::new();
    let registry = Registry::start(&place.layout, move |request, answer| {
        if request.path.contains("/blobs/") && answer.body.len() > 10_000 && request.from == 0 {
            whole.clone_from(&answer.body);
            answer.cut = Some(9_999);
        } else if request.from > 0 {
            *answer = Answer::body(whole.clone());
        }
    });
    assert_eq!(place.pull(&registry, "app:app").expect("an image").layers.len(), 2);
}

#[test]
fn a_busy_registry_is_asked_again() {
    let place = Place::new();
    let mut asked = 0;
    let registry = Registry::start(&place.layout, move |request, answer| {
        asked += u32::from(request.path != "/v2/");
        if asked % 2 == 1 {
            *answer = Answer::status(if asked == 1 { 503 } else { 429 });
        }
    });
    place.pull(&registry, "app:app").expect("an image");
}

#[test]
fn a_registry_that_stays_broken_is_given_up() {
    let place = Place::new();
    let registry = Registry::start(&place.layout, |request, answer| {
        if request.path.contains("/blobs/") {
            *answer = Answer::status(500);
        }
    });
    let error = place.refusal(&registry, "app:app");
    assert!(error.ends_with("it answers 500 Internal Server Error"), "{error}");
    let registry = Registry::start(&place.layout, |request, answer| {
        if request.path.contains("/blobs/") {
            answer.cut = Some(0);
        }
    });
    let error = place.refusal(&registry, "app:app");
    assert!(error.contains("cannot read blob sha256:"), "{error}");
}

#[test]
fn a_registry_that_is_not_there_is_told_at_once() {
    let place = Place::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let source = format!("{free}/app").parse().expect("a name");
    let error = causes(&resolve(&place.store, &source, &place.options, &Quiet).expect_err("nobody is there"));
    let message = format!(
        "cannot get the manifest of app:latest from registry {free}: io: Connection refused (os error 111)"
    );
    assert_eq!(error, message);
}

#[test]
fn an_unknown_image_is_told() {
    let place = Place::new();
    let registry = Registry::start(&place.layout, honest);
    let message = format!(
        "registry {} has no image 'app:none' (manifest unknown); check its name and tag",
        registry.address
    );
    assert_eq!(place.refusal(&registry, "app:none"), message);
}

#[test]
fn a_blob_that_is_something_else_is_not_kept() {
    let place = Place::new();
    let registry = Registry::start(&place.layout, |request, answer| {
        if request.path.contains("/blobs/") && answer.body.len() > 10_000 {
            answer.body[5_000] ^= 1;
        }
    });
    let error = place.refusal(&registry, "app:app");
    assert!(error.contains("a blob has digest sha256:"), "{error}");
}

#[test]
fn a_layer_without_an_end_is_not_read_to_it() {
    let place = Place::new();
    let registry = Registry::start(&place.layout, |request, answer| {
        if request.path.contains("/blobs/") {
            answer.body.extend(vec![0; 1 << 20]);
        }
    });
    let error = place.refusal(&registry, "app:app");
    assert!(error.contains("bytes or more and must have"), "{error}");
}

#[test]
fn a_manifest_that_is_something_else_is_refused() {
    let place = Place::new();
    let digest = place.layout.add("other", &[layer_archive(&[("b", b"2")])]);
    let registry = Registry::start(&place.layout, |request, answer| {
        if request.path.contains("/manifests/") {
            answer.body.push(b' ');
        }
    });
    let error = place.refusal(&registry, &format!("app@{digest}"));
    assert!(error.contains(&format!("must have {digest}")), "{error}");
}

#[test]
fn an_image_for_other_machines_is_refused() {
    let place = Place::new();
    let archive = layer_archive(&[("a", b"1")]);
    let config = config("s390x", &[digest::Digest::of(&archive)]);
    let config = place.layout.blob("config", config.to_string().as_bytes());
    let layer = place.layout.blob("layer", &gzip(&archive));
    place.layout.tag("s390x", &serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]}));
    let registry = Registry::start(&place.layout, honest);
    let message = format!(
        "cannot use image '{}/app:s390x': it is for linux/s390x, and this machine is {}",
        registry.address,
        Platform::host()
    );
    assert_eq!(place.refusal(&registry, "app:s390x"), message);
}

#[test]
fn a_password_gets_a_token_and_the_token_the_image() {
    let mut place = Place::new();
    let registry = Registry::start(&place.layout, |request, answer| {
        let authorization = request.authorization.as_deref();
        if request.path.starts_with("/token?") {
            let known = authorization == Some("Basic dTpw")
                && request.path.contains("repository%3Ateam%2Fapp%3Apull");
            *answer = if known { Answer::body(r#"{"token":"T"}"#) } else { Answer::status(401) };
        } else if authorization != Some("Bearer T") {
            *answer = Answer::status(401);
            let challenge = format!(
                r#"Bearer realm="http://{}/token",service="s",scope="repository:team/app:pull""#,
                request.host
            );
            answer.headers.push(("WWW-Authenticate", challenge));
        }
    });
    let passwords = place.data.path().join("config.json");
    fs::write(&passwords, format!(r#"{{"auths":{{"{}":{{"auth":"dTpw"}}}}}}"#, registry.address))
        .expect("a file");
    place.options.registry.passwords = vec![passwords];
    place.pull(&registry, "team/app:app").expect("an image");
}

#[test]
fn who_has_no_password_is_told_what_to_do() {
    let place = Place::new();
    let registry = Registry::start(&place.layout, |request, answer| {
        if request.authorization.is_none() {
            *answer = Answer::status(401);
            answer.headers.push(("WWW-Authenticate", "Basic realm=\"r\"".to_owned()));
        }
    });
    let address = &registry.address;
    let message = format!(
        "registry {address} does not have image 'app:app', or not for everybody; docker login {address} saves a name and \
         a password that rvm uses, too"
    );
    assert_eq!(place.refusal(&registry, "app:app"), message);
}
