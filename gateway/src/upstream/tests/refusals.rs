//! What is a registry's word, and what only its trouble.

use super::fake::{Fake, answer, hello};
use super::*;
use crate::source::Passage;
use crate::upstream::identity::Identity;

#[tokio::test]
async fn a_4xx_is_a_registrys_word_unless_it_asks_to_be_asked_again() {
    for status in [400, 410, 412, 451, 408, 421, 425, 500, 502] {
        let registry = Fake::start(move |_| answer(status, &[], "")).await;
        let upstreams = upstreams([("reg.test", at(registry.http()))]);
        let error = get(&upstreams, "reg.test").await.unwrap_err();
        let is_word = matches!(error, PullError::Rejected { status: told, .. } if told == status);
        assert_eq!(is_word, [400, 410, 412, 451].contains(&status), "{error}");
        assert_eq!(error.status(), Some(status));
    }
}

#[tokio::test]
async fn storage_does_not_speak_for_the_registry() {
    let storage = Fake::start(|_| answer(403, &[], "")).await;
    let location = storage.http();
    let registry = Fake::start(move |_| answer(307, &[("location", &location)], "")).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let error = get(&upstreams, "reg.test").await.unwrap_err();
    assert!(matches!(error, PullError::Upstream { status: Some(403), .. }), "{error}");
}

#[tokio::test]
async fn a_mirror_that_is_well_does_not_make_its_registry_well() {
    let registry = Fake::start(|_| answer(500, &[], "")).await;
    let mirror = Fake::start(|_| hello()).await;
    let mirrors = vec![MirrorSettings { url: mirror.http(), ..Default::default() }];
    let upstreams = upstreams([("reg.test", UpstreamSettings { mirrors, ..at(registry.http()) })]);
    let (name, minute) = ("reg.test".parse().unwrap(), Duration::from_mins(1));
    let check = upstreams.named(Identity::Anonymous).directly();
    check.blob_size(&scope("reg.test"), &digest()).await.unwrap_err();
    assert!(upstreams.is_down(&name, minute));
    assert_eq!(get(&upstreams, "reg.test").await.unwrap(), b"hello");
    assert!(upstreams.is_down(&name, minute), "it was not asked meanwhile");
    assert_eq!(mirror.asked().len(), 1);
}

#[tokio::test]
async fn a_query_that_a_registry_fails_at_does_not_make_it_down() {
    let registry = Fake::start(|_| answer(500, &[], "")).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let (name, minute) = ("reg.test".parse().unwrap(), Duration::from_mins(1));
    upstreams.pass(&scope("reg.test"), Passage::Tags, "last=%00").await.unwrap_err();
    assert!(!upstreams.is_down(&name, minute) && !upstreams.is_silent(&name, minute));
}
