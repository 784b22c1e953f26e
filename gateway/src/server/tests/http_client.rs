//! An HTTP/1.1 client that hides nothing: what came, byte for byte, and how the connection ended.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::SOON;

pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the connection ended before the whole body.
    pub(super) short: bool,
}

impl Reply {
    #[track_caller]
    pub(super) fn header(&self, name: &str) -> &str {
        self.maybe(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    pub(super) fn maybe(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }

    /// The code and the detail of the one error in the body.
    #[track_caller]
    pub(super) fn error(&self) -> (String, Value) {
        assert_eq!(self.header("content-type"), "application/json");
        let body: Value = serde_json::from_slice(&self.body).expect("the error is JSON");
        let [error] = body["errors"].as_array().expect("a list of errors").as_slice() else {
            panic!("not one error: {body}")
        };
        assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
        (error["code"].as_str().unwrap().to_owned(), error["detail"].clone())
    }
}

impl Client {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(super) async fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{}", headers.concat());
        self.send(format!("{head}\r\n").as_bytes()).await;
        self.reply(method == "HEAD").await
    }

    pub(super) async fn get(&mut self, target: &str) -> Reply {
        self.ask("GET", target, &[]).await
    }

    pub(super) async fn head(&mut self, target: &str) -> Reply {
        self.ask("HEAD", target, &[]).await
    }

    /// Reads one reply; `short` if the connection ends in its body.
    pub(super) async fn reply(&mut self, head: bool) -> Reply {
        let mut reply = self.reply_head().await;
        // Framing by length alone, always.
        assert!(reply.maybe("transfer-encoding").is_none());
        if reply.status == 304 {
            // hyper leaves the length out, as it may.
            return reply;
        }
        let length: usize = reply.header("content-length").parse().unwrap();
        while !head && reply.body.len() < length {
            if self.buffer.is_empty() && !self.more().await {
                reply.short = true;
                break;
            }
            let taken = self.buffer.len().min(length - reply.body.len());
            reply.body.extend(self.buffer.drain(..taken));
        }
        reply
    }

    /// Reads a status and headers and nothing of the body that follows.
    pub(super) async fn reply_head(&mut self) -> Reply {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            assert!(self.more().await, "the connection ended before a reply: {:?}", self.buffer);
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("not a header: {line}")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Reply { status, headers, body: Vec::new(), short: false }
    }

    /// Reads on; false at the other side's orderly end. A reset fails the test.
    pub(super) async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.buffer);
        let read = tokio::time::timeout(SOON, read).await.expect("nothing came, and no end");
        let read = read.expect("an orderly end and no reset");
        read > 0
    }

    /// Whether the other side ends the connection without another byte.
    pub(super) async fn ends(&mut self) -> bool {
        self.buffer.is_empty() && !self.more().await
    }
}
