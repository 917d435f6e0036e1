use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;

use super::*;
use crate::log::Level;

const SUBJECT: Subject<'_> = Subject { namespace: "default", id: "c1" };

struct Fixture {
    directory: tempfile::TempDir,
    guest: Stdio,
    process: Stdio,
}

fn streams() -> Arc<Streams> {
    Arc::new(Streams::new("/run/s".into()))
}

fn no_log() -> Log {
    Log::open("/nonexistent".as_ref(), "p1", Level::Debug)
}

/// FIFOs as a client of containerd makes them, and both ends of a process's streams.
fn fixture() -> (Fixture, Paths) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        let path = directory.path().join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let paths = Paths { stdin: path("in"), stdout: path("out"), stderr: String::new(), terminal: false };
    let (stdin, their_stdin) = UnixStream::pair().unwrap();
    let (stdout, their_stdout) = UnixStream::pair().unwrap();
    let guest = Stdio { stdin: Some(stdin), stdout: Some(stdout), stderr: None };
    let process = Stdio { stdin: Some(their_stdin), stdout: Some(their_stdout), stderr: None };
    (Fixture { directory, guest, process }, paths)
}

#[tokio::test]
async fn output_waits_for_its_reader_and_ends_with_the_process() {
    let (fixture, paths) = fixture();
    let mut carried = paths.open(&streams(), SUBJECT).await.unwrap().carry(fixture.guest, &no_log());
    let mut process = fixture.process.stdout.unwrap();
    process.write_all(b"before anybody reads").await.unwrap();
    let mut reader = pipe::OpenOptions::new().open_receiver(&paths.stdout).unwrap();
    let mut begin = [0; 20];
    reader.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"before anybody reads");
    drop(process);
    carried.drained().await;
    assert_eq!(reader.read(&mut begin).await.unwrap(), 0);
}

#[tokio::test]
async fn input_ends_when_its_writer_is_gone_and_no_other_is_expected() {
    let (fixture, paths) = fixture();
    let mut carried = paths.open(&streams(), SUBJECT).await.unwrap().carry(fixture.guest, &no_log());
    let mut process = fixture.process.stdin.unwrap();
    for text in [b"one", b"two"] {
        let mut writer = pipe::OpenOptions::new().open_sender(&paths.stdin).unwrap();
        writer.write_all(text).await.unwrap();
        let mut received = [0; 3];
        // The first writer is gone when the second comes.
        process.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, text);
    }
    carried.close_input();
    let mut rest = Vec::new();
    process.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert!(fixture.directory.path().exists());
}

#[tokio::test]
async fn a_file_is_appended_to_and_its_directory_made() {
    let (fixture, _) = fixture();
    let log = fixture.directory.path().join("some/where");
    let stdout = format!("file://{}", log.display());
    let paths = Paths { stdout, ..Paths::default() };
    let mut carried = paths.open(&streams(), SUBJECT).await.unwrap().carry(fixture.guest, &no_log());
    fs::write(&log, "there before\n").unwrap();
    let mut process = fixture.process.stdout.unwrap();
    process.write_all(b"and after\n").await.unwrap();
    drop(process);
    carried.drained().await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "there before\nand after\n");
}

#[tokio::test]
async fn a_file_that_is_full_is_closed_and_told_of() {
    let (fixture, _) = fixture();
    nix::unistd::mkfifo(&fixture.directory.path().join("log"), Mode::S_IRWXU).unwrap();
    let log = Log::open(fixture.directory.path(), "p1", Level::Debug);
    let mut said = pipe::OpenOptions::new().open_receiver(fixture.directory.path().join("log")).unwrap();
    let paths = Paths { stdout: "file:///dev/full".to_owned(), ..Paths::default() };
    let mut carried = paths.open(&streams(), SUBJECT).await.unwrap().carry(fixture.guest, &log);
    let mut process = fixture.process.stdout.unwrap();
    process.write_all(b"too much").await.unwrap();
    carried.drained().await;
    assert!(process.write_all(b"more").await.is_err());
    let mut line = [0; 1000];
    let length = said.read(&mut line).await.unwrap();
    let line = String::from_utf8_lossy(&line[..length]);
    assert!(line.contains("'file:///dev/full'") && line.contains("No space left on device"), "{line}");
}

#[tokio::test]
async fn a_file_whose_writing_does_not_end_stops_no_other_output() {
    // A terminal that nobody reads from is one.
    let pty = nix::pty::openpty(None, None).unwrap();
    let (hung, _) = fixture();
    let name = nix::unistd::ttyname(&pty.slave).unwrap();
    let paths = Paths { stdout: format!("file://{}", name.display()), ..Paths::default() };
    let mut carried = paths.open(&streams(), SUBJECT).await.unwrap().carry(hung.guest, &no_log());
    let mut process = hung.process.stdout.unwrap();
    let written = async { while process.write_all(&[b'x'; CHUNK]).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_millis(200), written).await.is_err());

    let (other, paths) = fixture();
    let mut reader = pipe::OpenOptions::new().open_receiver(&paths.stdout).unwrap();
    let _carried = paths.open(&streams(), SUBJECT).await.unwrap().carry(other.guest, &no_log());
    other.process.stdout.unwrap().write_all(b"goes on").await.unwrap();
    let mut came = [0; 7];
    reader.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"goes on");

    // Its thread ends with the terminal.
    drop(pty);
    carried.drained().await;
}

#[tokio::test]
async fn other_addresses_are_refused_by_name() {
    let program = "binary:///usr/bin/logger?x=y".to_owned();
    let other = Paths { stdout: "attachablebinary:///a".to_owned(), ..Paths::default() };
    let input = Paths { stdin: program.clone(), ..Paths::default() };
    let one = Paths { stdout: program.clone(), stderr: "/run/fifo".to_owned(), ..Paths::default() };
    let error_alone = Paths { stderr: program, ..Paths::default() };
    for (paths, words) in [
        (other, "'attachablebinary://'"),
        (input, "'binary://'"),
        (one, "for one output"),
        (error_alone, "for one output"),
    ] {
        let error = paths.open(&streams(), SUBJECT).await.err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_logging_program_is_given_both_and_waited_for() {
    let (fixture, _) = fixture();
    let directory = fixture.directory.path();
    let script = "exec%205>%26-;sleep%200.1;cat%20<%263%20>$DIR/1;cat%20<%264%20>$DIR/2";
    let address = format!("binary:///bin/sh?-c={script}&env.DIR={}", directory.display());
    let paths = Paths { stdout: address.clone(), stderr: address, ..Paths::default() };
    let (stderr, their_stderr) = UnixStream::pair().unwrap();
    let guest = Stdio { stderr: Some(stderr), ..fixture.guest };
    let mut carried = paths.open(&streams(), SUBJECT).await.unwrap().carry(guest, &no_log());
    fixture.process.stdout.unwrap().write_all(b"to out").await.unwrap();
    { their_stderr }.write_all(b"to error").await.unwrap();
    carried.drained().await;
    let file = |name| fs::read_to_string(directory.join(name)).unwrap();
    assert_eq!((file("1").as_str(), file("2").as_str()), ("to out", "to error"));
}

#[tokio::test]
async fn a_logging_program_of_a_terminal_finds_standard_error_at_its_end() {
    let (fixture, _) = fixture();
    let directory = fixture.directory.path();
    let script = "exec%205>%26-;cat%20<%264%20>$DIR/2;cat%20<%263%20>$DIR/1";
    let address = format!("binary:///bin/sh?-c={script}&env.DIR={}", directory.display());
    let paths = Paths { stdout: address.clone(), stderr: address, terminal: true, ..Paths::default() };
    assert!(!paths.wanted(None).stderr);
    let mut carried = paths.open(&streams(), SUBJECT).await.unwrap().carry(fixture.guest, &no_log());
    let mut process = fixture.process.stdout.unwrap();
    process.write_all(b"shown").await.unwrap();
    // The program comes to it while the process runs.
    while !directory.join("1").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    drop(process);
    carried.drained().await;
    assert_eq!(fs::read_to_string(directory.join("1")).unwrap(), "shown");
}
