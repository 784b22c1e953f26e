//! Documents and blobs of less usual kinds: Docker's manifest list, its first schema, digests by sha512.

use bytes::Bytes;
use http::Method;
use serde_json::json;
use sha2::{Digest as _, Sha512};
use shoal_tests::client::Client;
use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::Fleet;
use shoal_tests::image::{OCI_MANIFEST, digest, synthetic};

const REPOSITORY: &str = "registry.test/some/image";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const SIGNED_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex::encode(Sha512::digest(bytes)))
}

/// HEAD and GET of a manifest say what it is, and give its bytes.
async fn served(client: &Client, reference: &str, media_type: &str, digest: &str, bytes: &Bytes) {
    let path = format!("/v2/{REPOSITORY}/manifests/{reference}");
    for method in [Method::HEAD, Method::GET] {
        let answer = client.send(method.clone(), &path, &[("accept", media_type)]).await.unwrap();
        assert_eq!(answer.status.as_u16(), 200, "{method} {reference}: {answer:?}");
        assert_eq!(answer.header("content-type"), media_type, "{method} {reference}");
        assert_eq!(answer.header("docker-content-digest"), digest, "{method} {reference}");
        assert_eq!(answer.header("content-length"), bytes.len().to_string(), "{method} {reference}");
        if method == Method::GET {
            assert_eq!(answer.body, bytes, "{reference}");
        }
    }
}

/// A document under a tag and its digest: from upstream, from the store, and from a peer.
async fn served_everywhere(fleet: &Fleet<Faulty>, media_type: &str, bytes: &Bytes) {
    let digest = digest(bytes);
    // A tag of its own: one that moves is seen a little later.
    let tag = &digest[digest.len() - 12..];
    for reference in [tag, &digest] {
        fleet.registry.hold_manifest(reference, media_type, bytes.clone());
    }
    for node in &fleet.nodes {
        let client = node.client().unwrap();
        for reference in [digest.as_str(), tag, &digest] {
            served(&client, reference, media_type, &digest, bytes).await;
        }
    }
    let by_digest =
        |seen: &&shoal_tests::faulty::Seen| seen.method == Method::GET && seen.target.contains(&digest);
    let reads = fleet.registry.seen().iter().filter(by_digest).count();
    assert_eq!(reads, 1, "the second node asked upstream, not the first node");
}

#[tokio::test]
async fn a_docker_manifest_list_is_served_as_one() {
    let fleet = Fleet::with_faulty_upstream(2).await.unwrap();
    let image = synthetic::image(fleet.home(), 1, &[1000]).unwrap();
    let list = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_LIST,
        "manifests": [{
            "mediaType": image.manifest.media_type,
            "digest": image.manifest.digest,
            "size": image.manifest.bytes.len(),
            "platform": { "architecture": "amd64", "os": "linux" },
        }],
    });
    served_everywhere(&fleet, DOCKER_LIST, &Bytes::from(format!("{list:#}\n"))).await;
}

fn schema_1(signed: bool) -> Bytes {
    let mut document = json!({
        "schemaVersion": 1,
        "name": "some/image",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": [{ "blobSum": digest(b"layer") }],
        "history": [{ "v1Compatibility": "{\"id\":\"0\"}" }],
    });
    if signed {
        document["signatures"] = json!([{
            "header": { "alg": "ES256" },
            "signature": "c2lnbmF0dXJl",
            "protected": "eyJmb3JtYXRMZW5ndGgiOjF9",
        }]);
    }
    Bytes::from(format!("{document:#}"))
}

/// Its digest is taken over other bytes than are sent; by the digest of the bytes it is carried like any other.
#[tokio::test]
async fn schema_1_is_served_as_what_it_is() {
    let fleet = Fleet::with_faulty_upstream(2).await.unwrap();
    served_everywhere(&fleet, SIGNED_SCHEMA_1, &schema_1(true)).await;
    let fleet = Fleet::with_faulty_upstream(2).await.unwrap();
    served_everywhere(&fleet, SCHEMA_1, &schema_1(false)).await;
}

/// A blob and a manifest that are named by sha512, from upstream, from the store, and from a peer.
#[tokio::test]
async fn sha512_works_like_sha256() {
    let fleet = Fleet::with_faulty_upstream(2).await.unwrap();
    let blobs = [3_000_001, 10, 0].map(|size| {
        let bytes = synthetic::blob(fleet.home(), 1, size).unwrap().bytes().unwrap();
        (sha512(&bytes), Bytes::from(bytes))
    });
    let [layer, config, empty] = &blobs;
    let descriptor = |(digest, bytes): &(String, Bytes)| json!({ "mediaType": "x/y", "digest": digest, "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config),
        "layers": [descriptor(layer), descriptor(empty)],
    });
    let manifest = Bytes::from(format!("{manifest:#}"));
    let name = sha512(&manifest);
    fleet.registry.hold_manifest(&name, OCI_MANIFEST, manifest.clone());
    for (digest, bytes) in &blobs {
        fleet.registry.hold_blob_as(digest, bytes.clone());
    }
    for node in &fleet.nodes {
        let client = node.client().unwrap();
        // Twice: fetched, and held.
        for _ in 0..2 {
            served(&client, &name, OCI_MANIFEST, &name, &manifest).await;
            for (digest, bytes) in &blobs {
                let answer = client.get(&format!("/v2/{REPOSITORY}/blobs/{digest}")).await.unwrap();
                assert_eq!(answer.status.as_u16(), 200, "{digest}: {answer:?}");
                assert!(answer.body == bytes, "{digest}: other bytes");
                assert_eq!(answer.header("docker-content-digest"), *digest);
            }
        }
    }
    let traffic = fleet.nodes[1].status().await.unwrap().traffic;
    assert_eq!(traffic.upstream.bytes, 0, "the second node took bytes from upstream: {traffic:?}");
    assert!(traffic.peer.bytes >= 3_000_000, "{traffic:?}");
}

/// Bytes that do not have the sha512 asked for are no answer.
#[tokio::test]
async fn wrong_bytes_under_a_sha512_are_refused() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let client = fleet.nodes[0].client().unwrap();
    let promised = sha512(b"the bytes that are promised");
    let bytes = Bytes::from_static(b"some other bytes, of course");
    fleet.registry.hold_blob_as(&promised, bytes.clone());
    fleet.registry.hold_manifest(&promised, OCI_MANIFEST, bytes);
    for kind in ["blobs", "manifests"] {
        let answer = client.get(&format!("/v2/{REPOSITORY}/{kind}/{promised}")).await.unwrap();
        assert_eq!(answer.status.as_u16(), 502, "{kind}: {answer:?}");
        assert_eq!(answer.error_code().unwrap(), "UNAVAILABLE", "{kind}");
    }
    assert_eq!(fleet.nodes[0].status().await.unwrap().store.blobs, 0);
}
