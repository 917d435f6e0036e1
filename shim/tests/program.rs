//! The program as containerd runs it, as far as it needs no virtual machine: byte for byte what it answers.
#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::TaskClient;
use containerd_shim_protos::api::{ConnectRequest, ShutdownRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, LogLevel};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::Client;
use containerd_shim_protos::ttrpc::context::with_duration;
use containerd_shim_protos::types::introspection::RuntimeInfo;

const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-shim-rvm-v2");

/// What does not happen by then does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the program in `bundle`, with this on standard input.
fn run(bundle: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(bundle).env_remove("TTRPC_ADDRESS");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // What reads no input may have ended.
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap()
}

/// What it answers; it says nothing else.
#[track_caller]
fn answer(bundle: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = run(bundle, arguments, input);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    output.stdout
}

#[test]
fn which_version_it_is() {
    let bundle = tempfile::tempdir().unwrap();
    let version = format!("containerd-shim-rvm-v2:\n  Version:  {}\n", env!("CARGO_PKG_VERSION"));
    for flag in ["-v", "--version"] {
        assert_eq!(String::from_utf8(answer(bundle.path(), &[flag], b"")).unwrap(), version);
    }
}

#[test]
fn what_it_can_do() {
    let bundle = tempfile::tempdir().unwrap();
    let bytes = answer(bundle.path(), &["-info"], b"");
    let info = RuntimeInfo::parse_from_bytes(&bytes).unwrap();
    assert_eq!(
        (info.name.as_str(), info.version.version.as_str()),
        ("io.containerd.rvm.v2", env!("CARGO_PKG_VERSION"))
    );
    let annotations: Vec<_> =
        info.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(annotations, [("containerd.io/runtime-allow-mounts", "mkdir/*,format/*,erofs")]);
    // Nothing beside it, in whichever order: what a message is made of is all there is of it.
    assert_eq!(info.write_to_bytes().unwrap(), bytes);
}

#[test]
fn what_makes_no_sense_is_said_on_standard_error_alone() {
    let bundle = tempfile::tempdir().unwrap();
    let output = run(bundle.path(), &["-frob"], b"");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert_eq!(output.stderr, b"containerd-shim-rvm-v2: there is no flag -frob\n");
}

/// Talks to the shim at `address`, looks at its environment, and has it end.
fn end(address: &str, expected: &[&str]) {
    let client = TaskClient::new(Client::connect(address).unwrap());
    // It has no container yet.
    let refused = client.connect(with_duration(PATIENCE), &ConnectRequest::default());
    assert!(refused.is_err(), "{refused:?}");
    let socket = address.strip_prefix("unix://").unwrap();
    let pid = daemon(socket);
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment: Vec<_> = environment.split(|byte| *byte == 0).collect();
    for variable in expected {
        assert!(environment.contains(&variable.as_bytes()), "{variable}");
    }
    client.shutdown(with_duration(PATIENCE), &ShutdownRequest::default()).unwrap();
    let begin = Instant::now();
    while fs::exists(socket).unwrap() || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| !l.is_empty())
    {
        assert!(begin.elapsed() < PATIENCE, "it does not end");
        std::thread::yield_now();
    }
}

/// The process that has a bundle as its working directory, where the socket's directory is.
fn daemon(socket: &str) -> i32 {
    let bundle = Path::new(socket).ancestors().nth(2).unwrap();
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    let mut pids = pids
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|directory| directory == bundle));
    pids.next().unwrap()
}

#[test]
fn a_start_of_containerd_2_3_is_answered_in_its_form_and_goes_where_it_says() {
    let bundle = tempfile::tempdir().unwrap();
    let sockets = bundle.path().join("s").display().to_string();
    let params = BootstrapParams {
        instance_id: "c1".to_owned(),
        namespace: "ns".to_owned(),
        log_level: LogLevel::LOG_LEVEL_WARN.into(),
        containerd_version: "2.3.0".to_owned(),
        containerd_ttrpc_address: "unix:///run/nobody.ttrpc".to_owned(),
        containerd_grpc_address: "/run/containerd/containerd.sock".to_owned(),
        socket_dir: Some(sockets.clone()),
        ..BootstrapParams::default()
    };
    let flags = ["-namespace", "ns", "-id", "c1", "-address", "/run/containerd/containerd.sock", "start"];
    let answer_of = || answer(bundle.path(), &flags, &params.write_to_bytes().unwrap());
    let bytes = answer_of();
    // printf /run/containerd/containerd.sock/ns/c1 | sha256sum
    let address =
        format!("unix://{sockets}/1d658a6012f0e65eb8a8d3c9da90be4fdf57916b236c8fed1b25fdd2d92fd8ba");
    let expected = [
        &[1 << 3, 3, 2 << 3 | 2, u8::try_from(address.len()).unwrap()][..],
        address.as_bytes(),
        &[3 << 3 | 2, 5],
        b"ttrpc",
    ]
    .concat();
    assert_eq!(bytes, expected);
    assert_eq!(answer_of(), expected, "whoever asks again comes to the same shim");
    assert_eq!(fs::read_to_string(bundle.path().join("address")).unwrap(), address);
    end(&address, &["TTRPC_ADDRESS=unix:///run/nobody.ttrpc", "RVM_SHIM_LOG_LEVEL=warning"]);
}
