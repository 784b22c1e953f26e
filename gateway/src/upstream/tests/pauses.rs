//! Registries that want to be left alone.

use super::fake::{Fake, answer, hello};
use super::*;
use crate::upstream::identity::{ClientLogin, Identity};

#[tokio::test]
async fn a_retry_after_is_a_pause_without_requests() {
    for (status, time) in [(429, "30"), (503, "30"), (429, "")] {
        let registry = Fake::start(move |_| match time {
            "" => answer(status, &[], ""),
            time => answer(status, &[("retry-after", time)], ""),
        })
        .await;
        let upstreams = upstreams([("reg.test", at(registry.http()))]);
        for _ in 0..5 {
            let error = get(&upstreams, "reg.test").await.unwrap_err();
            let PullError::Throttled { status: told, retry_after: Some(left), .. } = error else {
                panic!("{status}: {error}")
            };
            assert_eq!(told, status);
            let (least, most) = if time.is_empty() { (1, 3) } else { (25, 30) };
            assert!(left > Duration::from_secs(least) && left <= Duration::from_secs(most), "{left:?}");
        }
        assert_eq!(registry.asked().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_503_without_a_time_is_a_failure_like_any_other() {
    let registry = Fake::start(|_| answer(503, &[], "")).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    for _ in 0..2 {
        let error = get(&upstreams, "reg.test").await.unwrap_err();
        assert!(matches!(error, PullError::Upstream { status: Some(503), .. }), "{error}");
    }
    assert_eq!(registry.asked().len(), 2);
}

#[tokio::test]
async fn one_registrys_pause_is_not_anothers() {
    let busy = Fake::start(|_| answer(429, &[("retry-after", "30")], "")).await;
    let idle = Fake::start(|_| hello()).await;
    let upstreams = upstreams([("busy.test", at(busy.http())), ("idle.test", at(idle.http()))]);
    get(&upstreams, "busy.test").await.unwrap_err();
    assert_eq!(get(&upstreams, "idle.test").await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_pause_that_others_tell_of_is_kept_and_not_told_on() {
    let registry = Fake::start(|_| hello()).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let told = |retry_after| PullError::Throttled { registry: "reg.test".into(), status: 429, retry_after };
    let name = "reg.test".parse().unwrap();
    // Without a time there is nothing to keep.
    upstreams.heard(&name, &told(None));
    assert_eq!(get(&upstreams, "reg.test").await.unwrap(), b"hello");
    upstreams.heard(&name, &told(Some(Duration::from_secs(30))));
    let error = get(&upstreams, "reg.test").await.unwrap_err();
    assert!(matches!(error, PullError::Throttled { status: 429, retry_after: None, .. }), "{error}");
    assert_eq!(registry.asked().len(), 1);
}

#[tokio::test]
async fn what_a_client_has_used_up_pauses_nobody_else() {
    let registry = Fake::start(|request| match request.header("authorization") {
        "" => hello(),
        _ => answer(429, &[("retry-after", "30")], ""),
    })
    .await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let login = ClientLogin::read(&"Bearer used-up".parse().unwrap(), &[0; 32]).unwrap();
    let error = get(&upstreams.named(Identity::Client(login)), "reg.test").await.unwrap_err();
    assert!(matches!(error, PullError::Throttled { status: 429, retry_after: None, .. }), "{error}");
    assert_eq!(get(&upstreams, "reg.test").await.unwrap(), b"hello");
}

#[tokio::test]
async fn what_a_client_may_still_ask_is_not_what_this_node_may() {
    let registry = Fake::start(|request| match request.header("authorization") {
        "" => answer(200, &[("ratelimit-remaining", "90;w=60")], "hello"),
        _ => answer(200, &[("ratelimit-remaining", "1;w=60")], "hello"),
    })
    .await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    get(&upstreams, "reg.test").await.unwrap();
    let login = ClientLogin::read(&"Bearer nearly-used-up".parse().unwrap(), &[0; 32]).unwrap();
    get(&upstreams.named(Identity::Client(login)), "reg.test").await.unwrap();
    let left: Vec<u64> =
        upstreams.allowances().into_iter().map(|(_, allowance)| allowance.remaining).collect();
    assert_eq!(left, [90]);
}
