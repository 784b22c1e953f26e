//! Reuse, resets, silence, content codings.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use futures::stream::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::fake::{Fake, answer, hello};
use super::*;

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let registry = Fake::start(|_| hello()).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    for _ in 0..5 {
        get(&upstreams, "reg.test").await.unwrap();
    }
    assert!(registry.asked().iter().all(|asked| asked.connection == 0), "{:?}", registry.asked());
}

async fn read_request(stream: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
}

/// A registry, or what is in front of it, that closes a connection just as it is used again.
#[tokio::test]
async fn a_connection_that_ends_as_it_is_used_is_replaced() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstreams = upstreams([("reg.test", at(format!("http://{}", listener.local_addr().unwrap())))]);
    let server = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        read_request(&mut first).await;
        first.write_all(ANSWER).await.unwrap();
        read_request(&mut first).await;
        drop(first);
        let (mut second, _) = listener.accept().await.unwrap();
        read_request(&mut second).await;
        second.write_all(ANSWER).await.unwrap();
        second
    });
    for _ in 0..2 {
        assert_eq!(get(&upstreams, "reg.test").await.unwrap(), b"hello");
    }
    server.await.unwrap();
}

#[tokio::test]
async fn bytes_are_as_they_were_sent() {
    let registry = Fake::start(|_| answer(200, &[("content-encoding", "gzip")], "hello")).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    assert_eq!(get(&upstreams, "reg.test").await.unwrap(), b"hello");
    let asked = &registry.asked()[0];
    assert_eq!(asked.header("accept-encoding"), "identity");
    assert_eq!(asked.header("user-agent"), "shoal/test");
}

#[tokio::test]
async fn silence_is_waited_for_and_no_longer() {
    let stall = Duration::from_millis(300);
    let quick = Limits { head: stall, stall, ..LIMITS };
    // Begins, and goes on no more.
    let stalls = Fake::start(|_| {
        let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"he"))]);
        answer(200, &[("content-length", "5")], Body::from_stream(begun.chain(stream::pending())))
    })
    .await;
    let upstreams = upstreams_within(quick, [("reg.test", at(stalls.http()))]);
    let error = get(&upstreams, "reg.test").await.unwrap_err().to_string();
    assert!(error.contains("made no progress for 300ms after 2 bytes of 5"), "{error}");

    // Accepts, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstreams = upstreams_within(quick, [("reg.test", at(url))]);
    let error = get(&upstreams, "reg.test").await.unwrap_err().to_string();
    assert!(error.contains("did not answer within 300ms"), "{error}");
}

/// The gateway's client waits for the next byte of a body for so long; within that time another try must fit.
#[test]
fn a_silent_registry_is_given_up_before_the_client_is() {
    let patience = crate::server::Settings::new("shoal-self", [], std::sync::Arc::new(|_| {})).body_stall;
    let Limits { connect, head, stall } = Limits::default();
    assert!(stall * 2 <= patience, "{stall:?}");
    assert!(connect < head && head < patience, "{head:?}");
}

#[tokio::test]
async fn fewer_bytes_than_promised_are_an_error() {
    let registry = Fake::start(|_| {
        let begun = stream::iter([Ok(Bytes::from_static(b"he"))]);
        let cut = stream::once(async {
            // What was begun is on its way before the connection ends.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(std::io::Error::other("cut"))
        });
        answer(200, &[("content-length", "5")], Body::from_stream(begun.chain(cut)))
    })
    .await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let error = get(&upstreams, "reg.test").await.unwrap_err();
    assert!(matches!(&error, PullError::Upstream { reason, .. } if reason.contains("of 5")), "{error}");
}
