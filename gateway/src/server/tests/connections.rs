//! Many requests, many connections, and the end.

use super::*;
use crate::memory::Trouble;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_kept_alive() {
    let gateway = Arc::new(Gateway::start().await);
    let blobs: Vec<_> = (0..8).map(|n| content(50_000 + n * 13_337)[n..].to_vec()).collect();
    let here = scope("ghcr.io/a");
    let digests: Vec<_> = blobs.iter().map(|blob| gateway.memory.add_blob(&here, blob.clone())).collect();
    let (blobs, digests) = (Arc::new(blobs), Arc::new(digests));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..32 {
        let (gateway, blobs, digests) = (gateway.clone(), blobs.clone(), digests.clone());
        tasks.spawn(async move {
            let mut client = gateway.connect().await;
            for request in 0..24 {
                let n = (task + request) % blobs.len();
                let target = format!("/v2/ghcr.io/a/blobs/{}", digests[n]);
                match request % 4 {
                    0 => assert!(client.get(&target).await.body == blobs[n]),
                    1 => {
                        let length = blobs[n].len().to_string();
                        assert_eq!(client.head(&target).await.header("content-length"), length);
                    }
                    2 => {
                        let reply = client.ask("GET", &target, &[("Range", "bytes=1234-")]).await;
                        assert!(reply.status == 206 && reply.body == blobs[n][1234..]);
                    }
                    _ => assert_eq!(client.get("/v2/ghcr.io/a/manifests/none").await.status, 404),
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    gateway.record(32 * 24 - 1).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gateway = Gateway::start().await;
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), "pipelined");
    let mut client = gateway.connect().await;
    let get = format!("GET /v2/ghcr.io/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = get.replace("GET", "HEAD");
    client.send(format!("{get}{head}{get}").as_bytes()).await;
    for is_head in [false, true, false] {
        let reply = client.reply(is_head).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.body, if is_head { &b""[..] } else { b"pipelined" });
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let gateway = Gateway::with(|_| {}, Limits { connections: 1, ..Limits::default() }).await;
    let mut first = gateway.connect().await;
    assert_eq!(first.get("/v2/").await.status, 200);
    let mut second = gateway.connect().await;
    let reply = second.get("/v2/").await;
    assert_eq!((reply.status, reply.error().0.as_str()), (503, "UNAVAILABLE"));
    assert!(second.ends().await);
    drop(first);
    let freed = async {
        while gateway.connect().await.get("/v2/").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, freed).await.expect("the place is free again");
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let limits = Limits { head: Duration::from_millis(800), ..Limits::default() };
    let gateway = Gateway::with(|_| {}, limits).await;
    let mut slow = gateway.connect().await;
    slow.send(b"GET /v2/ HTTP/1.1\r\nHost:").await;
    while slow.more().await {}
    let mut idle = gateway.connect().await;
    assert_eq!(idle.get("/v2/").await.status, 200);
    assert!(idle.ends().await);
}

#[tokio::test]
async fn answers_on_their_way_end_before_the_server_does() {
    let gateway = Gateway::start().await;
    let bytes = content(24 * 1024 * 1024);
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), bytes.clone());
    let mut idle = gateway.connect().await;
    assert_eq!(idle.get("/v2/").await.status, 200);
    let mut client = gateway.connect().await;
    client.send(format!("GET /v2/ghcr.io/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    client.more().await;
    gateway.shutdown.cancel();
    assert!(idle.ends().await);
    let reply = client.reply(false).await;
    assert!(!reply.short && reply.body == bytes);
    assert!(client.ends().await);
    tokio::time::timeout(SOON, gateway.served).await.expect("it ends").unwrap();
    assert!(TcpStream::connect(gateway.address).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_is_cut() {
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let gateway = Gateway::with(|_| {}, limits).await;
    gateway.memory.trouble(&scope("ghcr.io/a"), Trouble::Hang);
    let mut client = gateway.connect().await;
    client.send(b"GET /v2/ghcr.io/a/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    while gateway.memory.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway.shutdown.cancel();
    tokio::time::timeout(SOON, gateway.served).await.expect("it ends").unwrap();
    assert!(client.ends().await);
}
