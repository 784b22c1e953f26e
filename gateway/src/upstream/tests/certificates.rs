//! The certificate that this node shows, and for whom.

use http::HeaderValue;

use super::fake::{Fake, answer, hello};
use super::redirects::leads_to;
use super::trust::Authority;
use super::*;
use crate::upstream::identity::{ClientLogin, Identity};

/// A registry that gives what it holds to who shows a certificate.
async fn for_the_certified(authority: &Authority) -> Fake {
    Fake::listening("127.0.0.1:0", Some(authority.asking_acceptor(false)), |asked| {
        if asked.certified { hello() } else { answer(401, &[], "") }
    })
    .await
}

/// A registry at this URL, which is shown a certificate and nothing else.
fn shown(url: impl Into<String>, authority: &Authority, access: Access) -> UpstreamSettings {
    UpstreamSettings {
        ca: Some(authority.file()),
        client_cert: Some(authority.client()),
        credentials: Some(Credentials { from: None, access: Some(access) }),
        ..at(url)
    }
}

fn login() -> ClientLogin {
    ClientLogin::read(&HeaderValue::from_static("Basic Ym9iOnNlY3JldA=="), &[7; 32]).unwrap()
}

/// Nobody else gets what the operator does, and this is what upstream says.
async fn is_denied_to_others(node: &Upstreams, expected: u16) {
    for other in [Identity::Anonymous, Identity::Client(login())] {
        let error = get(&node.named(other), "reg.test").await.unwrap_err();
        assert!(matches!(error, PullError::Denied { status, .. } if status == expected), "{error}");
    }
}

fn problem(table: UpstreamSettings) -> String {
    let upstreams = [("reg.test".to_owned(), table)].into();
    let settings = Settings { upstreams, ..Default::default() };
    Upstreams::with_limits(settings, "shoal/test", "shoal-self", LIMITS).unwrap_err().to_string()
}

#[tokio::test]
async fn it_is_shown_for_the_operator_alone() {
    let authority = Authority::new();
    let registry = for_the_certified(&authority).await;
    let name = "reg.test".parse().unwrap();
    for access in [Access::Cluster, Access::Verify, Access::Challenge] {
        let node = upstreams([("reg.test", shown(registry.https(), &authority, access))]);
        assert_eq!(node.everyone(&name) == Identity::Node, access == Access::Cluster);
        // It is the operator's credential: what a client lends is not wanted beside it.
        node.lend(&scope("reg.test"), login(), Duration::from_mins(1));
        // The second time over connections that were kept.
        for _ in 0..2 {
            assert_eq!(get(&node, "reg.test").await.unwrap(), b"hello");
            is_denied_to_others(&node, 401).await;
        }
    }
}

#[tokio::test]
async fn who_shows_none_is_refused_where_tls_itself_wants_one() {
    let authority = Authority::new();
    let registry = Fake::listening("127.0.0.1:0", Some(authority.asking_acceptor(true)), |_| hello()).await;
    let node = upstreams([("reg.test", shown(registry.https(), &authority, Access::Verify))]);
    assert_eq!(get(&node, "reg.test").await.unwrap(), b"hello");
    let error = get(&node.named(Identity::Anonymous), "reg.test").await.unwrap_err();
    assert!(matches!(error, PullError::Denied { status: 401, .. }), "{error}");
    assert!(!node.is_down(&"reg.test".parse().unwrap(), Duration::from_mins(1)), "it has answered");
}

#[tokio::test]
async fn a_token_that_it_is_worth_is_the_operators() {
    let authority = Authority::new();
    let registry = Fake::listening("127.0.0.1:0", Some(authority.asking_acceptor(false)), |asked| {
        if asked.path.starts_with("/token") {
            let token = if asked.certified { "operator" } else { "nobody" };
            return answer(200, &[], format!(r#"{{"token":"{token}"}}"#));
        }
        match asked.header("authorization") {
            "Bearer operator" => hello(),
            "Bearer nobody" => answer(403, &[], ""),
            _ => {
                let realm = format!("Bearer realm=\"https://{}/token\"", asked.header("host"));
                answer(401, &[("www-authenticate", &realm)], "")
            }
        }
    })
    .await;
    let node = upstreams([("reg.test", shown(registry.https(), &authority, Access::Verify))]);
    for _ in 0..2 {
        assert_eq!(get(&node, "reg.test").await.unwrap(), b"hello");
        is_denied_to_others(&node, 403).await;
    }
}

#[tokio::test]
async fn it_stays_at_the_registry_itself() {
    let authority = Authority::new();
    let storage = Fake::listening("127.0.0.1:0", Some(authority.asking_acceptor(false)), |_| hello()).await;
    let location = storage.https();
    let registry = Fake::listening("127.0.0.1:0", Some(authority.asking_acceptor(false)), move |asked| {
        let location = if asked.path == "/here" { &location } else { "/here" };
        answer(307, &[("location", location)], "")
    })
    .await;
    let node = upstreams([("reg.test", shown(registry.https(), &authority, Access::Cluster))]);
    assert_eq!(get(&node, "reg.test").await.unwrap(), b"hello");
    let asked = registry.asked();
    assert!(asked.len() == 2 && asked.iter().all(|asked| asked.certified), "{asked:?}");
    // At another port of the same host.
    let asked = storage.asked();
    assert!(asked.len() == 1 && !asked[0].certified, "{asked:?}");
}

#[tokio::test]
async fn no_other_registry_leads_to_where_it_is_shown() {
    let authority = Authority::new();
    let registry = for_the_certified(&authority).await;
    let url = format!("https://localhost:{}", registry.address.port());
    let leads = Fake::start(leads_to(format!("{url}/v2/some/secret"))).await;
    let node = upstreams([
        ("reg.test", shown(url, &authority, Access::Cluster)),
        ("leads.test", with_login(at(leads.http()))),
    ]);
    assert_eq!(get(&node, "reg.test").await.unwrap(), b"hello");
    let error = get(&node, "leads.test").await.unwrap_err().to_string();
    assert!(error.contains("where it leads, answered 401"), "{error}");
    assert!(registry.asked().last().is_some_and(|asked| !asked.certified));
}

#[tokio::test]
async fn no_mirror_is_shown_it() {
    let authority = Authority::new();
    let mirror = for_the_certified(&authority).await;
    let registry = for_the_certified(&authority).await;
    let (url, ca) = (mirror.https(), Some(authority.file()));
    // It is sent the login that is shown beside the certificate.
    let mirrors = vec![MirrorSettings { url, ca, credentials: true, ..Default::default() }];
    let table = with_login(shown(registry.https(), &authority, Access::Cluster));
    let table = UpstreamSettings { mirrors, ..table };
    assert_eq!(get(&upstreams([("reg.test", table)]), "reg.test").await.unwrap(), b"hello");
    let asked = mirror.asked();
    assert!(asked.len() == 1 && !asked[0].certified, "{asked:?}");
}

#[test]
fn who_may_use_it_is_said_and_it_can_be_used() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = shown("https://reg.test", &authority, Access::Verify);

    let said = problem(UpstreamSettings { credentials: None, ..good.clone() });
    assert!(said.contains("\"reg.test\".client_cert is a credential"), "{said}");
    assert!(
        said.contains("credentials = { access = … }") && said.contains("access = \"cluster\": "),
        "{said}"
    );
    let said = problem(UpstreamSettings { client_cert: None, ..good.clone() });
    assert!(said.contains("\"reg.test\".credentials: there is no login"), "{said}");

    let url = "https://mirror.test".to_owned();
    let mirrors = vec![MirrorSettings { url, credentials: true, ..Default::default() }];
    let said = problem(UpstreamSettings { mirrors, ..good.clone() });
    assert!(said.contains("no login, and the mirror https://mirror.test"), "{said}");

    let said = problem(UpstreamSettings { client_key: Some(other.client()), ..good });
    assert!(said.contains("client_cert") && said.contains("holds nothing that can be shown"), "{said}");
}
