//! Archives of a container's files, and that no path leads out of its root.

use rvm_agent_proto::{ReadArchiveRequest, Streams, WriteArchiveRequest};
use tokio::io::AsyncWriteExt;
use tonic::{Code, Status};

use super::{Guest, read_all, spec, with_guest};

async fn read(guest: &Guest, path: &str, follow: bool) -> Result<Vec<u8>, Status> {
    let (token, stream) = guest.agent.stream().await.unwrap();
    let bytes = tokio::spawn(read_all(stream));
    let request = ReadArchiveRequest { container: "box".into(), path: path.into(), follow, stream: token };
    guest.agent.storage().read_archive(request).await?;
    Ok(bytes.await.unwrap())
}

async fn write(guest: &Guest, path: &str, archive: &[u8]) -> Result<(), Status> {
    let (token, mut stream) = guest.agent.stream().await.unwrap();
    let request = WriteArchiveRequest { container: "box".into(), path: path.into(), stream: token };
    let mut storage = guest.agent.storage();
    let call = tokio::spawn(async move { storage.write_archive(request).await.map(|_| ()) });
    // An agent that refuses does not read to the end.
    stream.write_all(archive).await.ok();
    stream.shutdown().await.ok();
    call.await.unwrap()
}

#[test]
fn files_go_out_and_in_and_nothing_leads_out_of_the_container() {
    with_guest(async |guest| {
        guest.mount_root().await;
        let script = "busybox mkdir -p /data/in; echo text > /data/in/file; busybox ln -s /data /link; \
            busybox ln -s /../../../../etc /data/up; echo ready; sleep 1000";
        let (stdout, ready) = guest.agent.stream().await.unwrap();
        guest.start("box", &spec(script), Streams { stdout, ..Streams::default() }).await;
        let mut ready = ready;
        tokio::io::AsyncReadExt::read_u8(&mut ready).await.unwrap();

        let archive = read(&guest, "/data/in", false).await.unwrap();
        write(&guest, "/tmp", &archive).await.unwrap();
        let copy = read(&guest, "/tmp/in", false).await.unwrap();
        assert!(copy.windows(5).any(|bytes| bytes == b"text\n"));
        // A link is a link, unless it is to be followed; then what it leads to is the container's.
        assert!(
            read(&guest, "/link", false).await.unwrap().len()
                < read(&guest, "/link", true).await.unwrap().len()
        );
        let etc = read(&guest, "/data/up/passwd", false).await.unwrap();
        assert!(etc.windows(3).any(|bytes| bytes == b"web"));
        // The guest's own files are not there.
        for path in ["/init", "/../../../init", "/data/up/../init"] {
            assert_eq!(read(&guest, path, true).await.unwrap_err().code(), Code::NotFound, "{path}");
        }
        assert_eq!(write(&guest, "/etc/passwd", &archive).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(write(&guest, "/nope", &archive).await.unwrap_err().code(), Code::NotFound);
        assert!(write(&guest, "/tmp", &archive[..700]).await.is_err());
    });
}
