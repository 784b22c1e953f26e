//! Finding the first peers, and who is admitted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use shoal_proto::digest::Digest;
use shoal_proto::identity::Keypair;
use shoal_swarm::Config;
use shoal_swarm::bootstrap::Resolver;
use shoal_swarm::cluster_key::ClusterKey;
use tokio_util::sync::CancellationToken;

use crate::fleet::{Blobs, Node, Wish, at_once, joined, node, until};

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_the_key_finds_nobody() {
    let key = ClusterKey::generate();
    let member = node(Wish { key: Some(key.clone()), ..Wish::default() }).await;
    let friend = node(Wish { key: Some(key), bootstrap: vec![member.address()], ..Wish::default() }).await;
    joined(&friend).await;
    for key in [None, Some(ClusterKey::generate())] {
        let stranger = node(Wish { key, bootstrap: vec![member.address()], ..Wish::default() }).await;
        let mut joined = stranger.handle.joined();
        let tried = joined.wait_for(|joined| joined.tried);
        let seen = *tokio::time::timeout(Duration::from_secs(20), tried).await.unwrap().unwrap();
        assert!(!seen.joined);
        assert!(stranger.handle.connected().is_empty());
        let asked =
            stranger.handle.ask_blob(member.handle.local_peer(), at_once(Digest::sha256_of(b"x"))).await;
        assert!(asked.is_err());
    }
    assert_eq!(member.handle.connected().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_dht_entry_for_strangers_nor_of_them() {
    let (ours, theirs) = (Digest::sha256_of(b"ours"), Digest::sha256_of(b"theirs"));
    let key = ClusterKey::generate();
    let member = node(Wish { key: Some(key.clone()), ..Wish::default() }).await;
    let friend = node(Wish { key: Some(key), bootstrap: vec![member.address()], ..Wish::default() }).await;
    joined(&friend).await;
    member.handle.announce(ours).await;
    until("the friend's finding it", async || {
        friend.handle.providers(ours, 1).await.recv().await == Some(member.handle.local_peer())
    })
    .await;

    let mut strangers = Vec::new();
    for key in [None, Some(ClusterKey::generate())] {
        let bootstrap = vec![member.address(), friend.address()];
        let stranger = node(Wish { key, bootstrap, ..Wish::default() }).await;
        let port = member.handle.listen_addresses()[0].port();
        let peer = member.handle.local_peer();
        stranger.handle.add_addresses(peer, &[format!("/ip4/127.0.0.1/tcp/{port}")]);
        stranger.handle.announce(theirs).await;
        assert!(stranger.handle.ask_blob(peer, at_once(ours)).await.is_err());
        strangers.push(stranger);
    }
    // Announced, as far as they can tell, and repeated by everybody who has met somebody.
    until("announcing", async || strangers.iter().all(|node| node.handle.counters().announced > 0)).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    for stranger in &strangers {
        assert_eq!(stranger.handle.providers(ours, 1).await.recv().await, None);
        assert!(stranger.handle.local_providers(ours).await.is_empty());
        // Its own, and nothing else.
        assert_eq!(stranger.handle.counters().keys_kept, 1);
    }
    for node in [&member, &friend] {
        assert_eq!(node.handle.providers(theirs, 1).await.recv().await, None);
        assert!(node.handle.local_providers(theirs).await.is_empty());
        assert_eq!((node.handle.counters().keys_kept, node.handle.connected().len()), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_node_that_comes_late_is_found() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let early = node(Wish { bootstrap: vec![format!("127.0.0.1:{port}")], ..Wish::default() }).await;
    let mut tried = early.handle.joined();
    tried.wait_for(|joined| joined.tried && !joined.joined).await.unwrap();
    let listen = format!("127.0.0.1:{port}");
    let late = node(Wish { listen: Some(listen), ..Wish::default() }).await;
    joined(&early).await;
    drop(late);
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_and_its_own_address_among_the_bootstraps() {
    let first = node(Wish { listen: Some("[::1]:0".to_owned()), ..Wish::default() }).await;
    let port = std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let own = format!("[::1]:{port}");
    let second = node(Wish {
        listen: Some(own.clone()),
        bootstrap: vec![own, first.address(), format!("localhost:{port}")],
        ..Wish::default()
    })
    .await;
    joined(&second).await;
    assert_eq!(second.handle.connected().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_again_as_nodes_come() {
    let fleet: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
    let add = |node: &Node| fleet.lock().unwrap().push(node.address().parse().unwrap());
    let names = fleet.clone();
    let lookup = move |name: String, port| {
        assert_eq!((name.as_str(), port), ("fleet.example", 5056));
        let found = names.lock().unwrap().clone();
        async move { Ok(found) }.boxed()
    };
    let first = node(Wish::default()).await;
    add(&first);
    let looks = node(Wish {
        bootstrap: vec!["dns:fleet.example:5056".to_owned()],
        listen: Some("[::]:0".to_owned()),
        resolver: Resolver::new(lookup, Duration::from_secs(1)),
        ..Wish::default()
    })
    .await;
    add(&looks);
    joined(&looks).await;

    // One that nobody knows of, and one that has come by itself, from another address than it listens on.
    let late = node(Wish::default()).await;
    let port = looks.handle.listen_addresses()[0].port();
    let comes = node(Wish { bootstrap: vec![format!("[::1]:{port}")], ..Wish::default() }).await;
    joined(&comes).await;
    add(&late);
    add(&comes);
    until("finding all", async || looks.handle.connected().len() == 3).await;
    // It is looked up some times more, and nobody is dialled twice.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let connections: Vec<u32> = looks.handle.connected().iter().map(|peer| peer.connections).collect();
    assert_eq!(connections, [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn multiaddrs_lead_to_peers() {
    let first = node(Wish::default()).await;
    let port = first.handle.listen_addresses()[0].port();
    let peer = first.handle.local_peer();
    for address in [format!("/ip4/127.0.0.1/tcp/{port}"), format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")] {
        let second = node(Wish { bootstrap: vec![address], ..Wish::default() }).await;
        joined(&second).await;
        assert_eq!(second.handle.connected()[0].peer, peer);
    }
    let other = Keypair::generate_ed25519().public().to_peer_id();
    let misled =
        node(Wish { bootstrap: vec![format!("/ip4/127.0.0.1/tcp/{port}/p2p/{other}")], ..Wish::default() })
            .await;
    let mut joined = misled.handle.joined();
    let tried = tokio::time::timeout(Duration::from_secs(20), joined.wait_for(|joined| joined.tried));
    assert!(!tried.await.unwrap().unwrap().joined);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unspecified_ipv6_address_takes_ipv4_as_well() {
    let key = ClusterKey::generate();
    let wish = |listen: &str, bootstrap| Wish {
        key: Some(key.clone()),
        listen: Some(listen.to_owned()),
        bootstrap,
        ..Wish::default()
    };
    let first = node(wish("[::]:0", Vec::new())).await;
    let port = first.handle.listen_addresses()[0].port();
    let six = node(wish("[::1]:0", vec![format!("[::1]:{port}")])).await;
    let four = node(wish("127.0.0.1:0", vec![format!("127.0.0.1:{port}")])).await;
    joined(&six).await;
    joined(&four).await;
    until("their coming", async || first.handle.connected().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_said() {
    let taken = node(Wish::default()).await;
    let config = Config::new(Keypair::generate_ed25519(), taken.address().parse().unwrap());
    let error =
        shoal_swarm::start(config, Arc::new(Blobs::none()), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("port 0"), "{error}");
}
