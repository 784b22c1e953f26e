//! Media types of manifests.

use shoal_proto::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

use super::*;

/// What is served as which type does not depend on who answered first.
#[tokio::test(flavor = "multi_thread")]
async fn one_registrys_word_is_not_served_to_others() {
    let registry = Registry::start().await;
    let node = Node::start(&registry).await;
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    let image = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let index_digest = registry.hold_manifest("a", OCI_MANIFEST, index);
    let image_digest = registry.hold_manifest("a", DOCKER_MANIFEST, image);
    registry.hold_manifest("b", OCI_MANIFEST, index);
    registry.hold_manifest("b", DOCKER_MANIFEST, image);
    let served = async |repository: &str, digest: &Digest| {
        let scope = scope(repository);
        let manifest = node.source.manifest(&scope, digest, &Accept::default()).await.unwrap();
        manifest.info.media_type
    };
    // Impossible for its form, so not even said once.
    assert_eq!(served("a", &index_digest).await, OCI_INDEX);
    assert_eq!(served("b", &index_digest).await, OCI_INDEX);
    // Possible: passed on with that fetch, and to nobody else.
    assert_eq!(served("a", &image_digest).await, DOCKER_MANIFEST);
    assert_eq!(served("b", &image_digest).await, OCI_MANIFEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_only_upstream_knows_is_kept() {
    let registry = Registry::start().await;
    let node = Node::start(&registry).await;
    let vendor = "application/vnd.example.thing.v1+json";
    let digest = registry.hold_manifest("a", vendor, br#"{"something":1}"#);
    for _ in 0..2 {
        let manifest = node.source.manifest(&scope("a"), &digest, &Accept::default()).await.unwrap();
        assert_eq!(manifest.info.media_type, vendor);
    }
}
