//! Blobs, whole and in part.

use super::*;

#[tokio::test]
async fn a_table_of_ranges() {
    let gateway = Gateway::start().await;
    let bytes = content(1000);
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), bytes.clone());
    gateway.memory.pieces_of(7);
    let target = format!("/v2/a/blobs/{digest}?ns=ghcr.io");
    let mut client = gateway.connect().await;
    for (range, start, end) in [
        ("bytes=0-", 0, 1000),
        ("bytes=0-0", 0, 1),
        ("bytes=999-999", 999, 1000),
        ("bytes=10-20", 10, 21),
        ("bytes=990-2000", 990, 1000),
        ("bytes=500-99999999999999999999999", 500, 1000),
        ("bytes=-1", 999, 1000),
        ("bytes=-5000", 0, 1000),
        ("Bytes = 3-5", 3, 6),
    ] {
        let reply = client.ask("GET", &target, &[("Range", range)]).await;
        assert_eq!(reply.status, 206, "{range}");
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/1000", end - 1));
        assert_eq!(reply.header("content-length"), (end - start).to_string());
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        assert_eq!(reply.body, bytes[start..end], "{range}");
    }
    for range in ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=99999999999999999999999-"] {
        let reply = client.ask("GET", &target, &[("Range", range)]).await;
        assert_eq!((reply.status, reply.header("content-range")), (416, "bytes */1000"), "{range}");
        assert_eq!(reply.error().0, "SIZE_INVALID");
    }
    for range in
        ["bytes=1-2,5-6", "bytes=5-2", "bytes=a-b", "bytes", "lines=1-2", "bytes=--1", "bytes=+1-2", ""]
    {
        let reply = client.ask("GET", &target, &[("Range", range)]).await;
        assert_eq!((reply.status, reply.body == bytes), (200, true), "{range}");
        assert!(reply.maybe("content-range").is_none());
        assert_eq!(reply.header("accept-ranges"), "bytes");
    }
    let etag = format!("\"{digest}\"");
    for (if_range, status) in
        [(etag.as_str(), 206), ("\"other\"", 200), ("Tue, 01 Jan 2030 00:00:00 GMT", 200)]
    {
        let reply = client.ask("GET", &target, &[("Range", "bytes=5-"), ("If-Range", if_range)]).await;
        assert_eq!(reply.status, status, "{if_range}");
    }
}

#[tokio::test]
async fn heads_and_conditions() {
    let gateway = Gateway::start().await;
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), content(1000));
    let target = format!("/v2/ghcr.io/a/blobs/{digest}");
    let mut client = gateway.connect().await;
    // HEAD knows no ranges.
    let reply = client.ask("HEAD", &target, &[("Range", "bytes=5-")]).await;
    assert_eq!((reply.status, reply.header("content-length")), (200, "1000"));
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.header("accept-ranges"), "bytes");
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    let etag = reply.header("etag").to_owned();
    let reply = client.ask("GET", &target, &[("If-None-Match", &etag), ("Range", "bytes=5-")]).await;
    assert_eq!(reply.status, 304);
    // Nothing is fetched for what needs no bytes.
    let asked = gateway.memory.asked();
    assert!(asked.iter().all(|question| question.starts_with("blob_size")), "{asked:?}");
    let gone = format!("/v2/ghcr.io/b/blobs/{digest}");
    assert_eq!(client.ask("GET", &gone, &[("If-None-Match", "*")]).await.status, 404);
}

#[tokio::test]
async fn a_blob_of_no_bytes() {
    let gateway = Gateway::start().await;
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), "");
    let target = format!("/v2/ghcr.io/a/blobs/{digest}");
    let mut client = gateway.connect().await;
    for method in ["GET", "HEAD"] {
        let reply = client.ask(method, &target, &[]).await;
        assert_eq!((reply.status, reply.header("content-length")), (200, "0"));
        assert_eq!(reply.header("content-type"), "application/octet-stream");
    }
    for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
        let reply = client.ask("GET", &target, &[("Range", range)]).await;
        assert_eq!((reply.status, reply.header("content-range")), (416, "bytes */0"), "{range}");
    }
}
