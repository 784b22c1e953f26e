//! What a fleet without a fault asks of upstream, by upstream's own account: nothing twice.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shoal_tests::faulty::{Fault, Faulty, Kind, Seen};
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Image, synthetic};

const NODES: usize = 6;
/// How many images are pulled, each by all nodes at once.
const ROUNDS: u64 = 6;
/// A pull takes no longer. The machine may be busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// Layers from a few bytes to several leases, one of each kind at the least.
fn layers(random: &mut StdRng) -> Vec<u64> {
    let mut sizes = vec![random.random_range(1..4096), random.random_range(4096..1 << 20)];
    sizes.extend((0..random.random_range(1..3)).map(|_| random.random_range(1 << 20..24 << 20)));
    sizes
}

/// The bytes that a request asked for, of a blob of this size.
fn asked(seen: &Seen, size: u64) -> (u64, u64) {
    let Some(range) = seen.headers.get("range") else { return (0, size) };
    let (first, last) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    (first.parse().unwrap(), last.parse::<u64>().map_or(size, |last| (last + 1).min(size)))
}

/// What was asked of upstream for an image: each byte of each blob once, the manifest once, the tag once, and of each blob
/// once whether it is in the repository.
fn check(image: &Image, seen: &[Seen]) {
    let of = |part: &str, method: &str| -> Vec<&Seen> {
        seen.iter().filter(|one| one.method == method && one.target.contains(part)).collect()
    };
    for blob in image.blobs() {
        let mut ranges: Vec<_> =
            of(&blob.digest, "GET").into_iter().map(|one| asked(one, blob.size)).collect();
        ranges.sort_unstable();
        let mut end = 0;
        for (first, until) in &ranges {
            assert_eq!(*first, end, "{} bytes, asked for in these ranges: {ranges:?}", blob.size);
            end = *until;
        }
        assert_eq!(end, blob.size, "{ranges:?}");
        assert_eq!(of(&blob.digest, "HEAD").len(), 1, "whether it is in this repository");
    }
    assert_eq!(of("/manifests/sha256", "GET").len() + of("/manifests/tag-", "GET").len(), 1, "{seen:?}");
    assert!(of("/manifests/", "HEAD").len() <= 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_of_upstream_twice() {
    let fleet: Fleet<Faulty> = Fleet::with_faulty_upstream(NODES).await.unwrap();
    fleet.registry.want_tokens();
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..ROUNDS {
        let image = synthetic::image(fleet.home(), round, &layers(&mut random)).unwrap();
        let tag = format!("tag-{round}");
        fleet.registry.hold(&tag, &image).unwrap();
        let before = fleet.registry.seen().len();
        let repository = format!("{REGISTRY}/repository-{round}");
        let pulls = fleet.nodes.iter().map(|node| {
            let (client, repository, tag, image) = (node.client().unwrap(), &repository, &tag, &image);
            async move { client.pull(repository, tag, image).await }
        });
        tokio::time::timeout(PATIENCE, try_join_all(pulls)).await.expect("a pull hangs").unwrap();
        let seen = fleet.registry.seen().split_off(before);
        let (asked, answered): (Vec<Seen>, Vec<Seen>) =
            seen.into_iter().partition(|one| one.target.starts_with("/token"));
        // Only who fetches asks for one.
        let fetchers: BTreeSet<&str> =
            answered.iter().map(|one| one.headers["via"].to_str().unwrap()).collect();
        assert!((1..=fetchers.len()).contains(&asked.len()), "{} of {fetchers:?}", asked.len());
        // What was answered 401 brought no token, and is asked again with one.
        let answered: Vec<Seen> =
            answered.into_iter().filter(|one| one.headers.contains_key("authorization")).collect();
        check(&image, &answered);
    }
}

/// Those who wait for the node that asks go on waiting for it, and do not ask as well: a registry in trouble is spared.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_is_not_asked_by_all() {
    const MANY: usize = 12;
    let fleet: Fleet<Faulty> = Fleet::with_faulty_upstream(MANY).await.unwrap();
    let image = synthetic::image(fleet.home(), 99, &[1000]).unwrap();
    fleet.registry.hold("silent", &image).unwrap();
    fleet.registry.fail(Kind::Manifest, Fault::Silent);
    let asks = fleet.nodes.iter().map(|node| {
        let client = node.client().unwrap();
        async move { client.manifest(&format!("{REGISTRY}/repository"), "silent").await }
    });
    // Each is answered before its engine gives up (30 s).
    let answers = tokio::time::timeout(PATIENCE, try_join_all(asks)).await.expect("an answer hangs").unwrap();
    assert!(answers.iter().all(|answer| answer.status.is_server_error()), "{answers:?}");
    // One after the other has a turn of three seconds, for twenty seconds.
    let asked = fleet.registry.seen().len();
    assert!((1..=8).contains(&asked), "{MANY} nodes asked {asked} times");

    fleet.registry.fail(Kind::Manifest, Fault::None);
    let repository = format!("{REGISTRY}/repository");
    fleet.nodes[3].client().unwrap().pull(&repository, "silent", &image).await.unwrap();
}
