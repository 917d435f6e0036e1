//! containerd's tasks service, asked directly: `ctr` has no way to name the mounts of a task's root.

use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Calls the tasks service of the containerd at `socket`; gives its headers, with the status (`grpc-status`) and its message.
pub fn call(socket: &str, namespace: &str, method: &str, message: &[u8]) -> io::Result<String> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    let frame = [&[0], &length.to_be_bytes()[..], message].concat();
    let mut curl = Command::new("curl")
        .args(["--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", socket])
        .args(["--header", "content-type: application/grpc", "--header", "te: trailers"])
        .args(["--header", &format!("containerd-namespace: {namespace}"), "--data-binary", "@-"])
        .args(["--dump-header", "-", "--output", "/dev/null"])
        .arg(format!("http://containerd/containerd.services.tasks.v1.Tasks/{method}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = curl.stdin.take() {
        input.write_all(&frame)?;
    }
    let output = curl.wait_with_output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr))),
    }
}

/// A mount as clients write it (api/types/mount.proto): type, source, options.
pub fn mount(kind: &str, source: &str, options: &[&str]) -> Vec<u8> {
    let options = options.iter().flat_map(|option| field(4, option.as_bytes()));
    [field(1, kind.as_bytes()), field(2, source.as_bytes()), options.collect()].concat()
}

/// The mount that containerd 2.2 hands over behind those of an ext4 image for what is written, and of `layers` images of
/// erofs: an overlay of them, whose `upper` and `work` are in the first.
pub fn overlay(layers: usize, upper: &str, work: &str) -> Vec<u8> {
    let (upper, work) = (format!("upperdir={upper}"), format!("workdir={work}"));
    let mkdir = "X-containerd.mkdir.path={{ mount 0 }}/upper:0755";
    let lower = format!("lowerdir={{{{ overlay 1 {layers} }}}}");
    mount("format/mkdir/overlay", "overlay", &[mkdir, &work, &upper, &lower, "index=off"])
}

/// A field of a protobuf message, whose value has a length.
pub fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = value.len();
    let low = |length: usize| u8::try_from(length & 0x7f).unwrap_or_default();
    while length > 0x7f {
        bytes.push(low(length) | 0x80);
        length >>= 7;
    }
    bytes.push(low(length));
    bytes.extend(value);
    bytes
}
