//! What is answered when all is well, and what when the source fails.

use http::HeaderValue;
use serde_json::json;
use shoal_proto::digest::Digest;
use shoal_proto::manifest::{DOCKER_LIST, OCI_MANIFEST};

use super::*;
use crate::error::PullError;
use crate::memory::Trouble;
use crate::source::{Passage, Passed};
use std::time::Duration;

#[tokio::test]
async fn the_base_says_what_this_is() {
    let gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    for target in ["/v2/", "/v2", "/v2/?ns=docker.io"] {
        let reply = client.get(target).await;
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"{}"[..]));
        assert_eq!(reply.header("docker-distribution-api-version"), "registry/2.0");
        let reply = client.head(target).await;
        assert_eq!((reply.status, reply.header("content-length")), (200, "2"));
    }
    assert_eq!(gateway.record(5).await.what, "base");
}

#[tokio::test]
async fn a_manifest_by_tag_and_by_digest() {
    let gateway = Gateway::start().await;
    let debian = scope("docker.io/library/debian");
    let bytes = br#"{ "spaces":   "kept" }"#;
    let digest = gateway.memory.add_manifest(&debian, OCI_MANIFEST, &bytes[..]);
    gateway.memory.add_tag(&debian, &tag("12"), digest);
    let etag = format!("\"{digest}\"");
    let mut client = gateway.connect().await;
    for target in ["/v2/debian/manifests/12".to_owned(), format!("/v2/library/debian/manifests/{digest}")] {
        for method in ["GET", "HEAD"] {
            // The client names another type: what there is is sent all the same.
            let reply = client.ask(method, &target, &[("Accept", DOCKER_LIST)]).await;
            assert_eq!(reply.status, 200, "{method} {target}");
            assert_eq!(reply.header("content-type"), OCI_MANIFEST);
            assert_eq!(reply.header("docker-content-digest"), digest.to_string());
            assert_eq!(reply.header("etag"), etag);
            assert_eq!(reply.header("content-length"), bytes.len().to_string());
            assert_eq!(reply.body, if method == "GET" { &bytes[..] } else { b"" });

            let headers = [("If-None-Match", format!("\"other\", {etag}"))].map(|(n, v)| (n, v));
            let headers = headers.each_ref().map(|(n, v)| (*n, v.as_str()));
            let reply = client.ask(method, &target, &headers).await;
            assert_eq!((reply.status, reply.header("etag")), (304, etag.as_str()));
            assert!(reply.body.is_empty());
            assert_eq!(client.ask(method, &target, &[("If-None-Match", "\"other\"")]).await.status, 200);
        }
    }
    let record = gateway.record(0).await;
    assert_eq!((record.what, record.status, record.bytes), ("manifest", 200, bytes.len() as u64));
    assert_eq!((record.scope, record.reference.as_deref()), (Some(debian), Some("12")));
    assert_eq!(record.ended, Ended::Whole);
}

#[tokio::test]
async fn all_accept_lines_reach_the_source() {
    let gateway = Gateway::start().await;
    let scope = scope("ghcr.io/a/b");
    let digest = gateway.memory.add_manifest(&scope, OCI_MANIFEST, "{}");
    gateway.memory.add_tag(&scope, &tag("1"), digest);
    let mut client = gateway.connect().await;
    let accept = [("Accept", "a/b;q=0.5, c/d"), ("accept", "e/f; q=0"), ("ACCEPT", "*/*;q=0.1")];
    assert_eq!(client.ask("HEAD", "/v2/a/b/manifests/1?ns=ghcr.io", &accept).await.status, 200);
    assert_eq!(gateway.memory.accepted().unwrap().0, ["a/b", "c/d", "*/*"]);
}

#[tokio::test]
async fn each_way_to_name_a_registry() {
    let gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    for (target, asked) in [
        ("/v2/debian/manifests/1", "docker.io/library/debian"),
        ("/v2/debian/manifests/1?ns=docker.io", "docker.io/library/debian"),
        ("/v2/docker.io/debian/manifests/1", "docker.io/library/debian"),
        ("/v2/docker.io/library/debian/manifests/1?ns=docker.io", "docker.io/library/debian"),
        ("/v2/a/b/manifests/1?ns=ghcr.io", "ghcr.io/a/b"),
        ("/v2/ghcr.io/a/b/manifests/1", "ghcr.io/a/b"),
        ("/v2/ghcr.io/a/b/manifests/1?ns=ghcr.io", "ghcr.io/a/b"),
        ("/v2/ghcr.io/a/b/manifests/1?ns=quay.io", "quay.io/ghcr.io/a/b"),
        ("/v2/a/manifests/1?ns=localhost%3A5000", "localhost:5000/a"),
        ("/v2/localhost:5000/a/manifests/1", "localhost:5000/a"),
        ("/v2/corp/a/manifests/1", "corp/a"),
        ("/v2/other/a/manifests/1", "docker.io/other/a"),
    ] {
        assert_eq!(client.head(target).await.status, 404);
        assert_eq!(gateway.memory.asked().pop().unwrap(), format!("resolve {asked} 1"), "{target}");
    }
    assert_eq!(client.head("/v2/a/manifests/1?ns=GHCR.io").await.header("oci-namespace"), "GHCR.io");
}

/// What the source says; the status, the code (empty where it depends on what was asked for), the detail.
fn failures() -> Vec<(PullError, u16, &'static str, serde_json::Value)> {
    let registry = || "ghcr.io".to_owned();
    vec![
        (
            PullError::NotFound { registry: registry() },
            404,
            "",
            json!({"upstream": "ghcr.io", "status": 404}),
        ),
        (
            PullError::Denied { registry: registry(), status: 401 },
            404,
            "",
            json!({"upstream": "ghcr.io", "status": 401, "code": "UNAUTHORIZED"}),
        ),
        (
            PullError::Denied { registry: registry(), status: 403 },
            404,
            "",
            json!({"upstream": "ghcr.io", "status": 403, "code": "DENIED"}),
        ),
        (
            PullError::Throttled {
                registry: registry(),
                status: 429,
                retry_after: Some(Duration::from_secs(7)),
            },
            404,
            "",
            json!({"upstream": "ghcr.io", "status": 429, "code": "TOOMANYREQUESTS", "retryAfterSeconds": 7}),
        ),
        (
            PullError::Private { registry: registry(), wrong: false, challenge: false },
            404,
            "",
            json!({"upstream": "ghcr.io", "code": "UNAUTHORIZED", "reason": "private"}),
        ),
        (
            PullError::Private { registry: registry(), wrong: false, challenge: true },
            401,
            "UNAUTHORIZED",
            json!({"upstream": "ghcr.io", "code": "UNAUTHORIZED", "reason": "private"}),
        ),
        (
            PullError::Private { registry: registry(), wrong: true, challenge: true },
            404,
            "",
            json!({"upstream": "ghcr.io", "code": "DENIED", "reason": "private"}),
        ),
        (PullError::Refused("the deny list names ghcr.io".into()), 404, "", json!({"code": "DENIED"})),
        (
            PullError::Upstream { registry: registry(), status: Some(500), reason: "it says 500".into() },
            502,
            "UNAVAILABLE",
            json!({"upstream": "ghcr.io", "status": 500}),
        ),
        (PullError::Content("it differs".into()), 502, "UNAVAILABLE", json!(null)),
        (PullError::TooLarge("5 MiB is too large a manifest".into()), 413, "SIZE_INVALID", json!(null)),
        (PullError::Unavailable("its disk failed".into()), 503, "UNAVAILABLE", json!(null)),
    ]
}

#[tokio::test]
async fn a_failure_of_the_source_and_its_status() {
    let gateway = Gateway::start().await;
    let digest = Digest::sha256_of(b"x");
    let targets = [
        ("MANIFEST_UNKNOWN", "/v2/ghcr.io/a/manifests/1".to_owned()),
        ("MANIFEST_UNKNOWN", format!("/v2/ghcr.io/a/manifests/{digest}")),
        ("BLOB_UNKNOWN", format!("/v2/ghcr.io/a/blobs/{digest}")),
        ("NAME_UNKNOWN", "/v2/ghcr.io/a/tags/list".to_owned()),
        ("MANIFEST_UNKNOWN", format!("/v2/ghcr.io/a/referrers/{digest}")),
    ];
    let mut client = gateway.connect().await;
    for (error, status, code, detail) in failures() {
        gateway.memory.trouble(&scope("ghcr.io/a"), Trouble::Fail(error.clone()));
        for (unknown, target) in &targets {
            let code = if code.is_empty() { unknown } else { code };
            let reply = client.get(target).await;
            assert_eq!(reply.status, status, "{error} {target}");
            assert_eq!(reply.error(), (code.to_owned(), detail.clone()), "{error} {target}");
            // One to be repeated elsewhere, never here; and no reason to send credentials but where that is wanted.
            let challenged = matches!(error, PullError::Private { challenge: true, wrong: false, .. });
            assert!(![408, 429].contains(&reply.status) && challenged == (reply.status == 401));

            let head = client.head(target).await;
            assert_eq!(head.status, status);
            assert_eq!(head.header("content-length"), reply.header("content-length"));
            assert_eq!(head.header("content-type"), "application/json");
        }
    }
}

#[tokio::test]
async fn a_source_that_hangs_is_answered_for() {
    let gateway =
        Gateway::with(|settings| settings.answer_timeout = Duration::from_millis(200), Limits::default())
            .await;
    gateway.memory.trouble(&scope("ghcr.io/a"), Trouble::Hang);
    let mut client = gateway.connect().await;
    let digest = Digest::sha256_of(b"x");
    for target in [
        "/v2/ghcr.io/a/manifests/1".to_owned(),
        format!("/v2/ghcr.io/a/manifests/{digest}"),
        format!("/v2/ghcr.io/a/blobs/{digest}"),
        "/v2/ghcr.io/a/tags/list".to_owned(),
    ] {
        let reply = client.get(&target).await;
        assert_eq!((reply.status, reply.error().0.as_str()), (504, "UNAVAILABLE"), "{target}");
    }
}

#[tokio::test]
async fn tags_and_referrers_are_passed_through() {
    let gateway = Gateway::start().await;
    let debian = scope("docker.io/library/debian");
    let mut passed = Passed::of_type(HeaderValue::from_static("application/json"), r#"{"tags":[]}"#);
    let link = HeaderValue::from_static("</v2/library/debian/tags/list?last=a&n=1>; rel=\"next\"");
    let first = HeaderValue::from_static("</v2/library/debian/tags/list?n=1>; rel=\"first\"");
    passed.headers.insert("link", first);
    passed.headers.append("link", link);
    passed.headers.insert("set-cookie", HeaderValue::from_static("a=b"));
    gateway.memory.add_passed(&debian, &Passage::Tags, passed);
    let index = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");
    let mut passed = Passed::of_type(index, "{}");
    passed.headers.insert("oci-filters-applied", HeaderValue::from_static("artifactType"));
    let subject = Digest::sha256_of(b"x");
    gateway.memory.add_passed(&debian, &Passage::Referrers(subject), passed);

    let mut client = gateway.connect().await;
    let reply = client.get("/v2/debian/tags/list?n=1&ns=docker.io&last=%2B").await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, &br#"{"tags":[]}"#[..]));
    assert_eq!(reply.header("link"), "</v2/debian/tags/list?last=a&n=1&ns=docker.io>; rel=\"next\"");
    assert!(reply.maybe("set-cookie").is_none());
    assert_eq!(gateway.memory.asked(), ["tags docker.io/library/debian n=1&last=%2B"]);

    let reply = client.get(&format!("/v2/docker.io/debian/referrers/{subject}?artifactType=a%2Fb")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/vnd.oci.image.index.v1+json");
    assert_eq!(reply.header("oci-filters-applied"), "artifactType");
    assert_eq!(gateway.memory.asked()[1], "referrers docker.io/library/debian artifactType=a%2Fb");
}

#[tokio::test]
async fn a_request_that_was_here_before_is_a_loop() {
    let gateway = Gateway::start().await;
    let mut client = gateway.connect().await;
    for via in ["1.1 shoal-self", "1.1 other, 1.1 shoal-self (x)"] {
        let reply = client.ask("GET", "/v2/a/manifests/1", &[("Via", via)]).await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.error(), ("DENIED".to_owned(), json!({"loop": VIA})));
    }
    assert!(gateway.memory.asked().is_empty());
    // Another node of the fleet may stand behind this one.
    client.ask("GET", "/v2/a/manifests/1", &[("Via", "1.1 shoal-selfless")]).await;
    assert_eq!(gateway.memory.asked().len(), 1);
}
