//! What happens to containers, told to everybody who listens.
//!
//! A listener that does not take its events is left behind: its stream ends when it has taken those that were
//! kept for it, so that it knows, and the agent's memory is not its to fill.

use std::sync::{Mutex, PoisonError};

use rvm_agent_proto::event::What;
use rvm_agent_proto::{Event, Exited, OutOfMemory, WaitResponse};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Events kept for a listener.
const KEPT: usize = 256;

/// Those who listen.
#[derive(Debug, Default)]
pub struct Events(Mutex<Vec<mpsc::Sender<Result<Event, Status>>>>);

impl Events {
    /// The events from now on.
    pub fn subscribe(&self) -> impl Stream<Item = Result<Event, Status>> + Send + use<> {
        let (listener, events) = mpsc::channel(KEPT);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
        ReceiverStream::new(events)
    }

    /// A process of a container was ended because the memory limit was reached.
    pub fn out_of_memory(&self, container: &str) {
        self.tell(container, &What::OutOfMemory(OutOfMemory {}));
    }

    /// A process ended.
    pub fn exited(&self, container: &str, exec: &str, end: WaitResponse) {
        self.tell(container, &What::Exited(Exited { exec: exec.to_owned(), end: Some(end) }));
    }

    fn tell(&self, container: &str, what: &What) {
        let event = || Event { container: container.to_owned(), what: Some(what.clone()) };
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.try_send(Ok(event())).is_ok());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Events, KEPT};
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn every_listener_is_told_from_when_it_began_to_listen() {
        let events = Events::default();
        events.out_of_memory("before");
        let (mut one, mut other) = (events.subscribe(), events.subscribe());
        events.out_of_memory("box");
        for listener in [&mut one, &mut other] {
            assert_eq!(listener.next().await.unwrap().unwrap().container, "box");
        }
    }

    #[tokio::test]
    async fn a_listener_that_takes_nothing_is_left_behind_and_sees_the_end() {
        let events = Events::default();
        let (idle, mut busy) = (events.subscribe(), events.subscribe());
        for _ in 0..=KEPT {
            events.out_of_memory("box");
            busy.next().await.unwrap().unwrap();
        }
        assert_eq!(events.0.lock().unwrap().len(), 1);
        assert_eq!(idle.collect::<Vec<_>>().await.len(), KEPT);
    }
}
