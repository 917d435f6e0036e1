//! A registry in this process: it serves a layout, and misbehaves as a test wants it to.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::Layout;

/// What somebody asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// With everything behind the question mark.
    pub path: String,
    /// The registry's host and port, as it was asked.
    pub host: String,
    /// The first byte that is wanted.
    pub from: usize,
    /// Of the header `Authorization`.
    pub authorization: Option<String>,
}

/// What is answered.
pub struct Answer {
    /// As 200.
    pub status: u16,
    /// Beside those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// All of it: its length is told.
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
}

/// A registry that serves until the process ends.
pub struct Registry {
    /// Its host and port.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Answer {
    /// Nothing but a status.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None }
    }

    /// What was asked for.
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }
    }
}

impl Registry {
    /// Serves `layout`, whose tags are the images' tags; `twist` may change each answer.
    pub fn start(layout: &Layout, mut twist: impl FnMut(&Request, &mut Answer) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let (root, seen) = (layout.path().to_owned(), requests.clone());
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.expect("a connection");
                let Some(request) = read(&connection) else { continue };
                let mut answer = honest(&root, &request);
                twist(&request, &mut answer);
                seen.lock().expect("no test panics with it").push(request);
                // Who asks may be gone.
                write(&mut connection, &answer).ok();
            }
        });
        Self { address, requests }
    }

    /// What has been asked for so far, of paths that contain `part`.
    pub fn requests(&self, part: &str) -> Vec<Request> {
        let requests = self.requests.lock().expect("the registry does not panic with it");
        requests.iter().filter(|request| request.path.contains(part)).cloned().collect()
    }
}

fn honest(root: &std::path::Path, request: &Request) -> Answer {
    let blob =
        |digest: &str| fs::read(root.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))).ok();
    let name = request.path.rsplit('/').next().unwrap_or_default();
    let found = if request.path == "/v2/" {
        Some(Vec::new())
    } else if request.path.contains("/manifests/") && !name.starts_with("sha256:") {
        let index: Value =
            serde_json::from_slice(&fs::read(root.join("index.json")).expect("an index")).expect("an index");
        let entries = index["manifests"].as_array().expect("a list").clone();
        let tag = |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
        entries.into_iter().find(tag).and_then(|entry| blob(entry["digest"].as_str()?))
    } else {
        blob(name)
    };
    match found {
        None => Answer {
            body: br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec(),
            ..Answer::status(404)
        },
        Some(body) if request.from > 0 => {
            let range = format!("bytes {}-{}/{}", request.from, body.len() - 1, body.len());
            let headers = vec![("Content-Range", range)];
            Answer { status: 206, headers, body: body[request.from..].to_vec(), cut: None }
        }
        Some(body) => Answer::body(body),
    }
}

fn read(connection: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, host: String::new(), from: 0, authorization: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => request.from = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?,
            "host" => value.clone_into(&mut request.host),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

fn write(connection: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {} Answer\r\nConnection: close\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    )?;
    for (name, value) in &answer.headers {
        write!(connection, "{name}: {value}\r\n")?;
    }
    connection.write_all(b"\r\n")?;
    connection.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())])
}
