//! Finding the first peers, and who is admitted.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::digest::Digest;
use shoal_proto::identity::Keypair;
use shoal_swarm::Config;
use shoal_swarm::cluster_key::ClusterKey;
use tokio_util::sync::CancellationToken;

use crate::fleet::{Blobs, Wish, at_once, joined, node};

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
async fn a_port_that_is_taken_is_said() {
    let taken = node(Wish::default()).await;
    let config = Config::new(Keypair::generate_ed25519(), taken.address().parse().unwrap());
    let error =
        shoal_swarm::start(config, Arc::new(Blobs::none()), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("port 0"), "{error}");
}
