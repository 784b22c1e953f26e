//! The admin port of a running node: probes, counters, and nothing else.

use std::collections::HashMap;

use http::Method;
use shoal_tests::client::Client;
use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::synthetic;
use shoal_tests::node::{Node, START, Settings};
use shoal_tests::process::until;
use tokio::net::TcpListener;

/// What a probe is answered.
async fn probe(admin: &Client, path: &str) -> u16 {
    admin.get(path).await.unwrap().status.as_u16()
}

/// An address that takes connections and never says a word, until it is dropped.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A node that knows `fleet`'s registry and these bootstrap addresses.
async fn node(fleet: &Fleet<Faulty>, name: &str, bootstrap: Vec<String>) -> Node {
    let settings = Settings { bootstrap, ..fleet.settings() };
    Node::start(fleet.home(), name, settings).await.unwrap()
}

#[tokio::test]
async fn a_node_is_ready_only_once_its_bootstrap_was_tried() {
    let fleet = Fleet::with_faulty_upstream(0).await.unwrap();
    let (_listener, address) = silent().await;
    let node = node(&fleet, "alone", vec![address]).await;
    let admin = node.admin().unwrap();
    let early = admin.get("/readyz").await.unwrap();
    assert_eq!(early.status.as_u16(), 503, "{early:?}");
    let reason = String::from_utf8_lossy(&early.body).into_owned();
    assert!(reason.contains("bootstrap"), "{reason:?} does not say why");
    assert_eq!(probe(&admin, "/livez").await, 200);
    // It serves all the same.
    assert_eq!(node.client().unwrap().get("/v2/").await.unwrap().status.as_u16(), 200);

    let ready = until("ready, with nobody there", START, async || {
        (probe(&admin, "/readyz").await == 200).then_some(())
    });
    ready.await.unwrap();
    assert_eq!(probe(&admin, "/livez").await, 200);
    assert!(node.status().await.unwrap().peers.is_empty());
}

#[tokio::test]
async fn a_node_that_refuses_to_be_reached_is_tried_soon() {
    let fleet = Fleet::with_faulty_upstream(0).await.unwrap();
    let (listener, address) = silent().await;
    drop(listener);
    node(&fleet, "alone", vec![address]).await.joined(0).await.unwrap();
}

#[tokio::test]
async fn one_peer_is_enough_whatever_the_other_addresses_do() {
    let mut fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let (_listener, address) = silent().await;
    let bootstrap = vec![address, fleet.nodes[0].serving.peer.to_string()];
    let settings = Settings { bootstrap, ..fleet.settings() };
    let second = fleet.grow_with(settings).await.unwrap();
    let node = &fleet.nodes[second];
    let admin = node.admin().unwrap();
    let joined = until("the node has a peer", START, async || {
        (node.status().await.ok()?.peers.len() == 1).then_some(())
    });
    joined.await.unwrap();
    assert_eq!(probe(&admin, "/readyz").await, 200);
}

/// A metric's samples: name and labels, value.
type Samples = HashMap<String, f64>;

/// Reads the `OpenMetrics` text format, and accepts nothing else.
async fn metrics(admin: &Client) -> Samples {
    let answer = admin.get("/metrics").await.unwrap();
    assert_eq!(answer.status.as_u16(), 200);
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"), "{answer:?}");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end in {text}"));
    let mut samples = Samples::new();
    let mut described = Vec::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            let kind = words.next().unwrap();
            assert!(["HELP", "TYPE", "UNIT"].contains(&kind), "{line:?}");
            described.push(words.next().unwrap().to_owned());
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        assert!(described.iter().any(|described| name.starts_with(described)), "{line:?} has no description");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
        assert!(samples.insert(name.to_owned(), value).is_none(), "{name} twice");
    }
    samples
}

/// Requests and bytes of one source.
fn source(samples: &Samples, source: &str) -> [f64; 2] {
    ["requests", "bytes"].map(|what| {
        let name = format!("shoal_source_{what}_total{{source=\"{source}\"}}");
        *samples.get(&name).unwrap_or_else(|| panic!("no {name} in {samples:#?}"))
    })
}

#[tokio::test]
#[expect(clippy::cast_precision_loss, clippy::float_cmp, reason = "small whole numbers")]
async fn the_counters_say_where_requests_and_bytes_went() {
    let fleet = Fleet::with_faulty_upstream(2).await.unwrap();
    let image = synthetic::image(fleet.home(), 1, &[2_000_000, 50_000]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    let size = image.size() as f64;
    let manifest = image.manifest.bytes.len() as f64;
    let [first, second] = [0, 1].map(|number| fleet.nodes[number].admin().unwrap());
    let before = metrics(&first).await;
    for name in ["Store", "Peer", "Upstream"] {
        assert_eq!(source(&before, name), [0.0, 0.0], "{name}");
    }
    let repository = format!("{REGISTRY}/some/image");
    let pull = async |number: usize| {
        let client = fleet.nodes[number].client().unwrap();
        client.pull(&repository, "1", &image).await.unwrap();
    };

    pull(0).await;
    let pulled = metrics(&first).await;
    let [requests, bytes] = source(&pulled, "Upstream");
    assert!(requests >= 4.0, "{requests} requests for a manifest, a config and two layers");
    assert_eq!(bytes, size + manifest);
    assert_eq!(source(&pulled, "Peer")[1], 0.0);
    // The last byte is given once the digest is proven, which is a moment before the blob is held.
    let held = until("all of it is held", START, async || {
        (metrics(&first).await["shoal_held_blobs"] >= 4.0).then_some(())
    });
    held.await.unwrap();

    pull(0).await;
    let again = metrics(&first).await;
    assert_eq!(source(&again, "Upstream")[1], bytes, "a held image was fetched again");
    let [requests, bytes] = source(&again, "Store");
    assert!(requests >= 4.0 && bytes >= size, "{requests} requests, {bytes} bytes from the store");

    pull(1).await;
    let from_peer = metrics(&second).await;
    let [requests, bytes] = source(&from_peer, "Peer");
    assert!(requests >= 4.0 && bytes >= size, "{requests} requests, {bytes} bytes from the peer");
    assert!(source(&from_peer, "Upstream")[1] < manifest * 2.0, "more than a manifest from upstream");
    assert_eq!(from_peer["shoal_connected_peers"], 1.0);
    assert_eq!(from_peer["shoal_held_blobs"], 4.0);
    let given = metrics(&first).await["shoal_uploaded_bytes_total"];
    assert!(given >= size, "{given} bytes given");
    // What people read says the same.
    let traffic = fleet.nodes[1].status().await.unwrap().traffic;
    assert_eq!([traffic.peer.requests as f64, traffic.peer.bytes as f64], source(&from_peer, "Peer"));
}

#[tokio::test]
async fn nothing_else_is_there_and_nothing_can_be_changed() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let admin = fleet.nodes[0].admin().unwrap();
    for path in ["/", "/metrics/", "/livez/x", "/v2/", "/debug", "/status.json", "/../etc/passwd"] {
        assert_eq!(probe(&admin, path).await, 404, "{path}");
    }
    for path in ["/metrics", "/livez", "/readyz", "/status"] {
        assert_eq!(probe(&admin, path).await, 200, "{path}");
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            let answer = admin.send(method.clone(), path, &[]).await.unwrap();
            assert_eq!(answer.status.as_u16(), 405, "{method} {path}");
        }
    }
    // The gateway's port has none of it.
    let gateway = fleet.nodes[0].client().unwrap();
    for path in ["/metrics", "/livez", "/readyz", "/status"] {
        assert_eq!(gateway.get(path).await.unwrap().status.as_u16(), 404, "{path}");
    }
}
