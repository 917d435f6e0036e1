//! Connections from the host to a port in a guest, by the VMM's Unix socket (`CONNECT port`, as `rvm boot --vsock`
//! has it).

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest answer to CONNECT: "OK 4294967295\n".
const MAX_ANSWER: usize = 14;

/// Why a port of the guest cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The VMM is not there, or the guest refused.
    #[error("cannot connect to port {port} of the guest by '{}'", .socket.display())]
    Io {
        /// The VMM's socket.
        socket: PathBuf,
        /// The port.
        port: u32,
        /// Why not; an end of the stream is a refusal.
        #[source]
        source: io::Error,
    },
    /// Something else than the VMM is behind the socket.
    #[error("'{}' answers as no VMM does", .socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
    },
}

/// Connects to `port` of the guest whose VMM listens at `socket`. What is behind the port is the guest's.
pub async fn connect(socket: &Path, port: u32) -> Result<UnixStream, ConnectError> {
    let failed = |source| ConnectError::Io { socket: socket.to_owned(), port, source };
    let mut stream = UnixStream::connect(socket).await.map_err(failed)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    // Byte by byte: what follows the line belongs to the caller.
    while !answer.ends_with(b"\n") && answer.len() < MAX_ANSWER {
        answer.push(stream.read_u8().await.map_err(failed)?);
    }
    match answer.starts_with(b"OK ") && answer.ends_with(b"\n") {
        true => Ok(stream),
        false => Err(ConnectError::Answer { socket: socket.to_owned() }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing call is a failing test")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// What [`connect`] says to a VMM that answers so, and the bytes behind its answer.
    async fn answered(answer: &'static [u8]) -> Result<Vec<u8>, ConnectError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        let vmm = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 13];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"CONNECT 1024\n");
            stream.write_all(answer).await.unwrap();
        };
        let (stream, ()) = tokio::join!(connect(&path, 1024), vmm);
        let mut rest = Vec::new();
        stream?.read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    }

    #[tokio::test]
    async fn what_follows_the_answer_is_the_guests() {
        assert_eq!(answered(b"OK 1073741824\nhello").await.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn a_refusal_and_a_stranger_are_told_apart() {
        assert!(matches!(answered(b"").await, Err(ConnectError::Io { .. })));
        assert!(matches!(answered(b"HTTP/1.1 400 Bad Request\r\n").await, Err(ConnectError::Answer { .. })));
        assert!(matches!(answered(b"OK 107374182400000000").await, Err(ConnectError::Answer { .. })));
    }
}
