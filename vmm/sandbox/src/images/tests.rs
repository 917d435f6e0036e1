//! Images from files, whole and broken; and to files.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::digest::Digest;
use super::testing::{Layout, config, gzip, layer_archive};
use super::*;

struct Place {
    data: tempfile::TempDir,
    store: Store,
    layout: Layout,
}

impl Place {
    fn new() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let store = Store::open(data.path()).expect("a store");
        Self { data, store, layout: Layout::empty() }
    }

    fn resolve(&self, source: &ImageSource) -> Result<Image, ImageError> {
        resolve(&self.store, source, &Options::default(), &Quiet)
    }

    fn oci(&self, tag: &str) -> Result<Image, ImageError> {
        self.resolve(&ImageSource::Oci(self.layout.path().to_owned(), Some(tag.to_owned())))
    }

    /// Why an image cannot be had; nothing of it is in the list.
    fn refusal(&self, tag: &str) -> String {
        let error = self.oci(tag).expect_err("it is refused");
        assert_eq!(list(&self.store).expect("a list").len(), 0);
        causes(&error)
    }

    fn load(&self, archive: &Path) -> Result<Vec<store::Stored>, ImageError> {
        let file = File::open(archive).expect("the archive");
        load(&self.store, "archive", file, &Limits::default(), &Quiet)
    }

    fn names(&self) -> Vec<String> {
        let listed = list(&self.store).expect("a list");
        listed.iter().map(|image| image.stored.name().unwrap_or("none").to_owned()).collect()
    }
}

/// An error and its causes.
fn causes(error: &dyn std::error::Error) -> String {
    error.source().map_or(error.to_string(), |source| format!("{error}: {}", causes(source)))
}

/// An archive as `docker save` writes it, with one image.
fn docker_archive(place: &Place, layer: &[u8]) -> std::path::PathBuf {
    let config = config("amd64", &[Digest::of(layer)]).to_string();
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["team/app:1", "app:2"], "Layers": ["d/layer.tar"]}]);
    let mut archive = tar::TarWriter::new(Vec::new());
    for (name, contents) in [
        ("c.json", config.as_bytes()),
        ("d/layer.tar", layer),
        ("manifest.json", manifest.to_string().as_bytes()),
    ] {
        archive.file(name, contents.len() as u64, &mut &contents[..]).expect("memory can be written");
    }
    let path = place.data.path().join("docker.tar");
    fs::write(&path, archive.finish().expect("memory can be written")).expect("a file");
    path
}

#[test]
fn layers_are_in_their_order_and_defaults_are_filled_in() {
    let place = Place::new();
    let layers = [layer_archive(&[("a", b"1")]), layer_archive(&[("b", b"2")])];
    place.layout.add("app", &layers);
    let image = place.oci("app").expect("an image");
    let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    assert_eq!(diff_ids, layers.map(|layer| Digest::of(&layer)));
    let env = image.config.env().clone().expect("variables");
    assert_eq!(env, ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1"]);
    assert_eq!(image.config.working_dir().as_deref(), Some("/"));
    assert!(image.layers.iter().all(|layer| layer.size > 0 && layer.size % 4096 == 0));
}

#[test]
fn several_images_need_a_tag() {
    let place = Place::new();
    place.layout.add("one", &[layer_archive(&[("a", b"1")])]);
    place.layout.add("two", &[layer_archive(&[("a", b"2")])]);
    let source = ImageSource::Oci(place.layout.path().to_owned(), None);
    let error = place.resolve(&source).expect_err("which?").to_string();
    assert_eq!(error, format!("'{source}' has 2 images: say which, as '{source}:TAG'"));
    let missing = format!("'{}' has no image with tag 'three'", place.layout.path().display());
    assert_eq!(place.refusal("three"), missing);
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let place = Place::new();
    let archive = layer_archive(&[("a", b"1")]);
    let expected = Digest::of(b"something else");
    let config =
        place.layout.blob("config", config("amd64", std::slice::from_ref(&expected)).to_string().as_bytes());
    let layer = place.layout.blob("layer", &gzip(&archive));
    place.layout.tag("app", &json!({"schemaVersion": 2, "config": config, "layers": [layer]}));
    let found = Digest::of(&archive);
    let error = place.refusal("app");
    assert!(
        error.ends_with(&format!(
            ": its contents have digest {found}, the image's configuration says {expected}"
        )),
        "{error}"
    );
    assert!(!place.store.layer_path(&expected).exists() && !place.store.layer_path(&found).exists());
}

#[test]
fn a_configuration_with_other_layers_than_the_manifest_is_refused() {
    let place = Place::new();
    let config = place.layout.blob("config", config("amd64", &[]).to_string().as_bytes());
    let layer = place.layout.blob("layer", b"");
    place.layout.tag("app", &json!({"schemaVersion": 2, "config": config, "layers": [layer]}));
    let name = format!("oci:{}:app", place.layout.path().display());
    let message = format!("cannot use image '{name}': its manifest has 1 layers and its configuration 0");
    assert_eq!(place.refusal("app"), message);
}

#[test]
fn an_image_without_layers_has_none() {
    let place = Place::new();
    place.layout.add("empty", &[]);
    assert_eq!(place.oci("empty").expect("an image").layers, []);
}

#[test]
fn a_blob_cut_short_or_changed_is_refused() {
    let place = Place::new();
    let archive = layer_archive(&[("a", b"1")]);
    place.layout.add("app", std::slice::from_ref(&archive));
    let blob = place.layout.path().join("blobs/sha256").join(Digest::of(&gzip(&archive)).hex());
    let whole = fs::read(&blob).expect("the blob");
    fs::write(&blob, &whole[..whole.len() - 1]).expect("a file");
    assert!(place.refusal("app").ends_with("it is cut short or not what the image names"));
    fs::write(&blob, vec![0; whole.len()]).expect("a file");
    assert!(place.refusal("app").ends_with("it was damaged or replaced on its way"));
    fs::remove_file(&blob).expect("the blob");
    assert!(place.refusal("app").contains("has no file 'blobs/sha256/"));
}

#[test]
fn what_is_no_layout_is_told() {
    let place = Place::new();
    let file = place.data.path().join("file");
    for (contents, message) in [
        (&b"x"[..], "'archive' is no tar archive: it is cut short within a header"),
        (b"", "'archive' is no OCI image layout, and no archive of one: it has no index.json"),
        (
            &layer_archive(&[("a", b"1")]),
            "'archive' is no OCI image layout, and no archive of one: it has no index.json",
        ),
        (
            &layer_archive(&[("index.json", b"{}")]),
            "'archive' is no OCI image layout: its index.json is none",
        ),
    ] {
        fs::write(&file, contents).expect("a file");
        assert_eq!(place.load(&file).expect_err("it is refused").to_string(), message);
    }
}

#[test]
fn what_docker_saved_is_loaded_under_all_its_names() {
    let place = Place::new();
    let layer = layer_archive(&[("a", b"1")]);
    let archive = docker_archive(&place, &layer);
    place.load(&archive).expect("images");
    assert_eq!(place.names(), ["docker.io/team/app:1", "docker.io/library/app:2"]);
    let image = place.resolve(&"app:2".parse().expect("a name")).expect("it is here");
    assert_eq!(image.layers[0].diff_id, Digest::of(&layer));
    let source = ImageSource::DockerArchive(archive, Some("team/app:1".into()));
    assert_eq!(place.resolve(&source).expect("an image").digest, image.digest);
}

#[test]
fn a_compressed_archive_is_loaded() {
    let place = Place::new();
    let archive = docker_archive(&place, &layer_archive(&[("a", b"1")]));
    fs::write(&archive, gzip(&fs::read(&archive).expect("the archive"))).expect("a file");
    assert_eq!(place.load(&archive).expect("images").len(), 2);
    let left = fs::read_dir(place.data.path().join("tmp")).expect("a directory").count();
    assert_eq!(left, 0);
}

#[test]
fn what_is_saved_can_be_loaded_elsewhere() {
    let (place, other) = (Place::new(), Place::new());
    place.load(&docker_archive(&place, &layer_archive(&[("a", b"1")]))).expect("images");
    let mut archive = Vec::new();
    save(&place.store, &["app:2".into(), "team/app:1".into()], &mut archive).expect("an archive");
    let path = other.data.path().join("saved.tar");
    fs::write(&path, &archive).expect("a file");
    other.load(&path).expect("images");
    assert_eq!(other.names(), place.names());
    let image = |place: &Place| place.resolve(&"app:2".parse().expect("a name")).expect("it is here");
    assert_eq!(image(&other).digest, image(&place).digest);
    let source = ImageSource::OciArchive(path, Some("1".into()));
    assert_eq!(other.resolve(&source).expect("an image").digest, image(&place).digest);
}

#[test]
fn an_image_is_found_by_the_first_digits_of_its_digest() {
    let place = Place::new();
    place.layout.add("app", &[layer_archive(&[("a", b"1")])]);
    let digest = place.oci("app").expect("an image").digest;
    let digits = &digest.hex()[..12];
    assert_eq!(place.resolve(&digits.parse().expect("a name")).expect("it is here").digest, digest);
    let index = place.store.index().expect("an index");
    assert!(find(&index, &digits[..3]).is_err(), "three digits are too few");
}

#[test]
fn a_layer_whose_file_is_gone_is_made_again() {
    let place = Place::new();
    place.layout.add("app", &[layer_archive(&[("a", b"1")])]);
    let erofs = place.oci("app").expect("an image").layers[0].erofs.clone();
    fs::remove_file(&erofs).expect("the layer");
    place.oci("app").expect("an image");
    assert!(erofs.exists());
}

#[test]
fn one_of_many_at_the_same_time_makes_a_layer() {
    let place = Place::new();
    place.layout.add("app", &[layer_archive(&[("a", &[b'x'; 100_000])])]);
    let converted = std::sync::atomic::AtomicUsize::new(0);
    struct Count<'a>(&'a std::sync::atomic::AtomicUsize);
    impl Progress for Count<'_> {
        fn layer(&self, _: &Digest, step: Step) {
            if matches!(step, Step::Fetched(done, total) if done == total) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }

        fn note(&self, _: &str) {}
    }
    let source = ImageSource::Oci(place.layout.path().to_owned(), None);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                resolve(&place.store, &source, &Options::default(), &Count(&converted)).expect("an image");
            });
        }
    });
    assert_eq!(converted.into_inner(), 1);
}

#[test]
fn a_store_that_was_tampered_with_says_so() {
    let place = Place::new();
    let mut index = File::create(place.data.path().join("index.json")).expect("a file");
    index.write_all(b"{").expect("a file");
    let error = list(&place.store).expect_err("it is damaged").to_string();
    assert!(error.contains("index.json' in the store of images is damaged"), "{error}");
}
