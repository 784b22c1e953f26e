//! Bodies that break off, and clients that are merely slow.

use super::*;
use crate::error::PullError;
use crate::memory::Fault;

const STALL: Duration = Duration::from_millis(300);

async fn impatient() -> Gateway {
    Gateway::with(|settings| settings.body_stall = STALL, Limits::default()).await
}

#[tokio::test]
async fn a_broken_body_ends_in_order_and_its_resume_goes_elsewhere() {
    let bytes = content(300_000);
    for (fault, ended) in [
        (Fault::Stall, Ended::Stalled),
        (Fault::Fail(PullError::Content("wrong".into())), Ended::Failed(String::new())),
        (Fault::End, Ended::Failed(String::new())),
    ] {
        let gateway = impatient().await;
        let here = scope("ghcr.io/a");
        let digest = gateway.memory.add_blob(&here, bytes.clone());
        gateway.memory.break_at(digest, 200_000, fault.clone());
        // Small enough for the connection to gather several, which the break must not take with it.
        gateway.memory.pieces_of(1000);
        let target = format!("/v2/ghcr.io/a/blobs/{digest}");
        let mut client = gateway.connect().await;
        let reply = client.get(&target).await;
        assert_eq!((reply.status, reply.header("content-length")), (200, "300000"));
        assert!(reply.short, "{fault:?}");
        // Not a byte is lost of what came before.
        assert!(reply.body == bytes[..200_000], "{fault:?}: {}", reply.body.len());
        let record = gateway.record(0).await;
        assert_eq!(std::mem::discriminant(&record.ended), std::mem::discriminant(&ended), "{record:?}");
        assert_eq!((record.status, record.bytes), (200, 200_000));

        gateway.memory.mend(&digest);
        let mut client = gateway.connect().await;
        for range in ["bytes=200000-", "bytes=1-5"] {
            let reply = client.ask("GET", &target, &[("Range", range)]).await;
            assert_eq!((reply.status, reply.error().0.as_str()), (404, "BLOB_UNKNOWN"), "{fault:?} {range}");
        }
        // Another repository's blob is another matter, and so is a start from the beginning.
        gateway.memory.add_blob(&scope("ghcr.io/b"), bytes.clone());
        let elsewhere = format!("/v2/ghcr.io/b/blobs/{digest}");
        assert_eq!(client.ask("GET", &elsewhere, &[("Range", "bytes=5-")]).await.status, 206);
        let reply = client.ask("GET", &target, &[("Range", "bytes=0-")]).await;
        assert!(reply.status == 206 && reply.body == bytes);
        // It was given whole, so it is in order.
        assert_eq!(client.ask("GET", &target, &[("Range", "bytes=5-")]).await.status, 206);
    }
}

#[tokio::test]
async fn the_memory_of_a_break_fades() {
    let change = |settings: &mut Settings| settings.broken_memory = Duration::from_millis(50);
    let gateway = Gateway::with(change, Limits::default()).await;
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), content(1000));
    gateway.memory.break_at(digest, 500, Fault::End);
    let target = format!("/v2/ghcr.io/a/blobs/{digest}");
    assert!(gateway.connect().await.get(&target).await.short);
    gateway.memory.mend(&digest);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let reply = gateway.connect().await.ask("GET", &target, &[("Range", "bytes=500-")]).await;
    assert_eq!((reply.status, reply.body.len()), (206, 500));
}

#[tokio::test]
async fn a_body_without_a_first_byte_is_a_status() {
    let gateway = impatient().await;
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), content(1000));
    let target = format!("/v2/ghcr.io/a/blobs/{digest}");
    let mut client = gateway.connect().await;
    for (fault, status) in [
        (Fault::Stall, 504),
        (Fault::End, 502),
        (Fault::Fail(PullError::Content("wrong".into())), 502),
        (Fault::Fail(PullError::NotFound { registry: "ghcr.io".into() }), 404),
    ] {
        gateway.memory.break_at(digest, 0, fault.clone());
        // On one connection: it is in order after each.
        assert_eq!(client.get(&target).await.status, status, "{fault:?}");
    }
}

#[tokio::test]
async fn a_slow_reader_is_no_stall() {
    let gateway = impatient().await;
    let bytes = content(24 * 1024 * 1024);
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), bytes.clone());
    let mut client = gateway.connect().await;
    client.send(format!("GET /v2/ghcr.io/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    // The kernel's buffers hold a few MiB of it; the gateway waits for the client with the rest.
    tokio::time::sleep(STALL * 4).await;
    assert!(gateway.seen.lock().unwrap().is_empty(), "it is still at it");
    let reply = client.reply(false).await;
    assert!(!reply.short && reply.body == bytes);
    assert_eq!(gateway.record(0).await.ended, Ended::Whole);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_dropped() {
    let limits = Limits { client_stall: STALL, ..Limits::default() };
    let gateway = Gateway::with(|_| {}, limits).await;
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), content(24 * 1024 * 1024));
    let mut client = gateway.connect().await;
    client.send(format!("GET /v2/ghcr.io/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let record = gateway.record(0).await;
    assert_eq!(record.ended, Ended::ClientLeft);
    assert!(record.bytes < 24 * 1024 * 1024);
    // It was the client's doing, so it may go on from where it is.
    let target = format!("/v2/ghcr.io/a/blobs/{digest}");
    let reply = gateway.connect().await.ask("GET", &target, &[("Range", "bytes=25165823-")]).await;
    assert_eq!(reply.status, 206);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let gateway = Gateway::start().await;
    gateway.memory.trouble(&scope("ghcr.io/a"), crate::memory::Trouble::Hang);
    let mut client = gateway.connect().await;
    client.send(b"GET /v2/ghcr.io/a/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    while gateway.memory.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(client);
    let record = gateway.record(0).await;
    assert_eq!((record.status, record.ended), (499, Ended::ClientLeft));
}
