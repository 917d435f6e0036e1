//! Directories of the host in the guest (virtio-fs). docs/shares.md is what they promise.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::run::{Ran, Running, boot, run};

/// `rvm boot` with `directory` shared, which the guest mounts on /mnt to run `script` in, and with `others`.
fn sharing(directory: &Path, options: &str, others: &[&str], script: &str) -> Command {
    // The kernel's command line has room for few words; the script is in the share.
    fs::write(directory.join("script"), format!("cd /mnt\n{script}")).unwrap();
    let share = format!("{},tag=data{options}", directory.to_str().unwrap());
    let mounted = "mkdir /mnt && mount -t virtiofs data /mnt && sh /mnt/script";
    boot(&[&["--share", &share], others, &["--", "sh", "-c", mounted]].concat())
}

/// What the script in the guest says, whose end is to be 0.
#[track_caller]
fn said(directory: &Path, options: &str, script: &str) -> String {
    let ran: Ran = run(sharing(directory, options, &[], script));
    assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "{ran:?}");
    ran.said().to_owned()
}

#[test]
fn what_one_side_writes_the_other_reads() {
    let directory = TempDir::new().unwrap();
    let host = |name: &str| directory.path().join(name);
    fs::write(host("from-host"), "the host's words\n").unwrap();
    let script = "cat from-host
        mkdir -p a/b && echo one > a/b/c && echo two >> a/b/c && chmod 640 a/b/c && chown 12:34 a/b/c
        ln -s b/c a/l && ln a/b/c a/hard && mv a moved
        dd if=/dev/urandom of=big bs=64k count=100 2>/dev/null && md5sum < big > sum
        touch -d '2001-02-03 04:05:06' old
        ls -1 moved";
    assert_eq!(said(directory.path(), "", script), "the host's words\nb\nhard\nl\n");
    assert_eq!(fs::read_to_string(host("moved/b/c")).unwrap(), "one\ntwo\n");
    let made = fs::metadata(host("moved/b/c")).unwrap();
    assert_eq!(
        (made.permissions().mode() & 0o7777, made.uid(), made.gid(), made.nlink()),
        (0o640, 12, 34, 2)
    );
    assert_eq!(fs::read_link(host("moved/l")).unwrap().to_str(), Some("b/c"));
    let sum = Command::new("md5sum").stdin(fs::File::open(host("big")).unwrap()).output().unwrap();
    assert_eq!(fs::read(host("sum")).unwrap(), sum.stdout);
    assert_eq!(fs::metadata(host("big")).unwrap().len(), 6_553_600);
    assert_eq!(fs::metadata(host("old")).unwrap().mtime(), 981_173_106);
}

#[test]
fn the_guest_sees_soon_what_the_host_changes() {
    let directory = TempDir::new().unwrap();
    let host = |name: &str| directory.path().join(name);
    // As Kubernetes changes a configuration: a link to a directory is replaced.
    fs::create_dir(host("first")).unwrap();
    fs::write(host("first/value"), "1").unwrap();
    symlink("first", host("current")).unwrap();
    fs::write(host("plain"), "1").unwrap();
    let script = "cat current/value plain; echo; echo waiting
        until test $(cat current/value) = 2 && test $(cat plain) = 22 && test -e new; do :; done
        test -e gone || echo seen";
    fs::write(host("gone"), "").unwrap();
    let mut running = Running::ready(sharing(directory.path(), "", &[], script));
    running.out.wait_for("11");
    running.out.wait_for("waiting");
    fs::create_dir(host("second")).unwrap();
    fs::write(host("second/value"), "2").unwrap();
    symlink("second", host("next")).unwrap();
    fs::rename(host("next"), host("current")).unwrap();
    fs::write(host("plain"), "22").unwrap();
    fs::remove_file(host("gone")).unwrap();
    fs::write(host("new"), "").unwrap();
    running.out.wait_for("seen");
    assert_eq!(running.end().status, Some(0));
}

#[test]
fn files_behave_as_programs_expect() {
    let directory = TempDir::new().unwrap();
    let script = "echo kept > unlinked && exec 3< unlinked && rm unlinked && cat <&3
        cp /bin/busybox . && ./busybox echo a program runs from it
        echo a > x && echo b > y && mv x y && cat y && ! test -e x
        dd if=/dev/zero of=sparse bs=1 count=1 seek=1M 2>/dev/null && test $(stat -c %b sparse) -lt 64 && echo sparse
        mkdir full && touch full/f && ! rmdir full 2>/dev/null && echo not empty
        mkfifo pipe && (echo through a pipe > pipe & cat pipe)
        for i in $(seq 500); do echo $i > full/$i; done; ls full | wc -l; cat full/* | wc -l; rm -r full
        truncate -s 3 y && stat -c %s y && df -P /mnt | tail -1 | cut -d' ' -f1";
    assert_eq!(
        said(directory.path(), "", script),
        "kept\na program runs from it\na\nsparse\nnot empty\nthrough a pipe\n501\n500\n3\ndata\n"
    );
}

#[test]
fn an_overlay_can_be_made_of_it() {
    let directory = TempDir::new().unwrap();
    let script = "mkdir lower upper work /o && echo lower > lower/kept && touch lower/removed
        mount -t overlay o -o lowerdir=lower,upperdir=upper,workdir=work /o
        echo more >> /o/kept && rm /o/removed && mkdir /o/new && ls -1 /o && cat /o/kept lower/kept";
    assert_eq!(said(directory.path(), "", script), "kept\nnew\nlower\nmore\nlower\n");
    let whiteout = fs::metadata(directory.path().join("upper/removed")).unwrap();
    assert_eq!((whiteout.mode() & nix::libc::S_IFMT, whiteout.rdev()), (nix::libc::S_IFCHR, 0));
}

#[test]
fn a_read_only_share_refuses_writes_whatever_the_guest_mounts_it_as() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("f"), "kept").unwrap();
    let script =
        "for attempt in 'echo x > f' 'touch new' 'rm f' 'mv f g' 'chmod 777 f' 'ln -s x l' 'mkdir d'; do
            sh -c \"$attempt\" 2>&1 | grep -q 'Read-only file system' || echo \"$attempt\"
        done
        cat f && echo";
    assert_eq!(said(directory.path(), ",ro", script), "kept\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn links_lead_through_the_guests_own_tree() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let directory = TempDir::new().unwrap();
    symlink(outside.path().join("secret"), directory.path().join("absolute")).unwrap();
    symlink("../../../../../etc/hostname", directory.path().join("upwards")).unwrap();
    let script = "cat absolute 2>/dev/null || echo not there
        echo guest > /etc/hostname 2>/dev/null || { mkdir -p /etc && echo guest > /etc/hostname; }
        cat upwards; ls -a .. | grep -c secret; (echo x > absolute) 2>/dev/null || echo not written
        mknod disk b 8 0 2>/dev/null || echo no device";
    let expected = "not there\nguest\n0\nnot written\nno device\n";
    assert_eq!(said(directory.path(), "", script), expected);
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn a_busy_share_stops_with_its_vm_and_every_share_has_a_thread() {
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let second = format!("{},tag=more,cache=never", directories[1].path().to_str().unwrap());
    let script = "mkdir /more && mount -t virtiofs more /more && echo busy
        while :; do dd if=/dev/zero of=/more/f bs=1M count=8 conv=fsync 2>/dev/null; cat /more/f > copy; done";
    let command = sharing(directories[0].path(), "", &["--share", &second], script);
    let mut running = Running::ready(command);
    running.out.wait_for("busy");
    let threads = fs::read_dir(running.proc("task")).unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).unwrap());
    assert_eq!(names.filter(|name| name == "rvm-fs\n").count(), 2);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().status, Some(143));
}
