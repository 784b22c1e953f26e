//! Peers that send wrong bytes, stall, or vanish: the client gets the right bytes, only the chunks asked of such a peer
//! are lost, and who was caught is not asked again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use shoal_tests::client::{Client, WHOLE};
use shoal_tests::faulty::{Fault, Faulty, Kind};
use shoal_tests::fleet::Fleet;
use shoal_tests::image::{digest, synthetic};
use shoal_tests::node::{Node, Traffic};
use shoal_tests::peer::{Habit, Peer};

const MIB: u64 = 1 << 20;
/// A blob of 64 chunks of 256 KiB.
const SIZE: u64 = 16 * MIB;
const CHUNK: u64 = 256 << 10;
/// What a pull may cost beyond the blob and what was asked of the bad peer, in bytes: chunks that were on their way
/// from two sources at once.
const SLACK: u64 = 8 * CHUNK;
/// So many chunks at the most are asked of a peer that never gave a right one.
const FEW: u64 = 8;
/// A pull with a bad peer in it takes no longer. The machine may be busy.
const PATIENCE: Duration = Duration::from_mins(1);
const REPOSITORY: &str = "registry.test/some/blobs";

/// A node, an upstream that holds two blobs, an honest peer and a bad one that say they hold them too.
struct Setting {
    fleet: Fleet<Faulty>,
    blobs: [String; 2],
    honest: Peer,
    bad: Peer,
    client: Client,
}

impl Setting {
    async fn new(habit: Habit, config: &str) -> Self {
        let mut fleet = Fleet::with_faulty_upstream(0).await.unwrap();
        let settings = shoal_tests::node::Settings { config: config.to_owned(), ..fleet.settings() };
        fleet.grow_with(settings).await.unwrap();
        let bytes = [1, 2].map(|seed| {
            let blob = synthetic::blob(fleet.home(), seed, SIZE).unwrap();
            Bytes::from(blob.bytes().unwrap())
        });
        let blobs = bytes.clone().map(|bytes| fleet.registry.hold_blob(bytes));
        let join = async |habit| {
            let node = fleet.nodes[0].serving.peer;
            Peer::join(node, fleet.cluster_key().unwrap(), habit, bytes.clone()).await.unwrap()
        };
        let (honest, bad) = (join(Habit::Honest).await, join(habit).await);
        fleet.nodes[0].joined(2).await.unwrap();
        let client = fleet.nodes[0].client().unwrap();
        // A question to everyone, so that the answers to the next come at once.
        let nobody_has = digest(b"what nobody has");
        assert_eq!(client.manifest(REPOSITORY, &nobody_has).await.unwrap().status.as_u16(), 404);
        Self { fleet, blobs, honest, bad, client }
    }

    fn node(&self) -> &Node {
        &self.fleet.nodes[0]
    }

    async fn traffic(&self) -> Traffic {
        self.node().status().await.unwrap().traffic
    }

    /// Pulls a blob; whatever comes must be right, and in time.
    async fn pull(&self, digest: &str) {
        let pull = tokio::time::timeout(PATIENCE, self.client.blob(REPOSITORY, digest));
        let pulled = pull.await.unwrap_or_else(|_| panic!("the pull hangs"));
        assert_eq!(pulled.unwrap(), SIZE);
    }

    /// Bytes that came from anywhere beyond the blob's own.
    async fn lost(&self) -> u64 {
        let Traffic { peer, upstream, .. } = self.traffic().await;
        peer.bytes + upstream.bytes - SIZE
    }
}

/// A pull in which the bad peer has a part, and what it cost.
async fn only_its_chunks_are_lost(habit: Habit) -> Setting {
    let setting = Setting::new(habit, "").await;
    let digest = setting.blobs[0].clone();
    setting.pull(&digest).await;
    let asked = setting.bad.asked(&digest);
    assert!(asked > 0, "{habit:?}: nothing was asked of the bad peer");
    let lost = setting.lost().await;
    assert!(
        lost <= asked * CHUNK + SLACK,
        "{habit:?}: {lost} bytes more than the blob, {asked} chunks asked"
    );
    assert!(setting.honest.asked(&digest) > 0, "{habit:?}: nothing was asked of the honest peer");
    setting
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_peers_give_everything_between_them() {
    let setting = only_its_chunks_are_lost(Habit::Honest).await;
    let digest = &setting.blobs[0];
    assert!(setting.honest.asked(digest) + setting.bad.asked(digest) >= SIZE / CHUNK - SLACK / CHUNK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_other_bytes_than_it_signs_is_asked_no_more() {
    let setting = only_its_chunks_are_lost(Habit::OtherBytes).await;
    let [first, second] = &setting.blobs;
    assert!(setting.bad.asked(first) <= FEW, "{} chunks were asked of it", setting.bad.asked(first));
    setting.pull(second).await;
    assert_eq!(setting.bad.asked(second), 0, "it was caught, and asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stalls_costs_what_was_asked_of_it() {
    let setting = only_its_chunks_are_lost(Habit::Stalls).await;
    let asked = setting.bad.asked(&setting.blobs[0]);
    assert!(asked <= FEW, "{asked} chunks were asked of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_vanishes_costs_what_was_asked_of_it() {
    let setting = only_its_chunks_are_lost(Habit::Vanishes(1)).await;
    assert!(setting.bad.is_gone(), "it was asked for too little to vanish");
}

/// Each chunk matches its signature: only the digest shows the lie. The client waits for the proof here, so that
/// nothing wrong reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_signs_for_wrong_bytes_is_found_out_by_the_digest() {
    let setting = Setting::new(Habit::FalseWord, "stream = \"proven\"\n").await;
    let [first, second] = &setting.blobs;
    setting.pull(first).await;
    assert!(setting.bad.asked(first) > 0, "nothing was asked of the liar");
    let lost = setting.lost().await;
    assert!(lost <= SIZE + SLACK, "the repair cost {lost} bytes of a blob of {SIZE}");
    setting.pull(second).await;
    assert_eq!(setting.bad.asked(second), 0, "it was caught, and asked again");
}

/// A client that was given a wrong byte cannot be saved, but its next attempt is right.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_false_word_the_next_attempt_is_right() {
    let setting = Setting::new(Habit::FalseWord, "").await;
    let digest = &setting.blobs[0];
    let until = Instant::now() + PATIENCE;
    let mut attempts = 1;
    while let Err(error) = setting.client.blob(REPOSITORY, digest).await {
        assert!(Instant::now() < until, "after {attempts} attempts: {error:#}");
        attempts += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(setting.bad.asked(digest) > 0, "nothing was asked of the liar");
    // Whatever the first attempts met, what is held now is right.
    setting.pull(digest).await;
}

/// No upstream: the honest peer alone has to make up for the bad one.
#[tokio::test(flavor = "multi_thread")]
async fn without_upstream_the_honest_peer_is_enough() {
    for habit in [Habit::OtherBytes, Habit::Stalls, Habit::Vanishes(1)] {
        let setting = Setting::new(habit, "").await;
        let digest = &setting.blobs[0];
        // That everyone may read it is known from a time when upstream still answered.
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let asked = setting.client.send(Method::HEAD, &path, &[]).await.unwrap();
        assert_eq!(asked.status, 200);
        setting.fleet.registry.fail(Kind::Blob, Fault::Status(503));
        let until = Instant::now() + PATIENCE;
        while let Err(error) = setting.client.blob(REPOSITORY, digest).await {
            // On a busy machine peers may answer too late for a first attempt; a wrong byte is never right.
            let error = format!("{error:#}");
            assert!(!error.contains(WHOLE), "{habit:?}: {error}");
            assert!(Instant::now() < until, "{habit:?}: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(setting.traffic().await.upstream.bytes, 0, "{habit:?}");
    }
}
