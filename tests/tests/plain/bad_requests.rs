//! Requests that no client should send, and content that nobody has: a clear answer each, in OCI terms.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{digest, synthetic};

/// What nobody has, as a digest.
fn nobody_has(what: &str) -> String {
    digest(what.as_bytes())
}

#[tokio::test]
async fn malformed_requests_are_told_what_is_wrong() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let client = fleet.nodes[0].client().unwrap();
    let long = "a/".repeat(200);
    let cases = [
        (format!("/v2/{REGISTRY}/UPPER/case/manifests/latest"), 400, "NAME_INVALID"),
        (format!("/v2/{REGISTRY}/a--_b/c/manifests/latest"), 400, "NAME_INVALID"),
        (format!("/v2/{REGISTRY}/{long}b/manifests/latest"), 400, "NAME_INVALID"),
        (format!("/v2/{REGISTRY}/a%00b/manifests/latest"), 400, "NAME_INVALID"),
        (format!("/v2/{REGISTRY}/a%ff/manifests/latest"), 400, "NAME_INVALID"),
        (format!("/v2/{REGISTRY}/a/manifests/.dot"), 400, "TAG_INVALID"),
        (format!("/v2/{REGISTRY}/a/manifests/{}", "t".repeat(129)), 400, "TAG_INVALID"),
        (format!("/v2/{REGISTRY}/a/manifests/sha256:abc"), 400, "DIGEST_INVALID"),
        (format!("/v2/{REGISTRY}/a/blobs/sha256:{}", "Z".repeat(64)), 400, "DIGEST_INVALID"),
        (format!("/v2/{REGISTRY}/a/blobs/sha256:{}", "A".repeat(64)), 400, "DIGEST_INVALID"),
        (format!("/v2/{REGISTRY}/a/blobs/md5:{}", "a".repeat(32)), 400, "DIGEST_INVALID"),
        (format!("/v2/{REGISTRY}/a/blobs/latest"), 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/latest?ns=not%20a%20host".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a/manifests/latest?ns=../../etc".to_owned(), 400, "NAME_INVALID"),
        ("/v1/a".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/_catalog/x".to_owned(), 404, "UNSUPPORTED"),
    ];
    for (path, status, code) in cases {
        let answer = client.get(&path).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{path}: {answer:?}");
        assert_eq!(answer.error_code().unwrap(), code, "{path}");
        assert!(answer.header("content-type").starts_with("application/json"), "{path}: {answer:?}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = client.send(method, &format!("/v2/{REGISTRY}/a/manifests/latest"), &[]).await.unwrap();
        assert_eq!(answer.status.as_u16(), 405, "{answer:?}");
        assert_eq!(answer.error_code().unwrap(), "UNSUPPORTED");
    }
    assert_eq!(fleet.registry.seen().len(), 0, "upstream was asked: {:#?}", fleet.registry.seen());
    assert_eq!(client.get("/v2/").await.unwrap().status.as_u16(), 200);
}

/// `ns` is the client's choice: it opens no way to what lies near the node.
#[tokio::test]
async fn a_client_cannot_make_the_node_speak_to_private_addresses() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let client = fleet.nodes[0].client().unwrap();
    let near = fleet.registry.url().replace("http://", "");
    let admin = fleet.nodes[0].serving.admin.to_string();
    for ns in [near.as_str(), admin.as_str(), "localhost", "127.0.0.1", "10.0.0.1:80", "169.254.169.254"] {
        let answer = client.get(&format!("/v2/a/b/manifests/latest?ns={ns}")).await.unwrap();
        assert_eq!(answer.status.as_u16(), 404, "{ns}: {answer:?}");
        answer.error_code().unwrap();
        assert!(answer.took < Duration::from_secs(5), "{ns} took {:?}", answer.took);
    }
    assert_eq!(fleet.registry.seen().len(), 0, "{:#?}", fleet.registry.seen());
}

#[tokio::test]
async fn ranges_that_do_not_fit_or_make_no_sense() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let client = fleet.nodes[0].client().unwrap();
    let bytes = synthetic::blob(fleet.home(), 1, 700_001).unwrap().bytes().unwrap();
    let size = bytes.len();
    let digest = fleet.registry.hold_blob(Bytes::from(bytes.clone()));
    let path = format!("/v2/{REGISTRY}/a/blobs/{digest}");
    // Twice: while it is fetched, and when it is held.
    for _ in 0..2 {
        for (range, first, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 20),
            ("bytes=700000-", size - 1, size),
            ("bytes=-5", size - 5, size),
            ("bytes=5-99999999999", 5, size),
        ] {
            let answer = client.send(Method::GET, &path, &[("range", range)]).await.unwrap();
            assert_eq!(answer.status.as_u16(), 206, "{range}: {:?}", answer.headers);
            assert_eq!(
                answer.header("content-range"),
                format!("bytes {first}-{}/{size}", end - 1),
                "{range}"
            );
            assert!(answer.body == bytes[first..end], "{range}: other bytes");
        }
        for range in ["bytes=700001-", "bytes=9999999-99999999", "bytes=-0"] {
            let answer = client.send(Method::GET, &path, &[("range", range)]).await.unwrap();
            assert_eq!(answer.status.as_u16(), 416, "{range}: {answer:?}");
            assert_eq!(answer.header("content-range"), format!("bytes */{size}"), "{range}");
            answer.error_code().unwrap();
        }
        // Not understood, or longer in parts than as a whole: as if there were none (RFC 9110, section 14.2).
        let long = format!("bytes=0-{size},1-{size}");
        for range in ["bytes=5-2", "lines=1-2", "bytes=", "bytes=a-b", "bytes=0-1,6-5", "bytes=--1", &long] {
            let answer = client.send(Method::GET, &path, &[("range", range)]).await.unwrap();
            assert_eq!(answer.status.as_u16(), 200, "{range}: {:?}", answer.headers);
            assert!(answer.body == bytes, "{range}: other bytes");
        }
        let parts = client.send(Method::GET, &path, &[("range", "bytes=0-1,5-6,9999999-")]).await.unwrap();
        assert_eq!(parts.status.as_u16(), 206, "{parts:?}");
        assert!(parts.header("content-type").starts_with("multipart/byteranges; boundary="), "{parts:?}");
        for (first, last) in [(0, 1), (5, 6)] {
            let range = format!("Content-Range: bytes {first}-{last}/{size}\r\n\r\n");
            let part = [range.as_bytes(), &bytes[first..=last]].concat();
            assert!(parts.body.windows(part.len()).any(|window| window == part), "{parts:?}");
        }
    }
}

/// With peers around that could be waited for.
#[tokio::test]
async fn what_nobody_has_is_answered_at_once() {
    let fleet = Fleet::with_faulty_upstream(3).await.unwrap();
    let client = fleet.nodes[1].client().unwrap();
    // The first request also opens the connection to upstream.
    client.get(&format!("/v2/{REGISTRY}/a/blobs/{}", nobody_has("first"))).await.unwrap();
    for round in 0..5 {
        let digest = nobody_has(&format!("round {round}"));
        for (path, code) in [
            (format!("/v2/{REGISTRY}/a/blobs/{digest}"), "BLOB_UNKNOWN"),
            (format!("/v2/{REGISTRY}/a/manifests/{digest}"), "MANIFEST_UNKNOWN"),
            (format!("/v2/{REGISTRY}/a/manifests/no-such-tag-{round}"), "MANIFEST_UNKNOWN"),
        ] {
            let answer = client.get(&path).await.unwrap();
            let now = std::time::Instant::now();
            assert_eq!(answer.status.as_u16(), 404, "{path}: {answer:?}");
            assert_eq!(answer.error_code().unwrap(), code, "{path}");
            let asked = fleet.registry.seen().last().expect("upstream was not asked").answered;
            let after = now - asked;
            assert!(after < Duration::from_millis(400), "{path}: {after:?} after upstream's answer");
        }
    }
}

/// A manifest promises it, with its size, and no registry has it: peers may be waited for a little, the client not.
#[tokio::test]
async fn a_listed_blob_that_nobody_has_is_answered_at_once() {
    let fleet = Fleet::with_faulty_upstream(3).await.unwrap();
    let client = fleet.nodes[1].client().unwrap();
    for round in 0..5 {
        let image = synthetic::image(fleet.home(), round, &[3_000_000, 1000]).unwrap();
        let manifest = &image.manifest;
        // A tag of its own: one that moves is seen a little later.
        let tag = format!("listed-{round}");
        for reference in [&tag, &manifest.digest] {
            fleet.registry.hold_manifest(reference, manifest.media_type, manifest.bytes.clone());
        }
        let found = client.manifest(&format!("{REGISTRY}/a"), &tag).await.unwrap();
        assert_eq!((found.status.as_u16(), &found.body), (200, &manifest.bytes), "{found:?}");
        for (method, blob) in [(Method::GET, &image.layers[0]), (Method::HEAD, &image.layers[1])] {
            let path = format!("/v2/{REGISTRY}/a/blobs/{}", blob.digest);
            let answer = client.send(method.clone(), &path, &[]).await.unwrap();
            let now = std::time::Instant::now();
            assert_eq!(answer.status.as_u16(), 404, "{method} {path}: {answer:?}");
            if method == Method::GET {
                assert_eq!(answer.error_code().unwrap(), "BLOB_UNKNOWN", "{path}");
            }
            let seen = fleet.registry.seen();
            let asked = seen.iter().rfind(|seen| seen.target.contains(&blob.digest));
            let after = now - asked.expect("upstream was not asked").answered;
            assert!(after < Duration::from_millis(400), "{method} {path}: {after:?} after upstream's answer");
        }
    }
}
