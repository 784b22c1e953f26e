//! Which registries a client may make the node ask: the allow and deny lists of a running node.

use serde_json::Value;
use shoal_tests::client::{Answer, Client};
use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::node::Settings;

/// A node with this policy; its upstream, known as two registries, holds an image.
async fn fleet(policy: &str) -> (Fleet<Faulty>, Image, Client) {
    let mut fleet = Fleet::with_faulty_upstream(0).await.unwrap();
    let settings = Settings { config: format!("[policy]\n{policy}\n"), ..fleet.settings() };
    fleet.grow_with(settings).await.unwrap();
    let image = synthetic::image(fleet.home(), 1, &[300_000]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    let client = fleet.nodes[0].client().unwrap();
    (fleet, image, client)
}

/// What is refused is a miss, so that the client goes on to its next host, and the error says whose rule it was.
fn assert_denied(answer: &Answer, code: &str, list: &str) {
    assert_eq!(answer.status.as_u16(), 404, "{answer:?}");
    assert_eq!(answer.error_code().unwrap(), code, "{answer:?}");
    assert!(answer.header("content-type").starts_with("application/json"), "{answer:?}");
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["errors"][0]["detail"]["code"], "DENIED", "{body}");
    assert!(body["errors"][0]["message"].as_str().unwrap().contains(list), "{body}");
}

/// Every endpoint, with the registry in `ns` and in the path.
fn requests(registry: &str, digest: &str) -> Vec<(String, &'static str)> {
    let endpoints = [
        ("manifests/1".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("manifests/{digest}"), "MANIFEST_UNKNOWN"),
        (format!("blobs/{digest}"), "BLOB_UNKNOWN"),
        ("tags/list".to_owned(), "NAME_UNKNOWN"),
    ];
    let both = endpoints.map(|(endpoint, code)| {
        [
            (format!("/v2/some/image/{endpoint}?ns={registry}"), code),
            (format!("/v2/{registry}/some/image/{endpoint}"), code),
        ]
    });
    both.into_iter().flatten().collect()
}

async fn assert_all_denied(client: &Client, registry: &str, image: &Image, list: &str) {
    for (path, code) in requests(registry, &image.layers[0].digest) {
        assert_denied(&client.get(&path).await.unwrap(), code, list);
        let head = client.send(http::Method::HEAD, &path, &[]).await.unwrap();
        assert_eq!(head.status.as_u16(), 404, "HEAD {path}: {head:?}");
    }
}

#[tokio::test]
async fn what_is_denied_is_never_asked() {
    let (fleet, image, client) = fleet("deny = [\"registry.test\", \"*.example.com\"]").await;
    assert_all_denied(&client, REGISTRY, &image, "policy.deny").await;
    for registry in ["a.b.example.com", "REGISTRY.test", "registry.test:443", "registry.test:8443"] {
        let answer = client.get(&format!("/v2/some/image/manifests/1?ns={registry}")).await.unwrap();
        assert_denied(&answer, "MANIFEST_UNKNOWN", "policy.deny");
    }
    assert_eq!(fleet.registry.seen().len(), 0, "upstream was asked: {:#?}", fleet.registry.seen());
    // The others are as they were.
    client.pull("docker.io/some/image", "1", &image).await.unwrap();
}

#[tokio::test]
async fn with_an_allow_list_nothing_else_is_asked() {
    let (fleet, image, client) = fleet("allow = [\"registry.test\"]").await;
    assert_all_denied(&client, "docker.io", &image, "policy.allow").await;
    assert_all_denied(&client, "ghcr.io", &image, "policy.allow").await;
    // A client that names no registry means Docker Hub.
    let answer = client.get("/v2/some/image/manifests/1").await.unwrap();
    assert_denied(&answer, "MANIFEST_UNKNOWN", "policy.allow");
    assert_eq!(fleet.registry.seen().len(), 0, "upstream was asked: {:#?}", fleet.registry.seen());
    client.pull("registry.test/some/image", "1", &image).await.unwrap();
}

#[tokio::test]
async fn what_is_denied_is_denied_though_it_is_allowed() {
    let (fleet, image, client) = fleet("allow = [\"*\"]\ndeny = [\"registry.test\"]").await;
    assert_all_denied(&client, REGISTRY, &image, "policy.deny").await;
    assert_eq!(fleet.registry.seen().len(), 0, "upstream was asked: {:#?}", fleet.registry.seen());
    client.pull("docker.io/some/image", "1", &image).await.unwrap();
}
