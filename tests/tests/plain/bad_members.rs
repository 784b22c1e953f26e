//! Members that say nonsense of swarms, leases and turns: whoever asks through a node is answered, and once they are gone
//! all is well.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::AsyncWriteExt as _;
use shoal_proto::digest::Digest;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_proto::origin::Origin;
use shoal_proto::swarm::message::MAX_NUMBER;
use shoal_proto::swarm::ranking::Ranking;
use shoal_proto::wire::generated::session_message::Body;
use shoal_proto::wire::{SESSION_PROTOCOL, encode_frame, generated, hello};
use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::node::Node;
use shoal_tests::process::until;
use shoal_tests::raw::{Answer, Answers, Raw, until_ended};

const REPOSITORY: &str = "registry.test/some/image";
const LAYER: u64 = 3 << 20;
/// Longer than any answer may take: engines give up waiting for headers after 30 s.
const PATIENCE: Duration = Duration::from_secs(30);

async fn fleet(seed: u64) -> (Fleet<Faulty>, Image) {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let image = synthetic::image(fleet.home(), seed, &[LAYER]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    (fleet, image)
}

/// Joins, as the home of what this digest names, or as the standby of the one node there is.
async fn join(fleet: &Fleet<Faulty>, answers: Answers, digest: &str, as_home: bool) -> Raw {
    let (node, digest): (&Node, Digest) = (&fleet.nodes[0], digest.parse().unwrap());
    let other: PeerId = node.serving.peer_id.parse().unwrap();
    let in_place =
        |keypair: &Keypair| Ranking::is_closer(&digest, &keypair.public().to_peer_id(), &other) == as_home;
    let keypair = std::iter::repeat_with(Keypair::generate_ed25519).find(in_place).unwrap();
    let key = fleet.cluster_key().unwrap();
    let member = Raw::join_as(&keypair, node.serving.peer, key, answers).await.unwrap();
    let connected = until("the member is connected", PATIENCE, async || {
        (node.status().await.ok()?.peers.len() == 1).then_some(())
    });
    connected.await.unwrap();
    member
}

fn somebody() -> Bytes {
    Keypair::generate_ed25519().public().to_peer_id().to_bytes().into()
}

/// Nobody, and where nobody is.
fn nobody() -> generated::Named {
    generated::Named { peer: somebody(), addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()] }
}

/// Says the same to every question.
fn saying(body: Body) -> Answers {
    let session: Answer = Arc::new(move |id| {
        let mut message = BytesMut::new();
        encode_frame(&generated::SessionMessage { id, body: Some(body.clone()) }, &mut message);
        message.freeze()
    });
    Answers { session, ..Answers::default() }
}

/// What a member may answer as the home of a swarm.
fn nonsense_of_standings() -> Vec<(&'static str, Body)> {
    use generated::{Lease, LeaseOutcome, Standing};
    let lease = |epoch, end| Some(Lease { epoch, id: epoch, first: 0, end });
    let place = Standing { epoch: 1, again_ms: 1, ..Standing::default() };
    vec![
        ("a home that is nobody", Body::Standing(Standing { elsewhere: Some(nobody()), ..place.clone() })),
        ("wait 49 days", Body::Standing(Standing { wait_ms: u32::MAX, ..place.clone() })),
        ("report again in 49 days", Body::Standing(Standing { again_ms: u32::MAX, ..place.clone() })),
        ("report again at once", Body::Standing(place.clone())),
        (
            "a lease of all chunks there can be",
            Body::Standing(Standing { lease: lease(1, u32::MAX), ..place.clone() }),
        ),
        (
            "a lease of the largest number",
            Body::Standing(Standing { lease: lease(u64::MAX, 1), ..place.clone() }),
        ),
        (
            "an upstream that failed with a status that there is not",
            Body::Standing(Standing {
                hopeless: LeaseOutcome::Refused.into(),
                hopeless_status: u32::MAX,
                ..place.clone()
            }),
        ),
        (
            "an upstream that wants no request for ever",
            Body::Standing(Standing {
                hopeless: LeaseOutcome::Trouble.into(),
                hopeless_status: 429,
                hopeless_retry_after_ms: u64::MAX,
                ..place
            }),
        ),
    ]
}

/// What a member may answer as the standby of a swarm, or as the home of a key at which there are turns.
fn nonsense_of_claims_and_turns() -> Vec<(&'static str, Body)> {
    use generated::{ClaimAnswer, TurnAnswer};
    vec![
        (
            "a claim held by nobody, in the last term",
            Body::ClaimAnswer(ClaimAnswer { held_by: Some(nobody()), epoch: MAX_NUMBER, providers: vec![] }),
        ),
        (
            "a claim granted after a term beyond the last",
            Body::ClaimAnswer(ClaimAnswer { held_by: None, epoch: u64::MAX, providers: vec![] }),
        ),
        (
            "a claim granted by one who knows that nobody holds it",
            Body::ClaimAnswer(ClaimAnswer { held_by: None, epoch: MAX_NUMBER, providers: vec![nobody()] }),
        ),
        (
            "a turn that nobody had",
            Body::TurnAnswer(TurnAnswer { done: Some(nobody()), ..Default::default() }),
        ),
        (
            "a turn that another gives",
            Body::TurnAnswer(TurnAnswer { elsewhere: Some(nobody()), ..Default::default() }),
        ),
        ("a turn of the largest number", Body::TurnAnswer(TurnAnswer { go: u64::MAX, ..Default::default() })),
        ("no answer at all", Body::Heard(generated::Heard {})),
    ]
}

/// A client is answered in time whatever the member answers, and gets all once it is gone.
async fn answered_all_the_same(seed: u64, what: &'static str, body: Body) {
    let (mut fleet, image) = fleet(seed).await;
    let (manifest, layer) = (&image.manifest.digest, &image.layers[0].digest);
    let (of, as_home) = match body {
        Body::Standing(_) => (layer, true),
        Body::ClaimAnswer(_) => (layer, false),
        _ => (manifest, true),
    };
    let member = join(&fleet, saying(body), of, as_home).await;
    let client = fleet.nodes[0].client().unwrap();
    for path in [format!("manifests/{manifest}"), "manifests/1".to_owned(), format!("blobs/{layer}")] {
        let path = format!("/v2/{REPOSITORY}/{path}");
        let answer = tokio::time::timeout(PATIENCE, client.get(&path)).await;
        drop(answer.unwrap_or_else(|_| panic!("{what}: no answer for {path}")).unwrap());
    }
    assert!(member.questions() > 0, "{what}: it was asked nothing");
    drop(member);
    let pulled = until("all is well again", PATIENCE, async || {
        client.pull(REPOSITORY, &image.manifest.digest, &image).await.ok()
    });
    pulled.await.unwrap_or_else(|error| panic!("after {what}: {error:#}"));
    assert!(fleet.nodes[0].is_running(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_members_answer_clients_are_answered() {
    let cases = nonsense_of_standings().into_iter().chain(nonsense_of_claims_and_turns());
    let all = (0..).zip(cases).map(|(seed, (what, body))| answered_all_the_same(100 + seed, what, body));
    futures::future::join_all(all).await;
}

fn key(image: &Image) -> Bytes {
    let digest: Digest = image.layers[0].digest.parse().unwrap();
    digest.multihash().into()
}

/// What a member may say unasked: with numbers that no node takes, and the largest that any does.
fn lies(digest: &Bytes) -> Vec<(&'static str, bool, Body)> {
    use generated::{Claim, HeldLease, Holding, Lease, LeaseEnd, LeaseOutcome, Report, TurnEnded};
    let lease = |number| Lease { epoch: number, id: number, first: 0, end: 3 };
    let held = |number| vec![HeldLease { holder: somebody(), lease: Some(lease(number)) }];
    let origin = Bytes::from(Origin::of(&REGISTRY.parse().unwrap()).as_bytes().to_vec());
    let claim = |epoch, leases| {
        let (digest, origin) = (digest.clone(), origin.clone());
        Body::Claim(Claim { digest, size: LAYER, epoch, leases, round: 0, origin })
    };
    let ended = |epoch| {
        let outcome = LeaseOutcome::Trouble.into();
        Some(LeaseEnd { epoch, id: epoch, outcome, retry_after_ms: u64::MAX, status: 429 })
    };
    let report = |number| {
        Body::Report(Report {
            digest: digest.clone(),
            origin: origin.clone(),
            size: LAYER,
            holding: Holding::Partial.into(),
            chunks: vec![0; 2].into(),
            can_fetch: true,
            lease: Some(lease(number)),
            ended: ended(number),
            unreachable: (0..8).map(|_| somebody()).collect(),
            ..Report::default()
        })
    };
    let turn = TurnEnded {
        key: digest.clone(),
        number: 1,
        outcome: LeaseOutcome::Done.into(),
        ..Default::default()
    };
    vec![
        ("a report of the largest numbers", true, report(MAX_NUMBER)),
        ("a claim of the last term", true, claim(MAX_NUMBER, held(MAX_NUMBER))),
        ("the end of a turn that it never had", true, Body::TurnEnded(turn)),
        ("a report of numbers beyond", false, report(u64::MAX)),
        ("a claim of a term beyond", false, claim(MAX_NUMBER + 1, vec![])),
        ("a claim of a lease beyond", false, claim(1, held(u64::MAX))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_members_say_the_node_keeps_its_swarms() {
    let (mut fleet, image) = fleet(200).await;
    let member = join(&fleet, Answers::default(), &image.layers[0].digest, false).await;
    for (what, goes_on, body) in lies(&key(&image)) {
        let mut stream = member.open(SESSION_PROTOCOL).await.unwrap();
        let mut bytes = BytesMut::new();
        encode_frame(&hello(), &mut bytes);
        encode_frame(&generated::SessionMessage { id: 1, body: Some(body) }, &mut bytes);
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        if goes_on {
            continue;
        }
        let said = until_ended(&mut stream).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert!(said.len() < 100, "{what}: answered {} bytes", said.len());
    }
    let client = fleet.nodes[0].client().unwrap();
    let pulled =
        tokio::time::timeout(PATIENCE, client.pull(REPOSITORY, &image.manifest.digest, &image)).await;
    pulled.expect("the pull hangs").unwrap();
    assert!(fleet.nodes[0].is_running());
    drop(member);
}
