//! Tokens, passwords, and who is not given them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use http::Response;

use super::fake::{Asked, Fake, answer, hello};
use super::*;

/// `ann:secret`.
const LOGIN: &str = "Basic YW5uOnNlY3JldA==";

/// A registry that gives what it holds only for the token that its `/token` gave last.
async fn with_tokens(forget_first: bool) -> Fake {
    let given = Arc::new(AtomicUsize::new(0));
    Fake::start(move |asked| token_answer(asked, &given, forget_first)).await
}

fn token_answer(asked: &Asked, given: &AtomicUsize, forget_first: bool) -> Response<Body> {
    if asked.path.starts_with("/token") {
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        return answer(200, &[], format!(r#"{{"token":"t{number}","expires_in":300}}"#));
    }
    let wanted = if forget_first { 2 } else { 1 };
    if asked.header("authorization") == format!("Bearer t{wanted}") {
        return hello();
    }
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"reg\"", asked.header("host"));
    answer(401, &[("www-authenticate", &realm)], "")
}

#[tokio::test]
async fn many_layers_cost_one_token_request() {
    let registry = with_tokens(false).await;
    let upstreams = upstreams([("reg.test", with_login(at(registry.http())))]);
    let pulls = (0..20).map(|_| get(&upstreams, "reg.test"));
    for pulled in futures::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap(), b"hello");
    }
    let asked = registry.asked();
    let tokens: Vec<&Asked> = asked.iter().filter(|asked| asked.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert_eq!(tokens[0].path, "/token?service=reg&scope=repository%3Ateam%2Fapp%3Apull");
    assert_eq!(tokens[0].header("authorization"), LOGIN);
    // The password itself goes to the token service alone.
    assert!(
        asked.iter().all(|asked| asked.path.starts_with("/token") || asked.header("authorization") != LOGIN)
    );

    // Nor does the next pull need another.
    get(&upstreams, "reg.test").await.unwrap();
    assert_eq!(registry.asked().len(), asked.len() + 1);
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let registry = with_tokens(true).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let error = get(&upstreams, "reg.test").await.unwrap_err();
    assert!(matches!(error, PullError::Denied { status: 401, .. }), "{error}");
    assert_eq!(get(&upstreams, "reg.test").await.unwrap(), b"hello");
    let tokens = registry.paths().iter().filter(|path| path.starts_with("/token")).count();
    assert_eq!(tokens, 2);
}

#[tokio::test]
async fn a_password_where_it_is_asked_for() {
    let registry = Fake::start(|asked| match asked.header("authorization") {
        LOGIN => hello(),
        _ => answer(401, &[("www-authenticate", "Basic realm=\"reg\"")], ""),
    })
    .await;
    let known = upstreams([("reg.test", with_login(at(registry.http())))]);
    assert_eq!(get(&known, "reg.test").await.unwrap(), b"hello");
    assert_eq!(registry.asked()[0].header("authorization"), "", "it was not asked for yet");

    let anonymous = upstreams([("reg.test", at(registry.http()))]);
    let error = get(&anonymous, "reg.test").await.unwrap_err();
    assert!(matches!(error, PullError::Denied { status: 401, .. }), "{error}");
}

/// A realm elsewhere, in the operator's own network: it is not even asked, unless the operator listed it.
#[tokio::test]
async fn a_foreign_realm_gets_no_credentials() {
    let foreign = Fake::start(|_| answer(200, &[], r#"{"token":"t"}"#)).await;
    // Another host by name, whatever it resolves to.
    let host = format!("localhost:{}", foreign.address.port());
    let realm = format!("Bearer realm=\"http://{host}/token\"");
    let registry = Fake::start(move |asked| match asked.header("authorization") {
        "Bearer t" => hello(),
        _ => answer(401, &[("www-authenticate", &realm)], ""),
    })
    .await;
    let unlisted = upstreams([("reg.test", with_login(at(registry.http())))]);
    let error = get(&unlisted, "reg.test").await.unwrap_err();
    assert!(matches!(&error, PullError::Refused(why) if why.contains("no public address")), "{error}");
    assert!(foreign.asked().is_empty());

    let table = UpstreamSettings { token_realms: vec![host], ..with_login(at(registry.http())) };
    let listed = upstreams([("reg.test", table)]);
    assert_eq!(get(&listed, "reg.test").await.unwrap(), b"hello");
    assert_eq!(foreign.asked()[0].header("authorization"), LOGIN);
}
