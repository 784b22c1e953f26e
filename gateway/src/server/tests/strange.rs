//! Requests that no client should send.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

#[tokio::test]
async fn malformed_requests_and_their_codes() {
    let gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    let long = format!("/v2/{}/manifests/x", "a/".repeat(200) + "a");
    for (target, status, code) in [
        ("/v2/A/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a//b/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a%2fb/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a%ff/manifests/x", 400, "NAME_INVALID"),
        ("/v2/a%/manifests/x", 400, "NAME_INVALID"),
        ("/v2/../a/manifests/x", 400, "NAME_INVALID"),
        (long.as_str(), 400, "NAME_INVALID"),
        ("/v2/a/manifests/x?ns=http://b", 400, "NAME_INVALID"),
        ("/v2/a/manifests/x?ns=%ff", 400, "NAME_INVALID"),
        ("/v2/a/manifests/x?ns=a.b&ns=c.d", 400, "NAME_INVALID"),
        ("/v2/localhost:1/a/manifests/x?ns=b.c", 400, "NAME_INVALID"),
        ("/v2/a/manifests/.x", 400, "TAG_INVALID"),
        ("/v2/a/manifests/", 400, "TAG_INVALID"),
        ("/v2/a/manifests/sha256:0", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/x", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        ("/v2/a/referrers/x", 400, "DIGEST_INVALID"),
        ("/v2/_catalog", 404, "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v1/", 404, "UNSUPPORTED"),
        ("/", 404, "UNSUPPORTED"),
        ("http://x/v2/A/tags/list", 400, "NAME_INVALID"),
    ] {
        let reply = client.get(target).await;
        assert_eq!((reply.status, reply.error().0.as_str()), (status, code), "{target}");
        assert_eq!(client.head(target).await.status, status, "{target}");
    }
    assert!(gateway.memory.asked().is_empty());
}

#[tokio::test]
async fn other_methods_are_told_what_is_allowed() {
    let gateway = Gateway::start().await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        for target in ["/v2/", "/v2/a/manifests/x", "/v2/a/blobs/uploads/", "/x"] {
            let mut client = gateway.connect().await;
            let reply = client.ask(method, target, &[("Content-Length", "0")]).await;
            assert_eq!((reply.status, reply.header("allow")), (405, "GET, HEAD"), "{method} {target}");
            assert_eq!(reply.error().0, "UNSUPPORTED");
        }
    }
    // A body that nobody reads costs the client its connection, but never the answer.
    let mut client = gateway.connect().await;
    client.send(b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n").await;
    client.send(&vec![b'x'; 300_000]).await;
    assert_eq!(client.reply(false).await.status, 405);
    client.send(&vec![b'x'; 300_000]).await;
    assert!(client.ends().await, "in order: a reset could overtake the answer");
}

#[tokio::test]
async fn heads_without_bound_are_refused() {
    let gateway = Gateway::start().await;
    let many = (0..200).map(|n| format!("X-{n}: y\r\n")).collect::<Vec<_>>().concat();
    for head in [
        format!("GET /v2/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000)),
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Y: {}\r\n\r\n", "a".repeat(200_000)),
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        "nonsense\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
    ] {
        let mut client = gateway.connect().await;
        client.send(head.as_bytes()).await;
        let reply = client.reply(false).await;
        assert!((400..500).contains(&reply.status), "{}", reply.status);
        assert!(!reply.short);
    }
    assert_eq!(gateway.connect().await.get("/v2/").await.status, 200);
}

/// One request without a connection; its status and, unless it is HEAD, its body as JSON.
fn ask(request: Request<Body>) -> (u16, Value) {
    let settings = Settings::new(VIA, [], Arc::new(super::super::log));
    let router = router(Arc::new(Memory::new()), settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = TowerToHyperService::new(router).call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).expect("always JSON"))
    })
}

proptest! {
    #[test]
    fn any_target_is_answered_in_json(
        path in prop_oneof![
            "(/[a-zA-Z0-9%:._@~-]{0,12}){0,6}",
            "/v2/[a-z0-9/%:._-]{0,30}/(manifests|blobs|tags|referrers)/[a-zA-Z0-9:%._-]{0,80}",
            "/v2/[a-z]{1,5}(/[a-z.]{1,5}){0,3}/blobs/sha256:[0-9a-f]{64}",
        ],
        query in "([a-z]{0,3}=?[a-zA-Z0-9%:./+&=]{0,20}|ns=[a-z:.0-9%\\[\\]]{0,20})",
        range in "(bytes=)?[0-9,-]{0,12}",
    ) {
        let target = format!("{path}?{query}");
        let Ok(uri) = target.parse::<http::Uri>() else { return Ok(()) };
        let request = Request::builder().uri(uri).header("range", range).body(Body::empty()).unwrap();
        let (status, body) = ask(request);
        prop_assert!(status == 200 || (400..500).contains(&status), "{} {}", target, status);
        prop_assert!(status == 200 || body["errors"][0]["code"].is_string(), "{} {}", target, body);
    }

    #[test]
    fn any_header_value_is_survived(value in prop::collection::vec(prop::num::u8::ANY, 0..60)) {
        let Ok(value) = http::HeaderValue::from_bytes(&value) else { return Ok(()) };
        let mut request = Request::builder().uri("/v2/a/manifests/x");
        for name in ["accept", "range", "if-range", "if-none-match", "via"] {
            request = request.header(name, value.clone());
        }
        let (status, _) = ask(request.body(Body::empty()).unwrap());
        prop_assert_eq!(status, 404);
    }
}
