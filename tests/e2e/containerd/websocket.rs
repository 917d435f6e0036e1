//! A client of WebSockets (RFC 6455), as far as containerd's streaming server speaks them: messages of Kubernetes' protocol
//! `v4.channel.k8s.io`, whose first byte is the channel's number.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::process::PATIENCE;

/// Frames have masks, which need not be good ones here.
const MASK: [u8; 4] = [7, 11, 13, 17];

/// A connection.
pub struct WebSocket {
    stream: TcpStream,
}

impl WebSocket {
    /// Connects to `http://HOST:PORT/PATH`.
    #[track_caller]
    pub fn connect(url: &str) -> Self {
        let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = [
            &format!("GET /{path} HTTP/1.1"),
            &format!("Host: {host}"),
            &format!("Origin: http://{host}"),
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: cnZtIGlzIGEgcnZtIGlzIQ==",
            "Sec-WebSocket-Protocol: v4.channel.k8s.io",
            "\r\n",
        ];
        stream.write_all(request.join("\r\n").as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { stream }
    }

    /// Sends bytes on a channel.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message: Vec<u8> = std::iter::once(channel).chain(bytes.iter().copied()).collect();
        // The last frame of a message, which is binary.
        let mut frame =
            vec![0x82, 0x80 | u8::try_from(message.len()).ok().filter(|length| *length < 126).unwrap()];
        frame.extend(MASK);
        frame.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame).unwrap();
    }

    /// The next message, with its channel; `None` at the end.
    pub fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).ok()?;
            let length = match head[1] {
                126 => u64::from(u16::from_be_bytes(self.exactly()?)),
                127 => u64::from_be_bytes(self.exactly()?),
                short => u64::from(short),
            };
            let mut message = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut message).ok()?;
            match (head[0] & 0x0f, message.split_first()) {
                (0x8, _) => return None,
                (0x1 | 0x2, Some((channel, bytes))) => return Some((*channel, bytes.to_vec())),
                _ => {}
            }
        }
    }

    /// What comes on a channel until it has these words.
    #[track_caller]
    pub fn wait_for(&mut self, channel: u8, words: &str) -> String {
        let mut all = Vec::new();
        loop {
            let so_far = String::from_utf8_lossy(&all).into_owned();
            if so_far.contains(words) {
                return so_far;
            }
            match self.receive() {
                Some((number, bytes)) if number == channel => all.extend(bytes),
                Some((number, bytes)) => {
                    eprintln!("on channel {number}: {:?}", String::from_utf8_lossy(&bytes));
                }
                None => panic!("it ended behind {so_far:?}"),
            }
        }
    }

    /// What comes on a channel until the end of the connection.
    pub fn rest(&mut self, channel: u8) -> String {
        let mut all = Vec::new();
        while let Some((number, bytes)) = self.receive() {
            if number == channel {
                all.extend(bytes);
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Sends nothing any more.
    pub fn close(&mut self) {
        // A frame that closes, without a reason.
        self.stream.write_all(&[&[0x88, 0x80][..], &MASK].concat()).ok();
        self.stream.shutdown(Shutdown::Write).ok();
    }

    fn exactly<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
}
