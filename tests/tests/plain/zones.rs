//! Zones and caps: what a node asks of whom, and how fast, when its operator has said so.

use std::time::{Duration, Instant};

use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::synthetic;
use shoal_tests::node::{Node, Settings};
use shoal_tests::process::until;
use shoal_tests::registry::Kind;

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

/// A value of one of a node's metrics.
async fn metric(node: &Node, name: &str) -> Option<u64> {
    let text = node.admin().unwrap().get("/metrics").await.unwrap().body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))?;
    Some(line.parse().unwrap())
}

fn configured(fleet: &Fleet, config: &str) -> Settings {
    Settings { config: config.to_owned(), ..fleet.settings() }
}

#[tokio::test]
async fn peers_in_the_same_zone_are_asked_first() {
    let mut fleet = Fleet::start(Kind::Debian, 0).await.unwrap();
    for zone in ["a", "b", "c"] {
        fleet.grow_with(configured(&fleet, &format!("zone = \"{zone}\""))).await.unwrap();
    }
    let image = synthetic::image(fleet.home(), 5, &[64 * MIB]).unwrap();
    fleet.registry.push("near", "1", &image).await.unwrap();
    let name = format!("{REGISTRY}/near");
    for node in &fleet.nodes {
        node.client().unwrap().pull(&name, "1", &image).await.unwrap();
    }
    let new = fleet.grow_with(configured(&fleet, "zone = \"b\"")).await.unwrap();
    fleet.settled().await.unwrap();
    let puller = &fleet.nodes[new];
    until("all zones are told", SOON, async || {
        let zones = puller.status().await.ok()?.peers.into_iter().filter(|peer| peer.zone.is_some());
        (zones.count() == 3).then_some(())
    })
    .await
    .unwrap();
    puller.client().unwrap().pull(&name, "1", &image).await.unwrap();

    let from = async |zone: &str| {
        let name = format!("shoal_peer_zone_bytes_total{{direction=\"In\",zone=\"{zone}\"}}");
        metric(puller, &name).await.unwrap_or(0)
    };
    let (same, other, unknown) = (from("Same").await, from("Other").await, from("Unknown").await);
    assert!(same + other >= 64 * MIB && unknown == 0, "{same} {other} {unknown}");
    assert!(same >= 3 * other, "{same} bytes from the same zone, {other} from others");
    assert!(metric(puller, "shoal_control_messages_total{kind=\"question\"}").await.unwrap() > 0);
}

#[tokio::test]
async fn rates_are_capped_where_the_operator_says_so() {
    let mut fleet = Fleet::start(Kind::Debian, 0).await.unwrap();
    let image = synthetic::image(fleet.home(), 6, &[12 * MIB, 12 * MIB]).unwrap();
    fleet.registry.push("capped", "1", &image).await.unwrap();
    let name = format!("{REGISTRY}/capped");
    // From upstream, to peers, from peers: each node's pull is held up by one cap.
    let caps = ["upstream_rate = \"12MiB\"\nupload_rate = \"12MiB\"", "", "download_rate = \"12MiB\""];
    for (number, config) in caps.into_iter().enumerate() {
        let node = fleet.grow_with(configured(&fleet, config)).await.unwrap();
        fleet.settled().await.unwrap();
        if number == 2 {
            // The second node has no cap on what it gives: only the third one's own is left.
            fleet.nodes[0].kill();
        }
        let began = Instant::now();
        fleet.nodes[node].client().unwrap().pull(&name, "1", &image).await.unwrap();
        let took = began.elapsed();
        // A tenth of a second's worth goes at once.
        assert!(took > Duration::from_millis(1700), "node {number} pulled 24 MiB at 12 MiB/s in {took:?}");
        let upstream = fleet.nodes[node].status().await.unwrap().traffic.upstream.bytes;
        assert!((number == 0) == (upstream > 24 * MIB), "node {number} took {upstream} bytes from upstream");
    }
}
