//! What a fleet promises when parts of it are gone: the registry, nodes in the middle of a pull, or the key.

use std::time::Duration;

use http::Method;
use shoal_tests::client::Client;
use shoal_tests::fleet::{Fleet, REGISTRY, new_key};
use shoal_tests::image::debian::Debian;
use shoal_tests::image::{OCI_INDEX, synthetic};
use shoal_tests::node::{Node, Settings};
use shoal_tests::process::until;
use shoal_tests::registry::Kind;
use shoal_tests::skopeo::{Copied, Platforms};

const MIB: u64 = 1 << 20;
/// How long something that happens during a pull may take to happen.
const SOON: Duration = Duration::from_secs(30);

/// The name of a repository as path-prefix clients write it.
fn prefixed(repository: &str) -> String {
    format!("{REGISTRY}/{repository}")
}

#[tokio::test]
async fn with_upstream_stopped_a_new_node_gets_the_image_whole() {
    let debian = Debian::get().unwrap();
    let mut fleet = Fleet::start(Kind::Distribution, 2).await.unwrap();
    fleet.registry.push_debian("library/debian", &debian).await.unwrap();
    let repository = prefixed("library/debian");
    let first = fleet.nodes[0].client().unwrap();
    first.manifest(&repository, "latest").await.unwrap();
    first.pull(&repository, &debian.image.manifest.digest, &debian.image).await.unwrap();

    fleet.registry.stop();
    let new = fleet.grow().await.unwrap();
    fleet.settled().await.unwrap();
    let client = fleet.nodes[new].client().unwrap();
    let index = client.manifest(&repository, "latest").await.unwrap();
    assert_eq!((index.status.as_u16(), &index.body), (200, &debian.index.bytes), "{index:?}");
    client.pull(&repository, &debian.image.manifest.digest, &debian.image).await.unwrap();
    assert_eq!(fleet.nodes[new].status().await.unwrap().traffic.upstream.bytes, 0);
}

#[tokio::test]
async fn three_of_four_providers_die_and_the_client_notices_nothing() {
    let mut fleet = Fleet::start(Kind::Debian, 5).await.unwrap();
    let size = 384 * MIB;
    let image = synthetic::image(fleet.home(), 4, &[size]).unwrap();
    fleet.registry.push("big", "1", &image).await.unwrap();
    for node in &fleet.nodes[..4] {
        node.client().unwrap().pull(&prefixed("big"), "1", &image).await.unwrap();
    }
    let before = fleet.registry.access().await.unwrap();

    let home = fleet.home().to_owned();
    let (providers, puller) = fleet.nodes.split_at_mut(4);
    let puller = &puller[0];
    let name = format!("{}/{}:1", puller.serving.gateway, prefixed("big"));
    let pull = tokio::task::spawn_blocking(move || Copied::copy(&home, "skopeo", &name, Platforms::Host));
    let got = until("the pull is on its way", SOON, async || {
        let bytes = puller.status().await.ok()?.traffic.peer.bytes;
        (bytes > size / 16).then_some(bytes)
    });
    let got = got.await.unwrap();
    for provider in &mut providers[1..] {
        provider.kill();
    }
    assert!(got < size, "the pull was over before anything was killed: {got} of {size} bytes");
    let copied = pull.await.unwrap().expect("the client failed");
    assert_eq!(copied.manifest().unwrap(), image.manifest.bytes);
    assert!(copied.blob(&image.layers[0].digest).unwrap() == image.layers[0].bytes().unwrap());

    let access = fleet.registry.access().await.unwrap().since(&before);
    let upstream = access.blob_bytes(&image.layers[0].digest);
    assert!(upstream <= size - got, "{got} bytes were there, and upstream gave {upstream} of {size}");
}

#[tokio::test]
async fn a_node_killed_during_a_pull_goes_on_where_it_stopped() {
    let mut fleet = Fleet::start(Kind::Distribution, 1).await.unwrap();
    let size = 384 * MIB;
    let image = synthetic::image(fleet.home(), 5, &[size]).unwrap();
    fleet.registry.push("big", "1", &image).await.unwrap();
    let digest = &image.layers[0].digest;
    let client = fleet.nodes[0].client().unwrap();
    let repository = prefixed("big");
    let got = {
        let node = &mut fleet.nodes[0];
        let pull = client.blob(&repository, digest);
        tokio::pin!(pull);
        let mut got = 0;
        while got < size / 4 {
            tokio::select! {
                ended = &mut pull => panic!("the pull was over before the node was killed: {ended:?}"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            got = node.status().await.unwrap().traffic.upstream.bytes;
        }
        node.kill();
        pull.await.unwrap_err();
        got
    };
    assert!(got < size, "nothing was left to go on with: {got} of {size} bytes");
    fleet.nodes[0].restart().await.unwrap();
    fleet.nodes[0].client().unwrap().pull(&repository, "1", &image).await.unwrap();
    let upstream = fleet.registry.access().await.unwrap().blob_bytes(digest);
    // What was in sockets and not yet on disk is fetched again.
    let again = 32 * MIB;
    assert!(upstream <= size + again, "upstream gave {upstream} bytes for a blob of {size}");
    assert!(upstream >= size, "the access log lacks bytes: {upstream} of {size}");
}

#[tokio::test]
async fn held_blobs_survive_a_kill() {
    let mut fleet = Fleet::start(Kind::Debian, 1).await.unwrap();
    let image = synthetic::image(fleet.home(), 6, &[8 * MIB, 1000, 0]).unwrap();
    fleet.registry.push("held", "1", &image).await.unwrap();
    fleet.nodes[0].client().unwrap().pull(&prefixed("held"), "1", &image).await.unwrap();
    fleet.nodes[0].kill();
    fleet.registry.stop();
    fleet.nodes[0].restart().await.unwrap();
    fleet.nodes[0].client().unwrap().pull(&prefixed("held"), "1", &image).await.unwrap();
}

/// A node with `key` that knows the fleet's address and a registry with something of its own.
async fn stranger(fleet: &Fleet, name: &str, key: Option<&str>) -> Node {
    let cluster_key = key.map(|key| new_key(fleet.home(), key).unwrap());
    let settings = Settings { cluster_key, ..fleet.settings() };
    Node::start(fleet.home(), name, settings).await.unwrap()
}

#[tokio::test]
async fn without_the_key_nothing_is_got_and_nothing_announced() {
    let mut fleet = Fleet::start(Kind::Distribution, 2).await.unwrap();
    let ours = synthetic::image(fleet.home(), 7, &[4 * MIB, 5000]).unwrap();
    let theirs = synthetic::image(fleet.home(), 8, &[4 * MIB, 5000]).unwrap();
    fleet.registry.push("ours", "1", &ours).await.unwrap();
    fleet.registry.push("theirs", "1", &theirs).await.unwrap();
    fleet.nodes[0].client().unwrap().pull(&prefixed("ours"), "1", &ours).await.unwrap();
    let strangers =
        [stranger(&fleet, "no-key", None).await, stranger(&fleet, "other-key", Some("other.key")).await];
    for stranger in &strangers {
        stranger.joined(0).await.unwrap();
        stranger.client().unwrap().pull(&prefixed("theirs"), "1", &theirs).await.unwrap();
    }

    // From here on only peers could give what someone else holds.
    fleet.registry.stop();
    for stranger in &strangers {
        let client = stranger.client().unwrap();
        let tag = client.manifest(&prefixed("ours"), "1").await.unwrap();
        assert!(tag.status.is_client_error() || tag.status.is_server_error(), "{tag:?}");
        for blob in ours.blobs() {
            client.blob(&prefixed("ours"), &blob.digest).await.unwrap_err();
        }
        let status = stranger.status().await.unwrap();
        assert_eq!(status.traffic.peer.bytes, 0, "{status:?}");
        assert_eq!(status.peers.len(), 0, "{status:?}");
    }
    for member in &fleet.nodes {
        let client = member.client().unwrap();
        for blob in theirs.blobs() {
            client.blob(&prefixed("theirs"), &blob.digest).await.unwrap_err();
        }
        let status = member.status().await.unwrap();
        assert_eq!(status.peers.len(), 1, "only the other member: {status:?}");
    }
    // The members still serve each other.
    fleet.nodes[1].client().unwrap().pull(&prefixed("ours"), "1", &ours).await.unwrap();
}

/// HEAD and GET say the same, under the name with the registry in the path and with `ns`.
async fn asked_both_ways(client: &Client, reference: &str, media_type: &str, bytes: &[u8], digest: &str) {
    let accept = [("accept", media_type)];
    let paths = [
        format!("/v2/{REGISTRY}/library/debian/manifests/{reference}"),
        format!("/v2/library/debian/manifests/{reference}?ns={REGISTRY}"),
    ];
    for path in paths {
        let head = client.send(Method::HEAD, &path, &accept).await.unwrap();
        let get = client.send(Method::GET, &path, &accept).await.unwrap();
        for answer in [&head, &get] {
            assert_eq!(answer.status.as_u16(), 200, "{path}: {answer:?}");
            assert_eq!(answer.header("docker-content-digest"), digest, "{path}");
            assert_eq!(answer.header("content-type"), media_type, "{path}");
            assert_eq!(answer.header("content-length"), bytes.len().to_string(), "{path}");
        }
        assert_eq!(get.body, bytes, "{path}");
    }
}

#[tokio::test]
async fn an_index_and_what_it_lists_are_served_by_tag_and_by_digest() {
    let debian = Debian::get().unwrap();
    for kind in Kind::ALL {
        let fleet = Fleet::start(kind, 2).await.unwrap();
        fleet.registry.push_debian("library/debian", &debian).await.unwrap();
        for node in &fleet.nodes {
            let client = node.client().unwrap();
            for reference in ["latest", &debian.index.digest] {
                asked_both_ways(&client, reference, OCI_INDEX, &debian.index.bytes, &debian.index.digest)
                    .await;
            }
            for image in [&debian.image, &debian.other, &debian.docker] {
                let manifest = &image.manifest;
                asked_both_ways(
                    &client,
                    &manifest.digest,
                    manifest.media_type,
                    &manifest.bytes,
                    &manifest.digest,
                )
                .await;
            }
        }
        // The second node's manifests came from the first, tags aside.
        let reads = fleet.registry.access().await.unwrap();
        let of_digests: Vec<_> = reads
            .0
            .iter()
            .filter(|read| read.method == "GET" && read.path.contains("/manifests/sha256:"))
            .collect();
        assert!(of_digests.len() <= 4, "{kind:?}: {of_digests:#?}");
    }
}
