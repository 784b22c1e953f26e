//! A member of the fleet that is not to be trusted.

use bytes::Bytes;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_tests::peer::{Habit, Peer};

use super::rollout::{Rollout, id, ranked};

/// It says it has the layer, and alters what it gives. `place` is how close it is to the layer: at 0 it should be the
/// home, and puts everybody off.
async fn a_relay_alters_bytes(place: usize) {
    let mut rollout = Rollout::new(5).await;
    let layer = &rollout.image.layers[0];
    let keypair = std::iter::repeat_with(Keypair::generate_ed25519).find(|keypair| {
        let peer = keypair.public().to_peer_id();
        let peers: Vec<PeerId> = rollout.fleet.nodes.iter().map(id).chain([peer]).collect();
        ranked(&peers, &layer.digest)[place] == peer
    });
    let bytes = Bytes::from(layer.bytes().unwrap());
    let (bootstrap, key) = (rollout.node(0).serving.peer, rollout.fleet.cluster_key().unwrap());
    let relay = Peer::join_as(keypair.unwrap(), bootstrap, key, Habit::OtherBytes, [bytes]).await.unwrap();
    for node in &rollout.fleet.nodes {
        node.joined(rollout.fleet.nodes.len()).await.unwrap();
    }
    rollout.begin(rollout.numbers());
    rollout.complete(rollout.numbers()).await;
    let asked = relay.asked(&rollout.image.layers[0].digest);
    assert!(asked > 0, "nothing was asked of it");
    rollout.cost_at_most(1.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_alters_what_it_relays() {
    a_relay_alters_bytes(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_alters_what_it_relays() {
    a_relay_alters_bytes(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_closest_to_the_digest_is_no_home_and_alters_what_it_relays() {
    a_relay_alters_bytes(0).await;
}
