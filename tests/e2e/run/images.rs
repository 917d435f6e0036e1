//! Images: from registries, layouts and archives into the store, and out of it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rvm_tests::oci::{Layer, Layout};
use serde_json::{Value, json};
use tar::EntryType;

use super::place::{Place, files_in, image};
use crate::process::run;

/// File systems and blobs in the store, by their sizes in it.
fn stored(place: &Place) -> usize {
    let count = |part: &str| files_in(&place.path(part)).into_iter().filter(|path| path.is_file()).count();
    count("data/layers") + count("data/blobs")
}

#[test]
fn images_are_pulled_listed_and_removed_with_what_only_they_had() {
    let place = Place::empty();
    let (debian, python) = (image("debian"), image("python"));
    if debian.starts_with("oci:") {
        return rvm_tests::cannot_run("there is no registry on this machine");
    }
    for name in [&debian, &python] {
        place.said(&["pull", "--quiet", name]);
    }
    let list = place.said(&["images"]);
    for name in ["debian", "python"] {
        assert!(
            list.lines()
                .any(|line| line.starts_with(&format!("localhost:5000/{name}")) && line.contains("latest")),
            "{list}"
        );
    }
    let all = stored(&place);
    // The same again costs nothing, and the name is as good as its digest.
    place.said(&["pull", "--quiet", &python]);
    assert_eq!(stored(&place), all);

    place.said(&["rmi", &debian]);
    // The layer is python's too.
    assert_eq!(
        place.said(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--pull",
            "never",
            &python,
            "python3",
            "-c",
            "print(6*7)"
        ]),
        "42\n"
    );
    place.said(&["rmi", &python]);
    assert_eq!(stored(&place), 0, "{:?}", files_in(&place.path("data")));
    assert_eq!(place.said(&["images", "-q"]), "");
    place.refuses(&["rmi", &python], 1, "python");
}

#[test]
fn an_image_that_a_container_has_is_kept_for_it() {
    // With files that no other test's containers have.
    let place = Place::empty();
    let busybox = image("busybox");
    place.said(&["pull", "--quiet", &busybox]);
    place.said(&["run", "-d", "--name", "box", "--network", "none", &busybox, "sleep", "1000"]);
    let ran = place.run(&["rmi", &busybox]);
    assert!(ran.status != Some(0) && ran.error.lines().count() == 1, "{ran:?}");
    place.said(&["prune", "-f"]);
    assert_eq!(place.said(&["exec", "box", "cat", "/etc/group"]).lines().count(), 2);
    place.said(&["rm", "-f", "box"]);
    place.said(&["rmi", &busybox]);
    assert_eq!(stored(&place), 0);
}

#[test]
fn images_go_out_and_come_in_as_archives() {
    let place = Place::with(&["busybox"]);
    let busybox = image("busybox");
    place.said(&["save", "-o", "saved.tar", &busybox]);
    // What rvm wrote others read, and the other way round.
    for (from, to) in [
        ("oci-archive:saved.tar", "docker-archive:docker.tar:from/docker:1"),
        ("oci-archive:saved.tar", "oci-archive:oci.tar:tag"),
    ] {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", from, to]).current_dir(place.path("work"));
        let ran = run(skopeo);
        assert_eq!(ran.status, Some(0), "{from} to {to}: {ran:?}");
    }
    let other = Place::empty();
    for archive in ["oci-archive:", "docker-archive:"] {
        let file = if archive.starts_with("oci") { "oci.tar" } else { "docker.tar" };
        let reference = format!("{archive}{}", place.text(&format!("work/{file}")));
        assert_eq!(
            other.said(&["run", "--rm", "--network", "none", &reference, "echo", archive]),
            format!("{archive}\n")
        );
    }
    other.said(&["load", "--quiet", "-i", &place.text("work/docker.tar")]);
    let list = other.said(&["images"]);
    assert!(list.contains("from/docker"), "{list}");
    assert_eq!(
        other.said(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--pull",
            "never",
            "from/docker:1",
            "echo",
            "loaded"
        ]),
        "loaded\n"
    );
}

#[test]
fn a_directory_is_a_root_file_system_and_stays_as_it_is() {
    let place = Place::empty();
    let root = place.path("work/root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/sh"), Layer::busybox_program().unwrap()).unwrap();
    fs::set_permissions(root.join("bin/sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let said = place.said(&[
        "run",
        "--rm",
        "--network",
        "none",
        "dir:root",
        "sh",
        "-c",
        "echo x >/new && echo written",
    ]);
    assert_eq!(said, "written\n");
    assert!(!root.join("new").exists());
}

/// An image in which later layers take back what earlier ones have.
fn layered(place: &Place) -> Layout {
    // `struct vfs_cap_data` (linux/capability.h): version 2, effective; CAP_NET_RAW permitted.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let first = Layer::busybox()
        .unwrap()
        .xattr("security.capability", &capability)
        .file("busybox-raw", 0o755, &Layer::busybox_program().unwrap())
        .directory("kept", 0o755)
        .file("kept/file", 0o644, b"first\n")
        .file("kept/removed", 0o644, b"")
        .directory("opaque", 0o755)
        .file("opaque/old", 0o644, b"")
        .file("setuid", 0o4755, b"x")
        .link(EntryType::Link, "hard", "kept/file");
    let second = Layer::default()
        .file("kept/.wh.removed", 0, b"")
        .directory("opaque", 0o700)
        .file("opaque/.wh..wh..opq", 0, b"")
        .file("opaque/new", 0o644, b"second\n");
    let mut layout = Layout::new(&place.path("work/layout")).unwrap();
    layout.add("layered", &[&first, &second], &json!({ "Cmd": ["sh"] })).unwrap();
    layout
}

#[test]
fn whiteouts_attributes_and_modes_are_as_the_layers_say() {
    let place = Place::empty();
    let layout = layered(&place);
    // The same image with layers that zstd made.
    let mut skopeo = Command::new("skopeo");
    skopeo.args([
        "copy",
        "--quiet",
        "--dest-compress",
        "--dest-compress-format",
        "zstd",
        "--dest-force-compress-format",
    ]);
    skopeo.args(["oci:layout:layered", "oci:zstd:layered"]).current_dir(place.path("work"));
    let ran = run(skopeo);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for reference in [layout.reference("layered"), "oci:zstd:layered".to_owned()] {
        let script =
            "find /kept /opaque | sort; stat -c '%a %h' /setuid /opaque /hard; cat /hard /opaque/new";
        let said = place.said(&["run", "--rm", "--network", "none", &reference, "sh", "-c", script]);
        let expected = "/kept\n/kept/file\n/opaque\n/opaque/new\n4755 1\n700 2\n644 2\nfirst\nsecond\n";
        assert_eq!(said, expected, "{reference}");
    }
    // A program's capability is in an extended attribute of its file.
    let script = "/busybox-raw grep CapEff /proc/self/status";
    let flags =
        ["run", "--rm", "--network", "none", "-u", "1000", &layout.reference("layered"), "sh", "-c", script];
    assert_eq!(place.said(&flags), "CapEff:\t0000000000002000\n");
}

#[test]
fn a_layer_never_leaves_its_place() {
    let place = Place::empty();
    let outside = place.path("work/outside");
    fs::write(&outside, "of the host\n").unwrap();
    let absolute = place.text("work/absolute");
    let up = "../../../../../../../../..";
    let escape = place.text("work/through");
    let hostile: [(&str, Layer); 8] = [
        ("absolute", Layer::default().file(&absolute, 0o644, b"bad")),
        ("parents", Layer::default().file(&format!("{up}{}", place.text("work/parents")), 0o644, b"bad")),
        (
            "symlink",
            Layer::default().link(EntryType::Symlink, "out", &place.text("work")).file(
                "out/through",
                0o644,
                b"bad",
            ),
        ),
        ("hardlink", Layer::default().link(EntryType::Link, "stolen", outside.to_str().unwrap())),
        (
            "hardlink-up",
            Layer::default().link(EntryType::Link, "stolen", &format!("{up}{}", outside.display())),
        ),
        ("whiteout", Layer::default().file(&format!("{up}{}", place.text("work/.wh.outside")), 0, b"")),
        ("device", Layer::default().device("disk")),
        ("claims", Layer::default().claim("huge", 1 << 40)),
    ];
    let mut layout = Layout::new(&place.path("layout")).unwrap();
    let busybox = Layer::busybox().unwrap();
    for (tag, layer) in &hostile {
        layout.add(tag, &[&busybox, layer], &json!({ "Cmd": ["sh"] })).unwrap();
    }
    // Each is refused in one line, or has names of the image's own.
    let (mut layers, mut taken) = (vec![&busybox], Vec::new());
    for (tag, layer) in &hostile {
        let pulled = place.run(&["pull", "--quiet", &layout.reference(tag)]);
        println!("{tag}: {pulled:?}");
        if pulled.status == Some(0) {
            layers.push(layer);
            taken.push(*tag);
        } else {
            assert_eq!((pulled.status, pulled.error.lines().count()), (Some(1), 1), "{tag}: {pulled:?}");
        }
    }
    assert_eq!(taken, ["absolute", "symlink", "device"]);
    layout.add("all", &layers, &json!({ "Cmd": ["sh"] })).unwrap();
    let script = "cat /stolen 2>/dev/null; cat /disk >/dev/null 2>&1 && echo a disk; ls -d /out /disk";
    let ran = place.run(&["run", "--rm", "--network", "none", &layout.reference("all"), "sh", "-c", script]);
    assert_eq!((ran.status, ran.out.as_str(), ran.error.as_str()), (Some(0), "/disk\n/out\n", ""));
    assert_eq!(fs::read_to_string(&outside).unwrap(), "of the host\n");
    assert!(!Path::new(&absolute).exists() && !Path::new(&escape).exists());
    assert_eq!(files_in(&place.path("work")), [outside]);
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_never_used() {
    let place = Place::empty();
    let mut layout = Layout::new(&place.path("work/layout")).unwrap();
    let layer = Layer::busybox().unwrap();
    let digests = layout.add("image", &[&layer], &json!({ "Cmd": ["true"] })).unwrap();
    let (blob, reference) = (layout.blob(&digests[0]), layout.reference("image"));
    let good = fs::read(&blob).unwrap();
    let before = stored(&place);
    let mut changed = good.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for bad in [&changed, &good[..middle].to_vec(), &Vec::new()] {
        fs::write(&blob, bad).unwrap();
        let ran = place.run(&["run", "--rm", "--network", "none", &reference]);
        assert_eq!((ran.status, ran.error.lines().count()), (Some(125), 1), "{ran:?}");
        assert!(ran.error.contains(&digests[0][..19]), "{ran:?}");
    }
    let layers = files_in(&place.path("data/layers"));
    assert!(layers.is_empty() && stored(&place) <= before + 2, "{:?}", files_in(&place.path("data")));
    fs::write(&blob, &good).unwrap();
    assert_eq!(place.run(&["run", "--rm", "--network", "none", &reference]).status, Some(0));
}

#[test]
fn a_pull_that_fills_the_disk_leaves_nothing_that_is_used() {
    let place = Place::empty();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(place.path("data"));
    assert!(mount.status().unwrap().success());
    let busybox = image("busybox");
    let ran = place.run(&["run", "--rm", &busybox, "true"]);
    assert_eq!((ran.status, ran.error.lines().count()), (Some(125), 1), "{ran:?}");
    assert!(ran.error.contains("No space left on device"), "{ran:?}");
    assert_eq!(place.said(&["images", "-q"]), "");
    let mut mount = Command::new("mount");
    mount.args(["-o", "remount,size=100m"]).arg(place.path("data"));
    assert!(mount.status().unwrap().success());
    assert_eq!(place.said(&["run", "--rm", "--network", "none", &busybox, "echo", "whole"]), "whole\n");
    assert!(Command::new("umount").arg(place.path("data")).status().unwrap().success());
}

/// A registry that gives up in the middle of a blob, `breaks` times.
struct BrokenRegistry {
    address: String,
    served: Arc<AtomicUsize>,
}

impl BrokenRegistry {
    fn serve(layout: PathBuf, manifest: String, breaks: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let served = Arc::new(AtomicUsize::new(0));
        let (count, left) = (served.clone(), Arc::new(AtomicUsize::new(breaks)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (layout, manifest, count, left) =
                    (layout.clone(), manifest.clone(), count.clone(), left.clone());
                // A connection that breaks is the point of it.
                std::thread::spawn(move || answer(stream.unwrap(), &layout, &manifest, &count, &left).ok());
            }
        });
        Self { address, served }
    }
}

/// Answers one request of the OCI distribution specification, and closes.
fn answer(
    mut stream: TcpStream,
    layout: &Path,
    manifest: &str,
    served: &AtomicUsize,
    breaks: &AtomicUsize,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut from = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap_or(0);
        }
        if line.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let digest =
        if path.contains("/manifests/") { manifest } else { path.rsplit(':').next().unwrap_or_default() };
    let Ok(bytes) = fs::read(layout.join("blobs/sha256").join(digest)) else {
        let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
        return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let part = bytes.get(from..).unwrap_or_default();
    let status = if from > 0 {
        format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len())
    } else {
        "200 OK".into()
    };
    let kind = "application/vnd.oci.image.manifest.v1+json";
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nDocker-Content-Digest: sha256:{digest}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        part.len()
    )?;
    let large = bytes.len() > 100_000;
    let breaks_now =
        large && breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    let sent = if breaks_now { &part[..part.len() / 2] } else { part };
    if request.starts_with("GET") {
        stream.write_all(sent)?;
        served.fetch_add(sent.len(), Ordering::SeqCst);
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // Until the other side has read it all.
    reader.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn a_pull_that_breaks_off_goes_on_where_it_was() {
    let place = Place::empty();
    let directory = place.path("work/layout");
    let mut layout = Layout::new(&directory).unwrap();
    let digests = layout.add("image", &[&Layer::busybox().unwrap()], &json!({ "Cmd": ["true"] })).unwrap();
    let size = usize::try_from(fs::metadata(layout.blob(&digests[0])).unwrap().len()).unwrap();
    let index: Value =
        serde_json::from_str(&fs::read_to_string(directory.join("index.json")).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();

    let registry = BrokenRegistry::serve(directory.clone(), manifest.clone(), 1);
    let name = format!("{}/some/image", registry.address);
    assert_eq!(place.run(&["run", "--rm", "--network", "none", &name]).status, Some(0));
    let served = registry.served.load(Ordering::SeqCst);
    assert!(served < size + size / 4, "{served} bytes were asked for to have {size}");

    // One that always breaks off is given up, and said so.
    let registry = BrokenRegistry::serve(directory, manifest, usize::MAX);
    let other = Place::empty();
    other.refuses(&["pull", "--quiet", &format!("{}/some/image", registry.address)], 1, "some/image");
    assert_eq!(files_in(&other.path("data/layers")), Vec::<PathBuf>::new());
}
