//! Root file systems that are images, which the guest mounts: what snapshotters find in them afterwards, several in one
//! pod, and images that are none. A containerd of the test's own has the snapshotters, which need to be configured.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rvm_tests::daemon::{self, Error};
use rvm_tests::tasks::{self, field, mount, overlay};

use super::own::Containerd;
use super::place::{BUSYBOX, RUNTIME};
use crate::process::{PATIENCE, Ran, run};
use crate::traces::{of_pod, shims_and_vmms};

const BLOCKFILE: &str = "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\n\
                         scratch_file = \"{DIR}scratch\"\nfs_type = \"ext4\"\n";

/// The first containers of this module's pods.
const PODS: [&str; 6] = ["c0", "c1", "zeroes", "empty", "root", "panic"];

/// What there is on a machine with the lab's registry and a containerd of these snapshotters; nothing where it has none.
#[track_caller]
fn containerd(namespace: &'static str, config: &str, prepare: impl FnOnce(&Path)) -> Option<Containerd> {
    match daemon::registry() {
        Err(error @ Error::NotHere { .. }) => {
            rvm_tests::cannot_run(&error.to_string());
            return None;
        }
        other => other.unwrap(),
    }
    Some(Containerd::with(namespace, config, prepare))
}

/// With the blockfile snapshotter, whose images have `size` bytes, and the image unpacked by it.
#[track_caller]
fn with_blockfile(namespace: &'static str) -> Option<Containerd> {
    let containerd = containerd(namespace, BLOCKFILE, |directory| {
        let scratch = directory.join("scratch");
        File::create(&scratch).unwrap().set_len(24 << 20).unwrap();
        succeed("mkfs.ext4", &["-q", "-F", scratch.to_str().unwrap()]);
    })?;
    containerd.pull("blockfile");
    Some(containerd)
}

#[track_caller]
fn succeed(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("DM_DISABLE_UDEV", "1").stdin(Stdio::null());
    let ran = run(command);
    assert_eq!(ran.status, Some(0), "{program} {arguments:?}: {ran:?}");
    ran.out
}

impl Containerd {
    #[track_caller]
    fn pull(&self, snapshotter: &str) {
        self.said(&["images", "pull", "--local", "--plain-http", "--snapshotter", snapshotter, BUSYBOX]);
    }

    /// Runs a shell's `script` in a container that is left, with these flags.
    fn try_to_run(&self, snapshotter: &str, flags: &[&str], id: &str, script: &str) -> Ran {
        let run = ["run", "--runtime", RUNTIME, "--snapshotter", snapshotter];
        self.try_to(&[&run, flags, &[BUSYBOX, id, "sh", "-c", script]].concat())
    }

    #[track_caller]
    fn run(&self, snapshotter: &str, id: &str, script: &str) -> String {
        let ran = self.try_to_run(snapshotter, &[], id, script);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        ran.out
    }

    /// What there is of its pods.
    fn traces(&self) -> Vec<String> {
        let shims = shims_and_vmms(self.namespace(), |_| true);
        let of_pods = PODS.iter().flat_map(|id| of_pod(&self.path("socket"), self.namespace(), id));
        shims.into_iter().chain(of_pods).collect()
    }

    /// Waits until no task's bundle, shim or VMM, and nothing of a pod, is left.
    #[track_caller]
    fn leaves_nothing(&self) {
        let begin = std::time::Instant::now();
        while self.bundles() != 0 || !self.traces().is_empty() {
            let traces = self.traces();
            assert!(begin.elapsed() < PATIENCE, "{} bundles are left, and {traces:#?}", self.bundles());
            crate::process::pause();
        }
    }

    /// The file or device of an active snapshot.
    fn image_of(&self, snapshotter: &str, key: &str) -> PathBuf {
        let mounts = self.said(&["snapshots", "--snapshotter", snapshotter, "mounts", "/target", key]);
        mounts.split_whitespace().nth(3).unwrap().into()
    }

    /// A container that is made but has no task yet; gives its image.
    fn prepared(&self, id: &str) -> PathBuf {
        let create = ["containers", "create", "--runtime", RUNTIME, "--snapshotter", "blockfile"];
        self.said(&[&create[..], &[BUSYBOX, id, "true"]].concat());
        self.image_of("blockfile", id)
    }
}

/// What the host has of this containerd's images: loop devices of its files, mounts of the devices that are the tests', but
/// for those that another test's containerd has for a moment.
fn host_state(containerd: &Containerd) -> String {
    let own = containerd.path("");
    let loops = succeed("losetup", &["--all"]);
    let loops = loops.lines().filter(|line| line.contains(&own));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains("/dev/mapper/rvm-images"));
    let mounts = mounts.filter(|line| line.contains(&own) || !line.contains("/tmpmounts/"));
    loops.chain(mounts).collect::<Vec<_>>().join("\n")
}

/// Writes in a container, runs it again, and looks at what the snapshotter makes of it then.
#[track_caller]
fn writes_are_in_the_snapshot(containerd: &Containerd, snapshotter: &str) {
    let snapshots = |arguments: &[&str]| {
        containerd.said(&[&["snapshots", "--snapshotter", snapshotter], arguments].concat())
    };
    let before = host_state(containerd);
    let script = "cat /file; grep ' / ' /proc/mounts; echo kept > /file; rm /bin/vi; mkdir /made; \
                  dd if=/dev/zero bs=64k count=32 2>/dev/null | tr '\\0' x > /made/big";
    let shown = containerd.run(snapshotter, "c1", script);
    assert!(shown.starts_with("/dev/vd") && shown.contains(" ext4 rw"), "{shown}");
    // A task again, of the same container.
    let again = containerd.said(&["tasks", "start", "c1"]);
    assert!(again.starts_with("kept\n/dev/vd"), "{again}");

    let layer = containerd.path("layer");
    let mut diff = containerd.ctr(&["snapshots", "--snapshotter", snapshotter, "diff", "c1"]);
    assert!(diff.stdout(File::create(&layer).unwrap()).status().unwrap().success());
    let names = succeed("tar", &["--list", "--file", &layer]);
    for name in ["bin/.wh.vi", "file", "made/", "made/big"] {
        assert!(names.lines().any(|line| line == name), "no {name} among\n{names}");
    }
    snapshots(&["commit", "committed", "c1"]);
    snapshots(&["prepare", "next", "committed"]);
    let next = containerd.image_of(snapshotter, "next");
    let next = next.to_str().unwrap();
    assert_eq!(succeed("debugfs", &["-R", "cat /file", next]), "kept\n");
    assert!(succeed("debugfs", &["-R", "stat /made/big", next]).contains("Size: 2097152"));
    // It was unmounted as it should be: there is nothing to recover.
    succeed("fsck.ext4", &["-f", "-n", next]);
    snapshots(&["rm", "next"]);
    assert_eq!(host_state(containerd), before);
}

#[test]
fn what_is_written_is_in_the_file_of_the_snapshot() {
    let Some(containerd) = with_blockfile("blockfile") else { return };
    writes_are_in_the_snapshot(&containerd, "blockfile");
    containerd.leaves_nothing();
}

#[test]
fn containers_of_a_pod_have_images_of_their_own_as_many_as_there_are_disks() {
    let Some(containerd) = with_blockfile("podimages") else { return };
    let pod = ["--annotation", "io.kubernetes.cri.sandbox-id=c0"];
    let detached = [&["-d"], &pod[..]].concat();
    let start = |id: &str| {
        containerd.try_to_run("blockfile", &detached, id, &format!("echo {id} > /file; sleep 1000"))
    };
    let file = |id: &str| {
        let read =
            ["tasks", "exec", "--exec-id", "e1", id, "sh", "-c", "until cat /file; do sleep 0.1; done"];
        containerd.said(&read)
    };
    for id in ["c0", "c1", "c2", "c3"] {
        let ran = start(id);
        assert_eq!(ran.status, Some(0), "{ran:?}");
    }
    for id in ["c0", "c1", "c2", "c3"] {
        assert_eq!(file(id), format!("{id}\n"));
    }
    let refused = start("c4");
    assert!(refused.error.contains("no disk left"), "{refused:?}");
    // One that goes makes room, and what it wrote is in its snapshot while the machine goes on.
    containerd.said(&["tasks", "rm", "-f", "c2"]);
    let image = containerd.image_of("blockfile", "c2");
    succeed("fsck.ext4", &["-f", "-n", image.to_str().unwrap()]);
    assert_eq!(succeed("debugfs", &["-R", "cat /file", image.to_str().unwrap()]), "c2\n");
    assert_eq!(start("c5").status, Some(0));
    assert_eq!(file("c5"), "c5\n");
    for id in ["c5", "c3", "c1", "c0"] {
        containerd.said(&["tasks", "rm", "-f", id]);
    }
    containerd.leaves_nothing();
}

#[test]
fn images_that_are_none_are_named_with_what_the_guest_says() {
    let Some(containerd) = with_blockfile("noimages") else { return };
    type Damage = fn(&Path);
    let damage: [(&str, Damage, &str); 4] = [
        ("zeroes", |image| zero(image, 1024, 4096), "find ext4 filesystem"),
        (
            "empty",
            |image| File::options().write(true).open(image).unwrap().set_len(0).unwrap(),
            "length of 0 bytes",
        ),
        (
            "root",
            |image| drop(succeed("debugfs", &["-w", "-R", "clri <2>", image.to_str().unwrap()])),
            "root inode",
        ),
        (
            // As images can ask for it, the guest's kernel panics.
            "panic",
            |image| {
                succeed("tune2fs", &["-e", "panic", image.to_str().unwrap()]);
                succeed("debugfs", &["-w", "-R", "clri <2>", image.to_str().unwrap()]);
            },
            "panicked",
        ),
    ];
    for (id, damage, words) in damage {
        let image = containerd.prepared(id);
        damage(&image);
        let ran = containerd.try_to(&["tasks", "start", id]);
        assert_ne!(ran.status, Some(0), "{id}");
        assert!(ran.error.contains(words), "{id}: {ran:?}");
        assert!(words == "panicked" || ran.error.contains(image.to_str().unwrap()), "{id}: {ran:?}");
        assert!(id == "empty" || ran.error.contains("last lines of the guest's console"), "{id}: {ran:?}");
        containerd.leaves_nothing();
    }
}

fn zero(image: &Path, offset: u64, length: usize) {
    File::options().write(true).open(image).unwrap().write_all_at(&vec![0; length], offset).unwrap();
}

/// A pool of thin devices on loop devices.
struct Pool {
    name: String,
    loops: [String; 2],
}

impl Pool {
    fn new(directory: &Path) -> Self {
        succeed("modprobe", &["dm_thin_pool"]);
        let attach = |name: &str, length: u64| {
            let path = directory.join(name);
            File::create(&path).unwrap().set_len(length).unwrap();
            succeed("losetup", &["--find", "--show", path.to_str().unwrap()]).trim().to_owned()
        };
        const DATA_BYTES: u64 = 1 << 30;
        let [meta, data] = [attach("meta", 32 << 20), attach("data", DATA_BYTES)];
        let name = "rvm-images".to_owned();
        let table = format!("0 {} thin-pool {meta} {data} 128 0", DATA_BYTES / 512);
        succeed("dmsetup", &["create", &name, "--table", &table]);
        Self { name, loops: [meta, data] }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let list = succeed("dmsetup", &["ls"]);
        let of_snapshots = list.lines().filter_map(|line| line.split_whitespace().next());
        for device in of_snapshots.filter(|device| device.starts_with(&format!("{}-", self.name))) {
            succeed("dmsetup", &["remove", device]);
        }
        succeed("dmsetup", &["remove", &self.name]);
        for device in &self.loops {
            succeed("losetup", &["--detach", device]);
        }
    }
}

#[test]
fn what_is_written_is_on_the_device_of_the_snapshot() {
    let config = "[plugins.\"io.containerd.snapshotter.v1.devmapper\"]\npool_name = \"rvm-images\"\n\
                  root_path = \"{DIR}devmapper\"\nbase_image_size = \"64MB\"\n";
    let mut pool = None;
    let Some(containerd) = containerd("devmapper", config, |directory| pool = Some(Pool::new(directory)))
    else {
        return;
    };
    containerd.pull("devmapper");
    writes_are_in_the_snapshot(&containerd, "devmapper");
    containerd.leaves_nothing();
    drop(containerd);
    drop(pool);
}

impl Containerd {
    /// Calls the tasks service; gives the status and its message.
    fn call(&self, method: &str, message: &[u8]) -> String {
        tasks::call(&self.path("socket"), self.namespace(), method, message).unwrap()
    }

    /// Makes a task of the container, with these mounts as its root and its output in the file `out`.
    fn task_on(&self, id: &str, mounts: &[Vec<u8>]) -> String {
        let mounts: Vec<u8> = mounts.iter().flat_map(|mount| field(3, mount)).collect();
        let out = field(5, format!("file://{}", self.path("out")).as_bytes());
        self.call("Create", &[field(1, id.as_bytes()), mounts, out].concat())
    }
}

/// What containerd 2.2 hands over for the erofs snapshotter with a `default_size`.
#[test]
fn erofs_layers_and_an_image_for_what_is_written_are_an_overlay_in_the_guest() {
    let Some(containerd) = containerd("erofs", "", |_| {}) else { return };
    if !containerd
        .said(&["plugins", "ls"])
        .lines()
        .any(|line| line.contains("erofs") && line.trim_end().ends_with("ok"))
    {
        return rvm_tests::cannot_run("containerd has no erofs snapshotter");
    }
    containerd.pull("erofs");
    let base = containerd.path("root/io.containerd.snapshotter.v1.erofs/snapshots/1/layer.erofs");
    let (tree, top, written) =
        (containerd.path("tree"), containerd.path("top.erofs"), containerd.path("rwlayer.img"));
    fs::create_dir(&tree).unwrap();
    fs::write(format!("{tree}/file"), "of the layer\n").unwrap();
    succeed("mkfs.erofs", &["--quiet", &top, &tree]);
    File::create(&written).unwrap().set_len(16 << 20).unwrap();
    succeed("mkfs.ext4", &["-q", "-F", &written]);

    let script = "cat /file; echo changed > /file; grep ' / ' /proc/mounts";
    let create = ["containers", "create", "--runtime", RUNTIME, "--snapshotter", "erofs", BUSYBOX, "c1"];
    containerd.said(&[&create[..], &["sh", "-c", script]].concat());
    let layers = [mount("erofs", &top, &["ro", "loop"]), mount("erofs", &base, &["ro", "loop"])];
    let writable = mount("ext4", &written, &["rw", "loop"]);
    let [top, base] = layers;

    let on_the_host = overlay(2, "/var/tmp", "/var/lib");
    let refused = containerd.task_on("c1", &[writable.clone(), top.clone(), base.clone(), on_the_host]);
    assert!(refused.contains("default_size"), "{refused}");
    containerd.leaves_nothing();

    // A device that the host has mounted is no image.
    let device = succeed("losetup", &["--find", "--show", &written]).trim().to_owned();
    let place = containerd.path("mounted");
    fs::create_dir(&place).unwrap();
    succeed("mount", &[&device, &place]);
    let refused = containerd.task_on("c1", &[mount("ext4", &device, &["rw"])]);
    assert!(refused.contains(&format!("cannot open the image '{device}'")), "{refused}");
    succeed("umount", &[&place]);
    succeed("losetup", &["--detach", &device]);
    containerd.leaves_nothing();

    let before = host_state(&containerd);
    let images = overlay(2, "{{ mount 0 }}/upper", "{{ mount 0 }}/work");
    let made = containerd.task_on("c1", &[writable, top, base, images]);
    assert!(made.contains("grpc-status: 0"), "{made}");
    let started = containerd.call("Start", &field(1, b"c1"));
    assert!(started.contains("grpc-status: 0"), "{started}");
    let begin = std::time::Instant::now();
    while !containerd.said(&["tasks", "ls"]).contains("STOPPED") {
        assert!(begin.elapsed() < PATIENCE, "it does not end");
    }
    containerd.said(&["tasks", "rm", "c1"]);
    let out = fs::read_to_string(containerd.path("out")).unwrap();
    assert!(out.starts_with("of the layer\nnone / overlay rw"), "{out}");
    assert_eq!(succeed("debugfs", &["-R", "cat /upper/file", &written]), "changed\n");
    succeed("fsck.ext4", &["-f", "-n", &written]);
    containerd.leaves_nothing();
    assert_eq!(host_state(&containerd), before);
}

#[test]
fn an_image_whose_machine_was_killed_is_used_again() {
    let Some(containerd) = with_blockfile("killed") else { return };
    let script = "test -e /kept || echo kept > /kept; sync; echo done > /done; sleep 1000";
    let ran = containerd.try_to_run("blockfile", &["-d"], "c1", script);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    let wait_for = |file: &str| {
        let read = format!("until cat {file}; do sleep 0.1; done");
        containerd.said(&["tasks", "exec", "--exec-id", "e1", "c1", "sh", "-c", &read])
    };
    wait_for("/done");
    // Its programs were read from the image, and the file was written to it.
    let metrics = containerd.said(&["tasks", "metrics", "--format", "json", "c1"]);
    let metrics: serde_json::Value = serde_json::from_str(&metrics).unwrap();
    let devices = metrics["io"]["usage"].as_array().cloned().unwrap_or_default();
    let bytes = |name: &str| devices.iter().filter_map(|device| device[name].as_u64()).sum::<u64>();
    assert!(bytes("rbytes") > 0 && bytes("wbytes") > 0, "{metrics}");
    let tasks = containerd.said(&["tasks", "ls"]);
    let vmm = tasks.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    kill(Pid::from_raw(vmm), Signal::SIGKILL).unwrap();
    let begin = std::time::Instant::now();
    while !containerd.said(&["tasks", "ls"]).contains("STOPPED") {
        assert!(begin.elapsed() < PATIENCE, "its end is not told");
    }
    // Tells of its status by failing.
    containerd.try_to(&["tasks", "rm", "c1"]);
    containerd.leaves_nothing();
    containerd.said(&["tasks", "start", "--detach", "c1"]);
    assert_eq!(wait_for("/kept"), "kept\n");
    containerd.said(&["tasks", "rm", "-f", "c1"]);
    containerd.leaves_nothing();
}
