//! Upstreams that lie, refuse, stall: the client gets an error or the right bytes, soon, and never wrong bytes as a
//! whole blob; once upstream is well again, so is the pull.

use std::time::{Duration, Instant};

use shoal_tests::client::{Answer, Client, WHOLE};
use shoal_tests::faulty::{Fault, Faulty, Kind};
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::node::{Node, Settings};
use shoal_tests::process::until;

/// Longer than any answer may take: engines give up waiting for headers after 30 s.
const PATIENCE: Duration = Duration::from_secs(30);
const REPOSITORY: &str = "registry.test/some/image";

async fn fleet(seed: u64) -> (Fleet<Faulty>, Image, Client) {
    assert!(REPOSITORY.starts_with(REGISTRY));
    let fleet = Fleet::with_faulty_upstream(2).await.unwrap();
    let image = synthetic::image(fleet.home(), seed, &[3_000_000, 100_000, 10]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    let client = fleet.nodes[0].client().unwrap();
    (fleet, image, client)
}

/// Pulling with `fault` ends in time: with an error that a client understands, or with the right bytes.
async fn ends_well(client: &Client, image: &Image, fault: Fault) {
    let begun = Instant::now();
    let pulled = tokio::time::timeout(PATIENCE, client.pull(REPOSITORY, "1", image)).await;
    let pulled = pulled.unwrap_or_else(|_| panic!("{fault:?}: the pull hangs"));
    if let Err(error) = pulled {
        let error = format!("{error:#}");
        assert!(!error.contains(WHOLE) && !error.contains("other bytes"), "{fault:?}: {error}");
        assert!(begun.elapsed() < PATIENCE, "{fault:?}");
    }
}

/// After the fault everything is got, on another connection as a client's next attempt would be.
async fn recovers(fleet: &Fleet<Faulty>, image: &Image, fault: Fault) {
    fleet.registry.fail(Kind::Manifest, Fault::None);
    fleet.registry.fail(Kind::Blob, Fault::None);
    let until = Instant::now() + PATIENCE;
    for node in &fleet.nodes {
        let client = node.client().unwrap();
        // A back-off that upstream asked for, or a breaker, may still hold for a moment.
        while let Err(error) = client.pull(REPOSITORY, "1", image).await {
            assert!(Instant::now() < until, "after {fault:?}: {error:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// What a client is told that asks for what the fault concerns, and fits into one chunk or is a manifest: a whole
/// answer, with this status and, unless it is a 200, this code.
async fn answered(fleet: &Fleet<Faulty>, image: &Image, kind: Kind, fault: Fault, expected: (u16, &str)) {
    let paths = match kind {
        Kind::Blob => vec![format!("blobs/{}", image.layers[1].digest)],
        _ => vec![format!("manifests/{}", image.manifest.digest), "manifests/1".to_owned()],
    };
    let client = fleet.nodes[0].client().unwrap();
    if kind == Kind::Blob {
        // As every client does: its size is known from then on.
        client.manifest(REPOSITORY, "1").await.unwrap();
    }
    for path in paths {
        let asked = format!("/v2/{REPOSITORY}/{path}");
        let answer = tokio::time::timeout(PATIENCE, client.get(&asked)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{fault:?}: no answer for {path}")).unwrap();
        assert_eq!(answer.status.as_u16(), expected.0, "{fault:?} {path}: {answer:?}");
        if expected.0 != 200 {
            assert_eq!(answer.error_code().unwrap(), expected.1, "{fault:?} {path}: {answer:?}");
        }
    }
}

macro_rules! faults {
    ($($name:ident: $kind:expr, $fault:expr, $seed:expr, $expected:expr;)*) => {
        $(#[tokio::test]
        async fn $name() {
            let (fleet, image, client) = fleet($seed).await;
            fleet.registry.fail($kind, $fault);
            tokio::join!(
                ends_well(&client, &image, $fault),
                answered(&fleet, &image, $kind, $fault, $expected),
            );
            recovers(&fleet, &image, $fault).await;
        })*
    };
}

const BROKEN: (u16, &str) = (502, "UNAVAILABLE");
const LATE: (u16, &str) = (504, "UNAVAILABLE");
const FINE: (u16, &str) = (200, "");

faults! {
    blobs_shorter_than_promised: Kind::Blob, Fault::Short, 11, BROKEN;
    blobs_with_other_bytes: Kind::Blob, Fault::Other, 12, BROKEN;
    blobs_that_stop_midway: Kind::Blob, Fault::Stall, 13, LATE;
    blobs_that_are_never_answered: Kind::Blob, Fault::Silent, 14, BROKEN;
    blobs_without_ranges: Kind::Blob, Fault::NoRange, 15, FINE;
    manifests_shorter_than_promised: Kind::Manifest, Fault::Short, 16, BROKEN;
    manifests_with_other_bytes: Kind::Manifest, Fault::Other, 17, BROKEN;
    manifests_that_stop_midway: Kind::Manifest, Fault::Stall, 18, BROKEN;
    manifests_that_are_never_answered: Kind::Manifest, Fault::Silent, 19, BROKEN;
}

/// What the error's detail says of upstream.
fn upstream_status(answer: &Answer) -> u64 {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    body["errors"][0]["detail"]["status"].as_u64().unwrap_or_else(|| panic!("{body}"))
}

/// A mirror must answer so that its client goes on to the next host: 404 where upstream refuses (a 401 or 429 of the
/// mirror's own would make the client send credentials, or wait), 5xx where upstream is broken. Clients without a
/// next host find upstream's real status in the detail.
#[tokio::test]
async fn refusals_are_passed_on_so_that_clients_go_on() {
    let (fleet, image, client) = fleet(20).await;
    let other = synthetic::image(fleet.home(), 21, &[50_000]).unwrap();
    let refused = [401, 403, 410, 412, 451].map(|status| (status, 404));
    for (status, expected) in refused.into_iter().chain([(500, 502), (503, 502), (429, 404)]) {
        fleet.registry.fail(Kind::Manifest, Fault::Status(status));
        fleet.registry.fail(Kind::Blob, Fault::Status(status));
        let manifest = client.manifest(REPOSITORY, "1").await.unwrap();
        let by_digest = client.manifest(REPOSITORY, &image.manifest.digest).await.unwrap();
        let path = format!("/v2/{REPOSITORY}/blobs/{}", other.layers[0].digest);
        let blob = client.get(&path).await.unwrap();
        for answer in [&manifest, &by_digest, &blob] {
            assert_eq!(answer.status.as_u16(), expected, "{status}: {answer:?}");
            assert_eq!(upstream_status(answer), u64::from(status), "{answer:?}");
            assert!(answer.took < PATIENCE, "{status} took {:?}", answer.took);
        }
    }
    recovers(&fleet, &image, Fault::Status(429)).await;
}

/// With any 4xx a registry takes back what it gave, whatever its reasons. Only an outage lets a node give it on.
#[tokio::test]
async fn what_a_registry_gives_no_more_is_not_given_on() {
    let home = tempfile::tempdir().unwrap();
    let registry = Faulty::start().await.unwrap();
    let image = synthetic::image(home.path(), 29, &[50_000]).unwrap();
    registry.hold("1", &image).unwrap();
    let config = format!(
        "tag_ttl = \"0s\"\n[policy]\npublic_for = \"1s\"\n[upstream.\"registry.test\"]\nurl = \"{}\"",
        registry.url()
    );
    let node = Node::start(home.path(), "node", Settings { config, ..Settings::default() }).await.unwrap();
    let (client, digest) = (node.client().unwrap(), &image.manifest.digest);
    let asked = [
        "manifests/1".to_owned(),
        format!("manifests/{digest}"),
        format!("blobs/{}", image.layers[0].digest),
    ]
    .map(|rest| format!("/v2/{REPOSITORY}/{rest}"));
    for path in &asked {
        assert_eq!(client.get(path).await.unwrap().status, 200, "{path}");
    }
    for status in [400, 410, 412, 451, 503] {
        registry.fail(Kind::Manifest, Fault::Status(status));
        registry.fail(Kind::Blob, Fault::Status(status));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        for path in &asked {
            let answer = client.get(path).await.unwrap();
            if status == 503 {
                assert_eq!(answer.status, 200, "an outage: {path}: {answer:?}");
            } else {
                assert_eq!(answer.status, 404, "{status}: {path}: {answer:?}");
                assert_eq!(upstream_status(&answer), u64::from(status));
            }
        }
    }
}

/// What a node's client is told that asks for this: a miss, with upstream's status and its `Retry-After` in the detail.
async fn refusal(node: &Node, path: &str) -> (u16, u64, Option<u64>) {
    let answer = node.client().unwrap().get(&format!("/v2/{REPOSITORY}/{path}")).await.unwrap();
    assert!(answer.took < Duration::from_secs(2), "{answer:?} took {:?}", answer.took);
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let after = body["errors"][0]["detail"]["retryAfterSeconds"].as_u64();
    (answer.status.as_u16(), upstream_status(&answer), after)
}

/// While upstream wants no requests each client is told so at once, and not only the first.
#[tokio::test]
async fn a_long_pause_is_told_to_each_client_at_once() {
    let (fleet, image, client) = fleet(23).await;
    client.manifest(REPOSITORY, "1").await.unwrap();
    fleet.registry.fail(Kind::Blob, Fault::Throttle(60));
    let path = format!("blobs/{}", image.layers[0].digest);
    for _ in 0..4 {
        let (status, said, after) = refusal(&fleet.nodes[0], &path).await;
        assert_eq!((status, said), (404, 429));
        assert!(after.is_some_and(|after| after > 40), "{after:?}");
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
}

/// A node that had no turn or lease tells its clients what upstream told the others.
#[tokio::test]
async fn every_node_tells_its_clients_the_same_refusal() {
    let fleet = Fleet::with_faulty_upstream(5).await.unwrap();
    let image = synthetic::image(fleet.home(), 24, &[3_000_000]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    let everywhere = async |path: &str| {
        let before = fleet.registry.seen().len();
        let all = fleet.nodes.iter().map(|node| refusal(node, path));
        let told = futures::future::join_all(all).await;
        (told, fleet.registry.seen().len() - before)
    };
    fleet.registry.fail(Kind::Manifest, Fault::Status(403));
    let (told, asked) = everywhere(&format!("manifests/{}", image.manifest.digest)).await;
    assert_eq!(told, [(404, 403, None); 5]);
    assert!(asked < 5, "upstream was asked {asked} times");

    fleet.registry.fail(Kind::Manifest, Fault::None);
    for node in &fleet.nodes {
        // What others heard is remembered for a moment.
        let read = until("the manifest is read", PATIENCE, async || {
            let answer = node.client().ok()?.manifest(REPOSITORY, "1").await.ok()?;
            (answer.status == 200).then_some(())
        });
        read.await.unwrap();
    }
    fleet.registry.fail(Kind::Blob, Fault::Throttle(60));
    let (told, asked) = everywhere(&format!("blobs/{}", image.layers[0].digest)).await;
    let throttled = |&(status, said, after): &(u16, u64, Option<u64>)| {
        (status, said) == (404, 429) && after.is_some_and(|after| after > 40)
    };
    assert!(told.iter().all(throttled), "{told:?}");
    assert_eq!(asked, 1);
}

/// A node that fetches as many blobs as it can still says how it is, and what it has.
#[tokio::test]
async fn a_node_full_of_transfers_still_answers() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let layers: Vec<u64> = (0..560).map(|n| 1000 + n).collect();
    let image = synthetic::image(fleet.home(), 25, &layers).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    fleet.registry.fail(Kind::Blob, Fault::Held);
    let (node, client) = (&fleet.nodes[0], fleet.nodes[0].client().unwrap());
    client.manifest(REPOSITORY, "1").await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for layer in &image.layers {
        let (client, path) = (client.clone(), format!("/v2/{REPOSITORY}/blobs/{}", layer.digest));
        asking.spawn(async move { client.get(&path).await.is_ok() });
    }
    let full = until("the node is full", PATIENCE, async || {
        (node.status().await.ok()?.pulls.len() >= 512).then_some(())
    });
    full.await.unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        node.status().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

/// A lie of upstream's stays with the node that heard it: its peers never hold or serve the wrong bytes.
#[tokio::test]
async fn wrong_bytes_are_not_kept_or_passed_on() {
    let (fleet, image, client) = fleet(22).await;
    fleet.registry.fail(Kind::Blob, Fault::Other);
    client.pull(REPOSITORY, "1", &image).await.unwrap_err();
    for node in &fleet.nodes {
        let held = node.status().await.unwrap().store;
        // Manifest and nothing else: each blob's bytes are wrong.
        assert!(held.blobs <= 1, "{held:?}");
        node.client().unwrap().blob(REPOSITORY, &image.layers[0].digest).await.unwrap_err();
    }
    recovers(&fleet, &image, Fault::Other).await;
}
