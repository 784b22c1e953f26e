//! A real registry that sends its clients to a token service.

use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};
use shoal_tests::client::Client;
use shoal_tests::guarded::basic;
use shoal_tests::image::{Image, OCI_MANIFEST, synthetic};
use shoal_tests::node::{Node, Settings};
use shoal_tests::registry::{Guard, Kind, Registry};
use shoal_tests::token_server::{LEEWAY, TokenServer};

const PRIVATE: &str = "some/image";
const PUBLIC: &str = "open/image";

/// A registry that wants tokens of a service at `host`, which lets ann pull all and everyone one repository, and three
/// images in each of them.
async fn guarded(home: &Path, host: &str) -> (Registry, TokenServer, Vec<Image>) {
    let mut registry = Registry::start(Kind::Distribution, home, "registry").await.unwrap();
    let images: Vec<_> = (0..3).map(|seed| synthetic::image(home, seed, &[100_000, 2000]).unwrap()).collect();
    for (number, image) in images.iter().enumerate() {
        for repository in [PRIVATE, PUBLIC] {
            registry.push(repository, &format!("v{number}"), image).await.unwrap();
        }
    }
    let tokens = TokenServer::start(host, home).await.unwrap();
    tokens.allow(&basic("ann", "secret"));
    tokens.publish(PUBLIC);
    let (realm, keys) = (tokens.realm(), tokens.keys().to_owned());
    registry.guard(Guard::Tokens { realm, keys }).await.unwrap();
    (registry, tokens, images)
}

async fn node(home: &Path, name: &str, registry: &Registry, rest: &str) -> (Node, Client) {
    let config = format!("[upstream.\"reg.test\"]\nurl = \"{}\"\n{rest}", registry.url());
    let node = Node::start(home, name, Settings { config, ..Settings::default() }).await.unwrap();
    let client = node.client().unwrap();
    (node, client)
}

async fn status(client: &Client, repository: &str, authorization: Option<&str>) -> StatusCode {
    let accept = ("accept", OCI_MANIFEST);
    let headers: Vec<_> =
        authorization.map(|given| ("authorization", given)).into_iter().chain([accept]).collect();
    let path = format!("/v2/reg.test/{repository}/manifests/v0");
    client.send(Method::GET, &path, &headers).await.unwrap().status
}

const ANN: &str = "credentials = { username = \"ann\", password = \"secret\", access = \"cluster\" }";

#[tokio::test]
async fn a_token_is_asked_for_once_and_again_when_it_ends() {
    let home = tempfile::tempdir().unwrap();
    let (registry, tokens, images) = guarded(home.path(), "127.0.0.1").await;
    let (_node, client) = node(home.path(), "node", &registry, ANN).await;
    let pull = async |number: usize| {
        client.pull(&format!("reg.test/{PRIVATE}"), &format!("v{number}"), &images[number]).await.unwrap();
        tokens.take_asked()
    };
    let asked = pull(0).await;
    assert_eq!(asked.len(), 1, "one token does for a whole image: {asked:?}");
    assert_eq!((asked[0].authorization.as_deref(), asked[0].granted), (Some(&*basic("ann", "secret")), true));
    assert_eq!(asked[0].repository, PRIVATE);
    assert_eq!(pull(1).await, [], "it still holds");

    // The next two end sooner: the first as the service says, the second without a word.
    let (_node, client) = node(home.path(), "other", &registry, ANN).await;
    let pull = async |number: usize| {
        client.pull(&format!("reg.test/{PRIVATE}"), &format!("v{number}"), &images[number]).await.unwrap();
        tokens.take_asked().len()
    };
    tokens.lifetime(1, 300);
    assert!(pull(0).await >= 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    tokens.lifetime(300, 3 - LEEWAY);
    assert_eq!(pull(1).await, 1, "the service had said that the one before it would end");
    tokio::time::sleep(Duration::from_secs(5)).await;
    tokens.lifetime(300, 300);
    assert_eq!(pull(2).await, 1, "the registry took it no longer");
}

#[tokio::test]
async fn no_secret_is_sent_to_a_realm_that_is_not_the_registrys() {
    let home = tempfile::tempdir().unwrap();
    let (registry, tokens, images) = guarded(home.path(), "127.0.0.2").await;
    let (_node, client) = node(home.path(), "node", &registry, ANN).await;
    assert_ne!(status(&client, PRIVATE, None).await, 200);
    assert_eq!(tokens.take_asked(), [], "it is at an address of its own choice");

    let listed = format!("{ANN}\ntoken_realms = [\"{}\"]", tokens.address());
    let (_node, client) = node(home.path(), "listed", &registry, &listed).await;
    client.pull(&format!("reg.test/{PRIVATE}"), "v0", &images[0]).await.unwrap();
    assert!(tokens.take_asked().iter().all(|asked| asked.granted));
}

#[tokio::test]
async fn what_a_client_may_pull_with_its_own_secret_and_without_one() {
    let home = tempfile::tempdir().unwrap();
    let (registry, tokens, images) = guarded(home.path(), "127.0.0.1").await;
    let verify = ANN.replace("cluster", "verify");
    let (_node, client) = node(home.path(), "node", &registry, &verify).await;
    client.pull(&format!("reg.test/{PUBLIC}"), "v0", &images[0]).await.unwrap();
    let right = basic("ann", "secret");
    assert_eq!(status(&client, PRIVATE, Some(&right)).await, 200);
    // It is held now, and still not for everyone.
    tokens.take_asked();
    for authorization in [None, Some(&*basic("ann", "wrong")), Some("Bearer forged")] {
        assert_eq!(status(&client, PRIVATE, authorization).await, 404, "{authorization:?}");
    }
    let asked = tokens.take_asked();
    assert!(asked.iter().all(|asked| !asked.granted), "{asked:?}");
    assert!(
        asked.iter().any(|asked| asked.authorization.as_deref() == Some(&*basic("ann", "wrong"))),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_revoked_login_is_found_out_while_its_token_still_holds() {
    let home = tempfile::tempdir().unwrap();
    let (registry, tokens, _) = guarded(home.path(), "127.0.0.1").await;
    let verify = format!("{}\n[policy]\nclient_for = \"1s\"", ANN.replace("cluster", "verify"));
    let (_node, client) = node(home.path(), "node", &registry, &verify).await;
    tokens.allow(&basic("bob", "secret"));
    tokens.lifetime(3600, 3600);
    let right = basic("bob", "secret");
    assert_eq!(status(&client, PRIVATE, Some(&right)).await, 200);
    tokens.revoke(&right);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    tokens.take_asked();
    assert_eq!(status(&client, PRIVATE, Some(&right)).await, 404);
    assert!(tokens.take_asked().iter().any(|asked| !asked.granted), "its login was shown again");
}
