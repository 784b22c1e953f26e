//! Where a registry may lead.

use super::fake::{Asked, Fake, answer, hello};
use super::trust::Authority;
use super::*;

pub(super) fn leads_to(url: String) -> impl Fn(&Asked) -> http::Response<axum::body::Body> {
    move |_| answer(307, &[("location", &url)], "")
}

#[tokio::test]
async fn authorization_stays_at_the_registry() {
    let storage = Fake::start(|_| hello()).await;
    let location = format!("{}/signed?sig=1", storage.http());
    let registry = Fake::start(move |asked| match asked.header("authorization") {
        "" => answer(401, &[("www-authenticate", "Basic realm=\"reg\"")], ""),
        _ => answer(307, &[("location", &location)], ""),
    })
    .await;
    let upstreams = upstreams([("reg.test", with_login(at(registry.http())))]);
    assert_eq!(get(&upstreams, "reg.test").await.unwrap(), b"hello");
    let [signed] = &storage.asked()[..] else { panic!("{:?}", storage.asked()) };
    assert_eq!((signed.path.as_str(), signed.header("authorization")), ("/signed?sig=1", ""));
    assert_eq!(signed.header("referer"), "");
}

#[tokio::test]
async fn a_circle_of_redirects_ends() {
    let registry = Fake::start(leads_to("/v2/again".to_owned())).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let error = get(&upstreams, "reg.test").await.unwrap_err().to_string();
    assert!(error.contains("redirects more than 5 times"), "{error}");
    assert_eq!(registry.asked().len(), 6);
}

#[tokio::test]
async fn no_way_leads_from_https_to_http() {
    let storage = Fake::start(|_| hello()).await;
    let authority = Authority::new();
    let answer = leads_to(storage.http());
    let registry = Fake::listening("127.0.0.1:0", Some(authority.acceptor()), answer).await;
    let table = UpstreamSettings { ca: Some(authority.file()), ..at(registry.https()) };
    let upstreams = upstreams([("reg.test", table)]);
    let error = get(&upstreams, "reg.test").await.unwrap_err();
    assert!(matches!(&error, PullError::Refused(why) if why.contains("without TLS")), "{error}");
    assert!(storage.asked().is_empty());
}

#[tokio::test]
async fn nobody_leads_to_a_private_address_that_is_not_configured() {
    let private = Fake::start(|_| hello()).await;
    let port = private.address.port();
    for (url, why) in [
        (format!("https://127.0.0.2:{port}/"), "no public address"),
        (format!("https://localhost:{port}/"), "no public address"),
        (format!("http://localhost:{port}/"), "without TLS"),
        ("https://169.254.169.254/latest/meta-data".to_owned(), "no public address"),
        ("https://[::ffff:127.0.0.1]/".to_owned(), "no public address"),
        ("file:///etc/passwd".to_owned(), "other than http and https"),
        ("https://ann:secret@example.com/".to_owned(), "user or password"),
    ] {
        let registry = Fake::start(leads_to(url.clone())).await;
        let upstreams = upstreams([("reg.test", at(registry.http()))]);
        let error = get(&upstreams, "reg.test").await.unwrap_err().to_string();
        assert!(error.contains(why), "{url}: {error}");
    }
    assert!(private.asked().is_empty());

    // What is configured may be led to, as it is configured.
    let registry = Fake::start(leads_to(format!("http://localhost:{port}/"))).await;
    let both = upstreams([
        ("reg.test", at(registry.http())),
        ("storage.test", at(format!("http://localhost:{port}"))),
    ]);
    assert_eq!(get(&both, "reg.test").await.unwrap(), b"hello");
}
