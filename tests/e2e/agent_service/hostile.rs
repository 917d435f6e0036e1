//! A host that does not keep to the protocol: the agent bounds what it costs, and goes on.

use rvm_agent_proto::{CreateRequest, HelloRequest, Streams};
use tokio::io::AsyncReadExt;
use tonic::Code;

use super::{Guest, refused, with_guest};

async fn hello(guest: &Guest) {
    guest.agent.sandbox().hello(HelloRequest { protocol: 0 }).await.unwrap();
}

#[test]
fn a_message_that_is_too_large_is_refused_and_the_connection_lives() {
    with_guest(async |guest| {
        let request = CreateRequest { id: "box".into(), spec: vec![b' '; 5 << 20], ..Default::default() };
        let (code, message) = refused(guest.agent.containers().create(request).await);
        assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&code), "{code:?} {message}");
        hello(&guest).await;
    });
}

#[test]
fn a_specification_that_is_none_is_refused() {
    with_guest(async |guest| {
        for spec in [&b""[..], b"{", b"[]", b"\xff", b"{\"ociVersion\":1}"] {
            let request = CreateRequest { id: "box".into(), spec: spec.to_vec(), ..Default::default() };
            assert_eq!(refused(guest.agent.containers().create(request).await).0, Code::InvalidArgument);
        }
    });
}

#[test]
fn streams_that_nobody_names_are_bounded() {
    with_guest(async |guest| {
        let mut streams = Vec::new();
        // Those beyond the bound are closed, some of them before their token is on its way; the others wait.
        let mut closed = 0;
        for _ in 0..100 {
            match guest.agent.stream().await {
                Ok((_, stream)) => streams.push(stream),
                Err(_) => closed += 1,
            }
        }
        for stream in streams.iter_mut().skip(64) {
            closed += usize::from(stream.read_u8().await.is_err());
        }
        assert_eq!(closed, 36);
        drop(streams);
        hello(&guest).await;
    });
}

#[test]
fn a_call_whose_stream_never_comes_is_refused_in_time() {
    with_guest(async |guest| {
        let spec = serde_json::to_vec(&super::spec("exit 0")).unwrap();
        let streams = Some(Streams { stdout: 0xdead, ..Streams::default() });
        let request = CreateRequest { id: "box".into(), spec, streams, user: None };
        let (code, message) = refused(guest.agent.containers().create(request).await);
        assert_eq!((code, message.contains("0xdead")), (Code::FailedPrecondition, true), "{message}");
    });
}
