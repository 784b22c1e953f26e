//! What a node holds is announced on the DHT, and found there.

use bytes::Bytes;
use http::Method;
use shoal_proto::digest::Digest;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_proto::swarm::ranking::Ranking;
use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::Fleet;
use shoal_tests::image::synthetic;
use shoal_tests::node::{Node, START};
use shoal_tests::peer::{Habit, Peer};
use shoal_tests::process::until;

const REPOSITORY: &str = "registry.test/some/image";

/// Waits until the node has announced each blob that it holds, so many of them, and a peer has heard of all `digests`.
async fn announced(fleet: &Fleet<Faulty>, node: &Node, digests: &[Digest]) {
    let peer = Peer::join(node.serving.peer, fleet.cluster_key().unwrap(), Habit::Honest, []).await.unwrap();
    let heard = until("all that is held is announced", START, async || {
        let status = node.status().await.ok()?;
        let all = status.store.blobs == digests.len() as u64 && status.announced == status.store.blobs;
        let node = node.serving.peer_id.parse().ok()?;
        for &digest in digests {
            if !peer.handle.local_providers(digest).await.contains(&node) {
                return None;
            }
        }
        all.then_some(())
    });
    heard.await.unwrap();
}

/// By digest: a tag is a key of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_announced_after_a_pull_and_after_a_restart() {
    let mut fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let image = synthetic::image(fleet.home(), 1, &[600_000, 1000]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    let client = fleet.nodes[0].client().unwrap();
    client.pull(REPOSITORY, &image.manifest.digest, &image).await.unwrap();
    let blobs = image.blobs().map(|blob| blob.digest.parse().unwrap());
    let digests: Vec<Digest> = blobs.chain([image.manifest.digest.parse().unwrap()]).collect();
    announced(&fleet, &fleet.nodes[0], &digests).await;

    let before = fleet.nodes[0].serving.peer_id.clone();
    fleet.nodes[0].restart().await.unwrap();
    assert_eq!(fleet.nodes[0].serving.peer_id, before, "a restarted node is the same peer");
    announced(&fleet, &fleet.nodes[0], &digests).await;
}

/// The holder says what it has only to those who take part in the blob's swarm, and they know of it from the DHT alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_only_the_dht_knows_spares_upstream() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let node = &fleet.nodes[0];
    let image = synthetic::image(fleet.home(), 2, &[3_000_000]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    let layer = &image.layers[0];
    let bytes = Bytes::from(layer.bytes().unwrap());
    let (digest, key): (Digest, _) = (layer.digest.parse().unwrap(), fleet.cluster_key().unwrap());
    let home: PeerId = node.serving.peer_id.parse().unwrap();
    // One that would not be the blob's home itself: it keeps no swarm.
    let further = |keypair: &Keypair| Ranking::is_closer(&digest, &home, &keypair.public().to_peer_id());
    let keypair = std::iter::repeat_with(Keypair::generate_ed25519).find(further).unwrap();
    let holder = Peer::join_as(keypair, node.serving.peer, key, Habit::Shy, [bytes]).await.unwrap();
    holder.handle.announce(digest).await;
    // Who hears of it at the same time as the node, and is then out of the way.
    let key = fleet.cluster_key().unwrap();
    let witness = Peer::join(node.serving.peer, key, Habit::Honest, []).await.unwrap();
    let announced = until("the holder is announced", START, async || {
        let known = witness.handle.local_providers(digest).await;
        known.contains(&holder.handle.local_peer()).then_some(())
    });
    announced.await.unwrap();
    drop(witness);
    let alone = until("the witness is gone", START, async || {
        (node.status().await.ok()?.peers.len() == 1).then_some(())
    });
    alone.await.unwrap();
    node.client().unwrap().pull(REPOSITORY, &image.manifest.digest, &image).await.unwrap();
    // Whether it is in this repository upstream alone knows.
    let gets = fleet.registry.seen().into_iter().filter(|seen| seen.method == Method::GET);
    let from_upstream = gets.filter(|seen| seen.target.contains(&layer.digest));
    assert_eq!(from_upstream.count(), 0, "upstream was asked for what a peer holds\n{}", node.log().unwrap());
    assert!(holder.asked(&layer.digest) > 0);
}
