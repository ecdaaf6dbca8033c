//! The least HTTP that a test needs: requests and answers as bytes, so that they can be wrong.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Told {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// A request as bytes; `more` is further header lines. A body has the type that goes to its path, unless `more` has one.
pub fn request(method: &str, path: &str, more: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    let typed = more.iter().any(|line| line.to_lowercase().starts_with("content-type"));
    if !typed && matches!(method, "POST" | "PUT") {
        let json = method == "PUT" || path == "/v1/update";
        let kind = if json { "application/json" } else { "application/vnd.floe.v1" };
        head += &format!("Content-Type: {kind}\r\n");
    }
    more.iter().for_each(|line| head += &format!("{line}\r\n"));
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Sends one request on a connection of its own, and reads the answer to its end.
pub fn ask(addr: SocketAddr, method: &str, path: &str, more: &[&str], body: &[u8]) -> Told {
    let more = [more, &["Connection: close"]].concat();
    let bytes = send(addr, &request(method, path, &more, body));
    told(&bytes)
}

/// Sends bytes, closes the sending side, and reads until the other side closes.
pub fn send(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(addr);
    // The server may refuse before all is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Takes an answer apart. One without any bytes has status 0.
pub fn told(bytes: &[u8]) -> Told {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = bytes.get(end + 4..).unwrap_or_default().to_vec();
    Told { status, head, body }
}
