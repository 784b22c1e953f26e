//! Sizes of blobs: whoever is asked, and whoever lies.

use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::manifest::OCI_MANIFEST;

use super::*;

/// Three chunks.
const SIZE: usize = 600_000;

/// Has the node read a manifest that says this of a blob's size.
async fn listed(node: &Node, registry: &Registry, digest: &Digest, size: u64) {
    let manifest = format!(r#"{{"schemaVersion":2,"layers":[{{"digest":"{digest}","size":{size}}}]}}"#);
    let manifest = registry.hold_manifest("a", OCI_MANIFEST, manifest.as_bytes());
    node.source.manifest(&scope("a"), &manifest, &Accept::default()).await.unwrap();
}

/// A wrong size costs the first client one more question, and the blob nothing.
async fn comes_out(stream: Stream, lie: u64, range: Option<RangeRequest>) {
    let registry = Registry::start().await;
    let node = Node::with(&registry, stream, None).await;
    let blob = content(SIZE);
    let digest = registry.hold_blob("a", &blob);
    listed(&node, &registry, &digest, lie).await;
    let expected = match range {
        Some(RangeRequest::From { first, .. }) => &blob[usize::try_from(first).unwrap()..],
        _ => &blob[..],
    };
    let got = node.get(&digest, range).await;
    assert!(got.as_deref().is_ok_and(|got| got == expected), "{stream:?} {lie}: {:?}", got.err());
    // Nothing but the digest of nothing has no bytes: that is not even tried.
    if lie > 0 {
        assert_eq!(node.source.sizes.of(&scope("a"), &digest), None);
    }
    // What was proven stays proven, whatever is listed later.
    listed(&node, &registry, &digest, lie ^ 1).await;
    assert_eq!(node.get(&digest, None).await.unwrap(), blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_lies_about_a_size() {
    for stream in [Stream::Early, Stream::Proven] {
        for lie in [0, 1, 100_000, 599_999, 600_001, 5_000_000, u64::MAX] {
            comes_out(stream, lie, None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_the_size_that_a_manifest_lists() {
    comes_out(Stream::Early, 100_000, Some(RangeRequest::From { first: 300_000, last: None })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_the_end_is_refused_with_the_true_size() {
    let registry = Registry::start().await;
    let node = Node::start(&registry).await;
    let digest = registry.hold_blob("a", &content(SIZE));
    listed(&node, &registry, &digest, SIZE as u64).await;
    let behind = Some(RangeRequest::From { first: SIZE as u64, last: None });
    let error = node.get(&digest, behind).await.unwrap_err();
    assert!(matches!(error, PullError::Unsatisfiable(error) if error.size == SIZE as u64), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_here_are_not_thrown_away_on_hearsay() {
    let registry = Registry::start().await;
    let node = Node::start(&registry).await;
    let blob = content(SIZE);
    let digest = registry.hold_blob("a", &blob);
    let partial = node.store.partial(&digest, SIZE as u64, of("a")).await.unwrap();
    let range = partial.layout().range(0).unwrap();
    let first = bytes::Bytes::copy_from_slice(&blob[..usize::try_from(range.end).unwrap()]);
    let claim = Claim { digest, size: SIZE as u64, chunk: 0 };
    let signed = Attestation::sign(&node.source.ports.keypair, &claim, ChunkHash::of(&first)).unwrap();
    partial.write(0, first, signed).await.unwrap();
    drop(partial);
    let noted = async {
        while node.store.partial_size(&digest, &scope("a").registry).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, noted).await.unwrap();

    listed(&node, &registry, &digest, 100_000).await;
    // Behind what the manifest lists: it could not be answered by that.
    let behind = RangeRequest::From { first: 599_999, last: None };
    assert_eq!(node.get(&digest, Some(behind)).await.unwrap(), blob[599_999..]);
    assert_eq!(node.get(&digest, None).await.unwrap(), blob);
    let asked = registry.asked();
    assert_eq!(asked[0], "HEAD all", "whether it is in this repository");
    let gets = &asked[1..];
    assert!(!gets.is_empty() && gets.iter().all(|asked| asked.starts_with("GET bytes=")), "{asked:?}");
    assert!(!asked.iter().any(|asked| asked.contains("bytes=0-")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_asked_before_upstream() {
    let registry = Registry::start().await;
    let first = Node::start(&registry).await;
    let blob = content(SIZE);
    let digest = registry.hold_blob("a", &blob);
    first.store.put(&digest, blob.clone().into(), of("a")).await.unwrap();
    let second = Node::with(&registry, Stream::Early, Some(first.peers.listen_addresses()[0])).await;
    // No manifest was read here: after a restart, say.
    assert_eq!(second.source.blob_size(&scope("a"), &digest).await.unwrap(), SIZE as u64);
    assert_eq!(second.get(&digest, None).await.unwrap(), blob);
    // Once, whether it is in this repository at all.
    assert_eq!(registry.asked(), ["HEAD all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_upstream_does_not_say_the_size_the_manifest_does() {
    let registry = Registry::without_sizes().await;
    let node = Node::start(&registry).await;
    let blob = content(SIZE);
    let digest = registry.hold_blob("a", &blob);
    let untold = node.get(&digest, None).await.unwrap_err().to_string();
    assert!(untold.contains("does not say how large"), "{untold}");
    listed(&node, &registry, &digest, SIZE as u64).await;
    assert_eq!(node.source.blob_size(&scope("a"), &digest).await.unwrap(), SIZE as u64);
    assert_eq!(node.get(&digest, None).await.unwrap(), blob);
}

/// What a client makes up says nothing of a manifest.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_the_end_casts_no_doubt_on_the_size() {
    let registry = Registry::start().await;
    let node = Node::start(&registry).await;
    let digest = registry.hold_blob("a", &content(SIZE));
    listed(&node, &registry, &digest, SIZE as u64).await;
    let behind = Some(RangeRequest::From { first: SIZE as u64, last: None });
    assert!(matches!(node.get(&digest, behind).await, Err(PullError::Unsatisfiable(_))));
    assert_eq!(node.source.sizes.of(&scope("a"), &digest), Some(SIZE as u64));
}
