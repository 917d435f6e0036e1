//! The commands about images, as users run them: what they print, how they end, and what they leave.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rvm_sandbox::images::Hold;
use rvm_sandbox::images::testing::archive::Archive;
use rvm_sandbox::images::testing::registry::Registry;
use rvm_sandbox::images::testing::{Layout, layer_archive};
use tempfile::TempDir;

/// A user with a store of images, and a layout with the image `app`, of one layer.
struct Place {
    directory: TempDir,
    layout: Layout,
}

impl Place {
    fn new() -> Self {
        let layout = Layout::empty();
        layout.add("app", &[layer_archive(&[("noise", &noise())])]);
        Self { directory: TempDir::with_prefix("rvm-images-").unwrap(), layout }
    }

    /// What `pull` takes for the layout's image with a tag.
    fn source(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.layout.path().display())
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("RVM_DATA", self.data())
            .env("DOCKER_CONFIG", self.directory.path())
            .env_remove("RVM_LAYER_LIMIT");
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_rvm")).args(arguments).output().unwrap()
    }

    /// What a command prints that can do what it is asked for.
    #[track_caller]
    fn prints(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that cannot: one line, with status 1.
    #[track_caller]
    fn says(&self, arguments: &[&str]) -> String {
        told(&self.run(arguments))
    }

    fn files(&self, directory: &str) -> Vec<PathBuf> {
        fs::read_dir(self.data().join(directory)).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

/// Bytes that cannot be compressed: 36,000 of them.
fn noise() -> Vec<u8> {
    (0..9_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[track_caller]
fn told(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{said}");
    let line = said.strip_prefix("rvm: ").and_then(|said| said.strip_suffix('\n')).unwrap_or(&said);
    assert!(!line.contains('\n'), "one line: {said}");
    line.to_owned()
}

#[test]
fn an_image_is_pulled_listed_and_removed() {
    let place = Place::new();
    let registry = Registry::start(&place.layout, |_, _| ());
    let name = format!("{}/team/app", registry.address);
    assert_eq!(place.prints(&["pull", "-q", &format!("{name}:app")]), format!("{name}:app\n"));

    let table = place.prints(&["images"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..2], [&name, "app"], "{table}");
    let digits = place.prints(&["images", "-q"]);
    assert_eq!(digits, format!("{}\n", row[2]));
    let json: serde_json::Value = serde_json::from_str(&place.prints(&["images", "--json", &name])).unwrap();
    assert_eq!((&json[0]["repository"], &json[0]["tag"]), (&name.as_str().into(), &"app".into()));
    assert!(json[0]["digest"].as_str().unwrap().contains(digits.trim()), "{json}");

    let removed = place.prints(&["rmi", digits.trim()]);
    assert!(removed.starts_with(&format!("Untagged: {name}:app\nDeleted: sha256:")), "{removed}");
    assert_eq!(place.prints(&["images", "-q"]), "");
    assert_eq!((place.files("blobs/sha256").len(), place.files("layers").len()), (0, 0));
}

#[test]
fn how_a_pull_gets_on_is_told_unless_it_is_to_be_quiet() {
    let place = Place::new();
    let said = |arguments: &[&str]| String::from_utf8(place.run(arguments).stderr).unwrap();
    let first = said(&["pull", &place.source("app")]);
    assert!(first.ends_with(": done\n") && first.lines().count() == 1, "{first}");
    let second = said(&["pull", &place.source("app")]);
    assert!(second.ends_with(": exists\n"), "{second}");
    assert_eq!(said(&["pull", "--quiet", &place.source("app")]), "");
}

#[test]
fn an_archive_goes_from_one_store_to_another() {
    let (place, other) = (Place::new(), Place::new());
    let registry = Registry::start(&place.layout, |_, _| ());
    let name = format!("{}/app:app", registry.address);
    place.prints(&["pull", "-q", &name]);
    let file = other.directory.path().join("app.tar");
    assert_eq!(place.prints(&["save", "-o", file.to_str().unwrap(), &name]), "");
    assert_eq!(other.prints(&["load", "-i", "app.tar"]), format!("Loaded image: {name}\n"));

    let archive = place.run(&["save", &name]).stdout;
    assert!(archive == fs::read(&file).unwrap(), "to a file and to standard output the same");
    let mut load = other.command(env!("CARGO_BIN_EXE_rvm"));
    let mut child = load.args(["load", "-q"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn what_is_not_there_is_told() {
    let place = Place::new();
    for (arguments, message) in [
        (&["rmi", "app"][..], "image 'app' is not on this machine; rvm pull app fetches it"),
        (&["save", "app"], "image 'app' is not on this machine; rvm pull app fetches it"),
        (&["load", "-i", "none.tar"], "cannot open 'none.tar': No such file or directory (os error 2)"),
        (&["pull", "oci:none"], "/none' is no OCI image layout, and no archive of one: it has no index.json"),
        (&["pull", "oci-archive:none"], "cannot read the archive of '"),
        (
            &["pull", "Team/App"],
            "'Team/App' is no name of an image: a name has lower case letters and digits",
        ),
    ] {
        let said = place.says(arguments);
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let place = Place::new();
    // The limit is of 512 bytes, and who ignores the signal gets an error.
    let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" pull -q \"$1\"";
    let mut shell = place.command("sh");
    let output =
        shell.args(["-c", script, env!("CARGO_BIN_EXE_rvm"), &place.source("app")]).output().unwrap();
    let said = told(&output);
    assert!(said.contains("cannot write blob sha256:"), "{said}");
    assert!(
        said.ends_with("to the store of images; nothing of it is kept: File too large (os error 27)"),
        "{said}"
    );
    assert_eq!(place.files("tmp"), Vec::<PathBuf>::new());
    assert_eq!(place.prints(&["images", "-q"]), "");
    place.prints(&["pull", "-q", &place.source("app")]);
}

#[test]
fn a_pull_that_is_killed_leaves_nothing_that_is_used() {
    let place = Place::new();
    // The layer comes as it is written to this, and its second half never.
    let blobs = fs::read_dir(place.layout.path().join("blobs/sha256")).unwrap();
    let layer =
        blobs.map(|blob| blob.unwrap().path()).max_by_key(|blob| blob.metadata().unwrap().len()).unwrap();
    let bytes = fs::read(&layer).unwrap();
    fs::remove_file(&layer).unwrap();
    mkfifo(&layer, Mode::S_IRWXU).unwrap();
    let mut pull = place.command(env!("CARGO_BIN_EXE_rvm"));
    let mut pull = pull.args(["pull", "-q", &place.source("app")]).spawn().unwrap();
    let mut fifo = File::options().write(true).open(&layer).unwrap();
    fifo.write_all(&bytes[..bytes.len() / 2]).unwrap();
    // Nothing tells of a file there; a pull that ended, by an error, makes none any more.
    while place.files("tmp").is_empty() {
        assert_eq!(pull.try_wait().unwrap(), None, "it ended before it was at work");
        sleep(Duration::from_millis(1));
    }
    pull.kill().unwrap();
    assert_eq!(pull.wait().unwrap().signal(), Some(9));
    assert_eq!(place.files("tmp").len(), 1, "it was at work");
    fs::remove_file(&layer).unwrap();
    fs::write(&layer, bytes).unwrap();
    assert_eq!(place.prints(&["images", "-q"]), "");
    assert_eq!((place.files("tmp").len(), place.files("layers").len()), (0, 0));
    place.prints(&["pull", "-q", &place.source("app")]);
}

#[test]
fn an_image_in_use_is_removed_by_force_alone_and_its_layer_later() {
    let place = Place::new();
    place.prints(&["pull", "-q", &place.source("app")]);
    let layer = place.files("layers").remove(0);
    let hold = Hold::take([layer.as_path()]).unwrap();
    let name = place.source("app");
    let message =
        format!("cannot remove image '{name}': a VM uses it; end the VM, or remove the name alone with -f");
    assert_eq!(place.says(&["rmi", &name]), message);
    assert!(place.prints(&["prune", "-af"]).starts_with("Total reclaimed space: "));
    assert_eq!(place.prints(&["images", "-q"]).lines().count(), 1);
    place.prints(&["rmi", "-f", &name]);
    assert!(layer.exists());
    drop(hold);
    place.prints(&["prune", "-f"]);
    assert!(!layer.exists());
}

#[test]
fn prune_asks_first() {
    let place = Place::new();
    place.prints(&["pull", "-q", &place.source("app")]);
    // There is nobody to answer.
    assert_eq!(place.run(&["prune", "-a"]).status.code(), Some(1));
    assert_eq!(place.prints(&["images", "-q"]).lines().count(), 1);
    assert!(place.prints(&["prune", "-af"]).starts_with(&format!("Untagged: {}\n", place.source("app"))));
    assert_eq!(place.prints(&["images", "-q"]), "");
}

#[test]
fn an_archive_that_cannot_be_written_is_told() {
    let place = Place::new();
    place.prints(&["pull", "-q", &place.source("app")]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut save = place.command(env!("CARGO_BIN_EXE_rvm"));
    let output = save.args(["save", &place.source("app")]).stdout(full).output().unwrap();
    assert_eq!(told(&output), "cannot write the archive: No space left on device (os error 28)");
    let said = place.says(&["save", "-o", "none/app.tar", &place.source("app")]);
    assert_eq!(said, "cannot write the archive: No such file or directory (os error 2)");
}

#[test]
fn a_hostile_image_is_refused_and_touches_nothing() {
    let place = Place::new();
    let outside = place.directory.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let out = outside.to_str().unwrap();
    for (tag, archive, message) in [
        (
            "traversal",
            Archive::default().file("../../outside", b"theirs"),
            "'../../outside' is no name of a file",
        ),
        (
            "hard-link",
            Archive::default().hard_link("a", out).file("a", b"theirs"),
            "which is no file of the same layer",
        ),
        (
            "no-directory",
            Archive::default().file("a", b"").file("a/b", b""),
            "is to be in something that is no directory",
        ),
        ("loop", Archive::default().symlink("a", "a").file("a/b", b""), "more than 40 symbolic links"),
    ] {
        place.layout.add(tag, &[archive.bytes()]);
        let said = place.says(&["pull", "-q", &place.source(tag)]);
        assert!(said.starts_with("cannot use image 'oci:") && said.contains(message), "{said}");
    }
    // A link out is data; what goes through it stays in the image.
    let through = Archive::default()
        .symlink("dir", place.directory.path().to_str().unwrap())
        .file("dir/outside", b"theirs");
    place.layout.add("through", &[through.bytes()]);
    place.prints(&["pull", "-q", &place.source("through")]);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
    let here: Vec<_> =
        fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(here.len(), 2, "the store, and the file that was there: {here:?}");
}

#[test]
fn a_layer_above_the_limit_is_refused() {
    let place = Place::new();
    place.layout.add("large", &[layer_archive(&[("zeros", &vec![0; 2 << 20])])]);
    let mut pull = place.command(env!("CARGO_BIN_EXE_rvm"));
    let output =
        pull.args(["pull", "-q", &place.source("large")]).env("RVM_LAYER_LIMIT", "1M").output().unwrap();
    let said = told(&output);
    assert!(
        said.ends_with("more than the 1 MiB that a layer may have; RVM_LAYER_LIMIT=SIZE allows more"),
        "{said}"
    );
    let mut pull = place.command(env!("CARGO_BIN_EXE_rvm"));
    let output =
        pull.args(["pull", "-q", &place.source("large")]).env("RVM_LAYER_LIMIT", "much").output().unwrap();
    assert!(told(&output).starts_with("cannot use 'much' for RVM_LAYER_LIMIT"), "{output:?}");
    assert_eq!(place.files("tmp"), Vec::<PathBuf>::new());
}
