//! The socket's other end against [`Control`], without a machine.

#![allow(clippy::unwrap_used, reason = "a failing call is a failing test")]

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::time::Instant;

use rvm_config::control::Reason;

use super::socket::tests::{pair, send_with};
use super::*;

/// The next packet at the other end.
fn next(theirs: &PacketSocket) -> String {
    match theirs.receive().unwrap() {
        Received::Packet { bytes, .. } => String::from_utf8(bytes).unwrap(),
        other => panic!("a packet, not {other:?}"),
    }
}

fn ended(status: u8) -> Ended {
    Ended { reason: Reason::Exited, status, message: None, console: None }
}

#[test]
fn hello_is_the_first_word() {
    let (ours, theirs) = pair();
    Control::open(&ControlConfig { fd: ours.as_raw_fd() }).unwrap();
    assert_eq!(next(&theirs), r#"{"hello":{"version":1}}"#);
}

#[test]
fn a_request_is_heard_whole() {
    let (ours, theirs) = pair();
    let mut control = Control::new(ours);
    assert!(matches!(control.hear(), Heard::Nothing));
    theirs.send(br#"{"id": 3, "do": "pause"}"#).unwrap();
    let Heard::Request(request, _) = control.hear() else { panic!("a request") };
    assert_eq!(request, Request { id: 3, command: Command::Pause });
    drop(theirs);
    assert!(matches!(control.hear(), Heard::Closed));
}

#[test]
fn what_is_no_request_is_answered_and_the_next_one_is_heard() {
    let (ours, theirs) = pair();
    let mut control = Control::new(ours);
    let too_long = vec![b'x'; MAX_CONTROL_PACKET + 1];
    let packets: [(&[u8], &str); 5] = [
        (b"{", "cannot read the request"),
        (b"\xff\xfe", "cannot read the request"),
        (br#"{"id": 1, "do": "dance"}"#, "unknown variant `dance`"),
        (br#"{"id": 1, "do": "pause", "please": 1}"#, "unknown field `please`"),
        (&too_long, "a packet of more than 65536 bytes"),
    ];
    for (packet, why) in packets {
        theirs.send(packet).unwrap();
        assert!(matches!(control.hear(), Heard::Nothing));
        let answer = next(&theirs);
        assert!(answer.contains(r#""id":null,"outcome":{"refused":"#) && answer.contains(why), "{answer}");
    }
    theirs.send(br#"{"id": 4, "do": "stats"}"#).unwrap();
    assert!(matches!(control.hear(), Heard::Request(..)));
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let (ours, theirs) = pair();
    let mut control = Control::new(ours);
    let (mut read, write) = io::pipe().unwrap();
    send_with(&theirs, br#"{"id": 5, "do": "pause"}"#, &[write.as_raw_fd()]);
    send_with(&theirs, b"{", &[write.as_raw_fd()]);
    drop(write);
    assert!(matches!(control.hear(), Heard::Nothing));
    assert!(next(&theirs).contains(r#""id":5,"outcome":{"refused":"cannot take 1 descriptors"#));
    assert!(matches!(control.hear(), Heard::Nothing));
    // The end of the pipe: nobody has the other end of it any more.
    assert_eq!(read.read(&mut [0]).unwrap(), 0);
}

#[test]
fn descriptors_come_with_the_request_that_is_about_them() {
    let (ours, theirs) = pair();
    let mut control = Control::new(ours);
    let attach = br#"{"id": 6, "do": {"attach_disk": {"id": "layers", "layout": "parts"}}}"#;
    let null = std::fs::File::open("/dev/null").unwrap();
    send_with(&theirs, attach, &[null.as_raw_fd(); 128]);
    let Heard::Request(_, descriptors) = control.hear() else { panic!("a request") };
    assert_eq!(descriptors.len(), 128);
}

#[test]
fn each_event_is_told_once() {
    let (ours, theirs) = pair();
    let mut control = Control::new(ours);
    let now = Some(Instant::now());
    control.tell_of(&EventRecord::default());
    control.tell_of(&EventRecord { init_started: now, ..EventRecord::default() });
    control.tell_of(&EventRecord { init_started: now, ready: now, ..EventRecord::default() });
    control.end(ended(3));
    assert_eq!(next(&theirs), r#"{"event":"init_started"}"#);
    assert_eq!(next(&theirs), r#"{"event":"ready"}"#);
    assert_eq!(
        next(&theirs),
        r#"{"event":{"ended":{"reason":"exited","status":3,"message":null,"console":null}}}"#
    );
    assert!(matches!(theirs.receive().unwrap(), Received::Closed));
}

#[test]
fn the_end_has_the_last_words_of_a_captured_console() {
    let (ours, theirs) = pair();
    let mut control = Control::new(ours);
    let mut tail = Tail::default();
    control.capture(Some(&tail));
    io::Write::write_all(&mut tail, b"Kernel panic").unwrap();
    control.end(ended(91));
    assert!(next(&theirs).contains(r#""console":"Kernel panic""#));
}

#[test]
fn requests_wait_while_their_answers_are_not_read_and_nothing_is_lost() {
    let (ours, theirs) = pair();
    let mut control = Control::new(ours);
    let mut asked = 0;
    // Until the answers fill the socket: the one that waits keeps further requests from being taken.
    while control.waiting.is_empty() {
        theirs.send(b"{").unwrap();
        asked += 1;
        assert!(matches!(control.hear(), Heard::Nothing));
    }
    theirs.send(b"{").unwrap();
    for _ in 0..3 {
        assert!(matches!(control.hear(), Heard::Nothing));
        assert_eq!(control.waiting.len(), 1);
    }
    for _ in 0..asked - 1 {
        next(&theirs);
    }
    assert!(
        matches!(control.hear(), Heard::Nothing),
        "the last answer and the one to the request that waited"
    );
    assert_eq!((control.waiting.len(), next(&theirs), next(&theirs).is_empty()), (0, next_refusal(), false));
}

/// The answer to `{`.
fn next_refusal() -> String {
    let (id, why) = parse(b"{", 0).unwrap_err();
    serde_json::to_string(&Message::Answer { id, outcome: Outcome::Refused(why) }).unwrap()
}

#[test]
fn the_end_does_not_wait_for_ever_and_not_for_nobody() {
    for closed in [false, true] {
        let (ours, theirs) = pair();
        let mut control = Control::new(ours);
        while control.waiting.is_empty() {
            control.tell(&Message::Hello { version: 1 });
        }
        let theirs = Some(theirs).filter(|_| !closed);
        // Returns: how long that may take is bounded by the test's own time.
        control.end(ended(0));
        drop(theirs);
    }
}
