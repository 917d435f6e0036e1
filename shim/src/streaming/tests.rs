use containerd_shim_protos::ttrpc::r#async::{Client as Connection, ClientStream, Server};
use tokio::net::UnixListener;

use super::*;

/// A shim's socket with the service at it.
struct Fixture {
    directory: tempfile::TempDir,
    streams: Arc<Streams>,
    _server: Server,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let streams = Arc::new(Streams::new(socket));
        let services = [service(&streams)].into();
        let mut server = Server::new().add_listener(listener.into()).register_service(services);
        server.start().await.unwrap();
        Self { directory, streams, _server: server }
    }

    fn address(&self, name: &str) -> String {
        format!("ttrpc+unix://{}?streaming_id={name}", self.directory.path().join("socket").display())
    }

    /// A client of this stream, after its ack; each has a connection of its own.
    async fn client(&self, name: &str) -> ClientStream<Any, Any> {
        let socket = UnixStream::connect(self.directory.path().join("socket")).await.unwrap();
        let request =
            proto::Request { service: SERVICE.to_owned(), method: METHOD.to_owned(), ..Default::default() };
        let inner = Connection::new(socket.into()).new_stream(request, true, true).await.unwrap();
        let mut client = ClientStream::<Any, Any>::new(inner);
        // As a client written in Go seems to.
        client.send(&Any::default()).await.unwrap();
        client.send(&any(INIT, Init { id: name.to_owned() }.encode_to_vec())).await.unwrap();
        assert_eq!(client.recv().await.unwrap().type_url, EMPTY);
        client
    }
}

async fn received(client: &mut ClientStream<Any, Any>) -> Vec<u8> {
    let message = tokio::time::timeout(Duration::from_secs(10), client.recv()).await.unwrap().unwrap();
    assert_eq!(message.type_url, DATA);
    Data::decode(message.value.as_slice()).unwrap().data
}

#[tokio::test]
async fn an_output_reaches_a_client_that_came_before_it_and_ends_with_it() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client("c1-stdout").await;
    client.send(&any(WINDOW, Window { update: 1 }.encode_to_vec())).await.unwrap();
    let (mut process, claim) = fixture.streams.open(&fixture.address("c1-stdout"), Direction::Out).unwrap();
    process.write_all(b"hello").await.unwrap();
    assert_eq!(received(&mut client).await, b"hello");
    process.write_all(b"bye").await.unwrap();
    drop(process);
    assert_eq!(received(&mut client).await, b"bye");
    assert!(matches!(client.recv().await, Err(ttrpc::Error::Eof)));
    drop(claim);
    assert!(locked(&fixture.streams.known).is_empty());
}

#[tokio::test]
async fn a_client_has_heard_everything_when_it_closes_its_side_or_hangs_up() {
    let fixture = Fixture::new().await;
    for closes in [true, false] {
        let mut client = fixture.client("s").await;
        let (process, claim) = fixture.streams.open(&fixture.address("s"), Direction::Out).unwrap();
        drop(process);
        assert!(matches!(client.recv().await, Err(ttrpc::Error::Eof)));
        let mut client = Some(client);
        assert!(timeout(LOOK_PAUSE * 3, claim.heard()).await.is_err());
        match closes {
            true => client.as_ref().unwrap().close_send().await.unwrap(),
            false => drop(client.take()),
        }
        timeout(Duration::from_secs(10), claim.heard()).await.unwrap();
    }
}

#[tokio::test]
async fn output_waits_for_a_client_and_goes_to_the_newest() {
    let fixture = Fixture::new().await;
    let (mut process, _claim) = fixture.streams.open(&fixture.address("s"), Direction::Out).unwrap();
    process.write_all(b"before anybody reads").await.unwrap();
    let mut first = fixture.client("s").await;
    assert_eq!(received(&mut first).await, b"before anybody reads");
    let mut second = fixture.client("s").await;
    assert!(matches!(first.recv().await, Err(ttrpc::Error::Eof)));
    process.write_all(b"more").await.unwrap();
    assert_eq!(received(&mut second).await, b"more");
    // One that goes takes nothing along.
    second.close_send().await.unwrap();
    assert!(matches!(second.recv().await, Err(ttrpc::Error::Eof)));
    process.write_all(b"last").await.unwrap();
    assert_eq!(received(&mut fixture.client("s").await).await, b"last");
}

#[tokio::test]
async fn an_input_is_granted_bit_by_bit_and_ends_with_its_client() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client("s").await;
    let (mut process, _claim) = fixture.streams.open(&fixture.address("s"), Direction::In).unwrap();
    let mut granted = 0;
    let mut sent = 0;
    let chunk = vec![7; CHUNK];
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        process.read_to_end(&mut all).await.unwrap();
        all
    });
    while sent < 8 * CHUNK {
        while granted < CHUNK {
            let message = client.recv().await.unwrap();
            assert_eq!(message.type_url, WINDOW);
            granted += usize::try_from(Window::decode(message.value.as_slice()).unwrap().update).unwrap();
        }
        assert!(granted <= GRANTED);
        client.send(&any(DATA, Data { data: chunk.clone() }.encode_to_vec())).await.unwrap();
        granted -= CHUNK;
        sent += CHUNK;
    }
    client.close_send().await.unwrap();
    assert_eq!(reader.await.unwrap().len(), sent);
}

#[tokio::test]
async fn an_input_that_nobody_is_to_write_ends_when_it_is_closed() {
    let fixture = Fixture::new().await;
    let (mut process, claim) = fixture.streams.open(&fixture.address("s"), Direction::In).unwrap();
    claim.close();
    assert_eq!(process.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_no_process_has_is_forgotten_with_its_client() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client("s").await;
    assert_eq!(locked(&fixture.streams.known).len(), 1);
    client.close_send().await.unwrap();
    assert!(matches!(client.recv().await, Err(ttrpc::Error::Eof)));
    assert!(locked(&fixture.streams.known).is_empty());
}

#[tokio::test]
async fn a_stream_without_a_name_is_refused() {
    let fixture = Fixture::new().await;
    let socket = UnixStream::connect(fixture.directory.path().join("socket")).await.unwrap();
    let request =
        proto::Request { service: SERVICE.to_owned(), method: METHOD.to_owned(), ..Default::default() };
    let inner = Connection::new(socket.into()).new_stream(request, true, true).await.unwrap();
    let mut client = ClientStream::<Any, Any>::new(inner);
    client.send(&any(DATA, b"\x0a\x01s".to_vec())).await.unwrap();
    match client.recv().await {
        Err(ttrpc::Error::RpcStatus(status)) => assert_eq!(status.code(), Code::INVALID_ARGUMENT),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn streams_of_others_and_names_that_are_taken_are_refused() {
    let fixture = Fixture::new().await;
    let open =
        |address: &str| fixture.streams.open(address, Direction::Out).map_err(|error| error.to_string());
    let own = fixture.address("s");
    let _taken = open(&own).unwrap();
    let nameless = own.split('?').next().unwrap();
    for (address, words) in [
        ("ttrpc+unix:///run/containerd/s/other?streaming_id=s", "its own socket"),
        (nameless, "no name"),
        (&format!("{nameless}?streaming_id="), "no name"),
        (&own, "already"),
    ] {
        let error = open(address).err().unwrap();
        assert!(error.contains(words), "{address}: {error}");
    }
}
