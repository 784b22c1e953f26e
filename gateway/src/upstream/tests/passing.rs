//! Tag lists: queries, links, bounds.

use axum::body::Body;
use http::header::LINK;

use super::fake::{Fake, answer};
use super::*;
use crate::source::{Passage, Passed};

async fn pass(registry: &Fake, path: &str, query: &str) -> Result<Passed, PullError> {
    let upstreams = upstreams([("reg.test", at(format!("{}{path}", registry.http())))]);
    upstreams.pass(&scope("reg.test"), Passage::Tags, query).await
}

#[tokio::test]
async fn the_query_goes_on_and_the_answer_comes_back() {
    let registry = Fake::start(|_| {
        let headers = [("content-type", "application/json; charset=utf-8"), ("set-cookie", "a=b")];
        answer(200, &headers, r#"{"tags":["v1"]}"#)
    })
    .await;
    let passed = pass(&registry, "", "n=2&last=a%26b").await.unwrap();
    assert_eq!(registry.paths(), ["/v2/team/app/tags/list?n=2&last=a%26b"]);
    assert_eq!(passed.body, r#"{"tags":["v1"]}"#);
    let kept: Vec<&str> = passed.headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(kept, ["content-type"]);
}

#[tokio::test]
async fn links_that_stay_in_the_repository_are_made_relative() {
    let page = "/v2/team/app/tags/list?last=b&n=2";
    let next = |target: &str| format!("<{target}>; rel=\"next\"");
    for (prefix, target, kept) in [
        ("", page, true),
        ("", "list?last=b&n=2", true),
        ("", "http://HOST/v2/team/app/tags/list?last=b&n=2", true),
        // A registry behind a proxy that speaks TLS for it, or maps its port.
        ("", "https://HOST/v2/team/app/tags/list?last=b&n=2", true),
        ("", "http://127.0.0.1/v2/team/app/tags/list?last=b&n=2", true),
        ("/proxy", "/proxy/v2/team/app/tags/list?last=b&n=2", true),
        // Or that does not know under which path it was put.
        ("/proxy", page, true),
        ("", "https://evil.example/v2/team/app/tags/list?last=b&n=2", false),
        ("", "/v2/team/application/tags/list", false),
        ("", "/v2/other/tags/list", false),
        ("", "/token", false),
        ("", "//evil.example/v2/team/app/tags/list", false),
    ] {
        let link = next(target);
        let registry = Fake::start(move |asked| {
            let link = link.replace("HOST", asked.header("host"));
            answer(200, &[("link", &link)], "{}")
        })
        .await;
        let passed = pass(&registry, prefix, "n=2").await.unwrap();
        let got = passed.headers.get(LINK).map(|link| link.to_str().unwrap().to_owned());
        assert_eq!(got, kept.then(|| next(page)), "{prefix} {target}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_not_passed() {
    for told in [true, false] {
        let registry = Fake::start(move |_| {
            let body = vec![b' '; 4 * 1024 * 1024 + 1];
            if told {
                return answer(200, &[], body);
            }
            let pieces = futures::stream::iter([Ok::<_, std::io::Error>(body)]);
            answer(200, &[], Body::from_stream(pieces))
        })
        .await;
        let error = pass(&registry, "", "").await.unwrap_err();
        assert!(matches!(&error, PullError::TooLarge(text) if text.contains("with n")), "{error}");
    }
    let registry = Fake::start(|_| answer(200, &[], "{}")).await;
    let error = pass(&registry, "", &"n=1&".repeat(2000)).await.unwrap_err();
    assert!(matches!(error, PullError::TooLarge(_)), "{error}");
    assert!(registry.asked().is_empty());
}
