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
        ["bytes=1-2,9-6", "bytes=5-2", "bytes=a-b", "bytes", "lines=1-2", "bytes=--1", "bytes=+1-2", ""]
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
async fn several_ranges_are_parts_of_one_answer() {
    let gateway = Gateway::start().await;
    let bytes = content(10_000);
    let digest = gateway.memory.add_blob(&scope("ghcr.io/a"), bytes.clone());
    gateway.memory.pieces_of(7);
    let target = format!("/v2/a/blobs/{digest}?ns=ghcr.io");
    let mut client = gateway.connect().await;
    // As they were asked for: not in order, overlapping, and without those behind the end.
    let asked = "bytes=5000-5099, 10-20,20000-,15-30, -3";
    let reply = client.ask("GET", &target, &[("Range", asked)]).await;
    assert_eq!(reply.status, 206);
    assert!(reply.maybe("content-range").is_none());
    let boundary =
        reply.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap().to_owned();
    let mut expected = Vec::new();
    for (start, end) in [(5000, 5100), (10, 21), (15, 31), (9997, 10_000)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{}/10000\r\n\r\n",
            end - 1
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&bytes[start..end]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(reply.header("content-length"), expected.len().to_string());
    assert!(reply.body == expected, "{}", String::from_utf8_lossy(&reply.body));

    // The whole is shorter.
    let reply = client.ask("GET", &target, &[("Range", "bytes=0-9000,1-9000")]).await;
    assert_eq!((reply.status, reply.body == bytes), (200, true));
    let reply = client.ask("GET", &target, &[("Range", "bytes=10000-,-0")]).await;
    assert_eq!((reply.status, reply.header("content-range")), (416, "bytes */10000"));
    // What the source does not have at all is told by a status.
    let gone = format!("/v2/ghcr.io/b/blobs/{digest}");
    assert_eq!(client.ask("GET", &gone, &[("Range", "bytes=1-2,4-5")]).await.status, 404);
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
