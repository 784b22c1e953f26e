use std::io;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::Multiaddr;
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxerExt as _;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};

use super::*;

type Connected = io::Result<(PeerId, StreamMuxerBox)>;

fn opts() -> DialOpts {
    DialOpts { role: Endpoint::Dialer, port_use: PortUse::New }
}

/// A listener that says where it is, and what came of each connection.
async fn listening(
    keypair: &Keypair,
    key: Option<ClusterKey>,
    limit: Duration,
) -> (Multiaddr, tokio::sync::mpsc::Receiver<Connected>) {
    let mut transport = transport_within(keypair, key, limit).unwrap();
    transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = match transport.next().await.unwrap() {
        TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
        other => panic!("{other:?}"),
    };
    let (send, receive) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(event) = transport.next().await {
            if let TransportEvent::Incoming { upgrade, .. } = event {
                let send = send.clone();
                tokio::spawn(async move { send.send(upgrade.await).await });
            }
        }
    });
    (address, receive)
}

async fn dial(keypair: &Keypair, key: Option<ClusterKey>, address: Multiaddr) -> Connected {
    let mut transport = transport(keypair, key).unwrap();
    let dialled = transport.dial(address, opts()).unwrap();
    dialled.await
}

async fn both(dialer: Option<ClusterKey>, listener: Option<ClusterKey>) -> (Connected, Connected) {
    let (here, there) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let (address, mut accepted) = listening(&there, listener, CONNECT).await;
    let dialled = dial(&here, dialer, address).await;
    (dialled, accepted.recv().await.unwrap())
}

#[tokio::test]
async fn members_learn_each_others_ids_and_exchange_bytes() {
    let key = ClusterKey::generate();
    let (here, there) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let (address, mut accepted) = listening(&there, Some(key.clone()), CONNECT).await;
    let (id, mut dialled) = dial(&here, Some(key), address).await.unwrap();
    assert_eq!(id, there.public().to_peer_id());
    let (id, mut accepted) = accepted.recv().await.unwrap().unwrap();
    assert_eq!(id, here.public().to_peer_id());

    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let echo = tokio::spawn(async move {
        let mut stream = accepted.next_inbound().await.unwrap();
        let driver = tokio::spawn(async move {
            loop {
                if std::future::poll_fn(|cx| accepted.poll_unpin(cx)).await.is_err() {
                    return;
                }
            }
        });
        let mut bytes = vec![0; 1_000_000];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        driver.await.ok();
    });
    let mut stream = dialled.next_outbound().await.unwrap();
    let driver =
        tokio::spawn(async move { while std::future::poll_fn(|cx| dialled.poll_unpin(cx)).await.is_ok() {} });
    stream.write_all(&sent).await.unwrap();
    stream.flush().await.unwrap();
    let mut back = vec![0; 1_000_000];
    stream.read_exact(&mut back).await.unwrap();
    assert!(back == expected);
    driver.abort();
    echo.abort();
}

/// Whoever waits on a stream of a connection that is closed here learns of it, and the peer too.
#[tokio::test]
async fn a_close_wakes_who_waits_on_its_streams() {
    let key = ClusterKey::generate();
    let (dialled, accepted) = both(Some(key.clone()), Some(key)).await;
    let ((_, mut dialled), (_, mut accepted)) = (dialled.unwrap(), accepted.unwrap());
    let peer = tokio::spawn(async move {
        let mut stream = dialled.next_outbound().await.unwrap();
        stream.write_all(b"first").await.unwrap();
        stream.flush().await.unwrap();
        while std::future::poll_fn(|cx| dialled.poll_unpin(cx)).await.is_ok() {}
        drop(stream);
    });
    let mut stream = accepted.next_inbound().await.unwrap();
    let waits = tokio::spawn(async move {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.ok();
        bytes
    });
    let driven = std::future::poll_fn(|cx| accepted.poll_unpin(cx));
    tokio::time::timeout(Duration::from_millis(300), driven).await.unwrap_err();
    accepted.close().await.unwrap();
    // `close` has dropped it, as the swarm does.
    let limit = Duration::from_secs(20);
    assert_eq!(tokio::time::timeout(limit, waits).await.unwrap().unwrap(), b"first");
    tokio::time::timeout(limit, peer).await.unwrap().unwrap();
}

/// As libp2p would dial: from the port that it listens on. Then two that dial each other at once meet in one connection.
#[tokio::test]
async fn dials_come_from_fresh_ports() {
    let key = ClusterKey::generate();
    let keypair = Keypair::generate_ed25519();
    let mut transports = [0; 2].map(|_| transport(&keypair, Some(key.clone())).unwrap());
    let mut addresses = Vec::new();
    for transport in &mut transports {
        transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let Some(TransportEvent::NewAddress { listen_addr, .. }) = transport.next().await else { panic!() };
        addresses.push(listen_addr);
    }
    let [one, other] = &mut transports;
    let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    let dial = tokio::spawn(one.dial(addresses[1].clone(), opts).unwrap());
    let Some(TransportEvent::Incoming { send_back_addr, .. }) = other.next().await else { panic!() };
    assert_ne!(send_back_addr, addresses[0]);
    dial.abort();
}

trait NextStream {
    async fn next_inbound(&mut self) -> io::Result<libp2p::core::muxing::SubstreamBox>;
    async fn next_outbound(&mut self) -> io::Result<libp2p::core::muxing::SubstreamBox>;
}

impl NextStream for StreamMuxerBox {
    async fn next_inbound(&mut self) -> io::Result<libp2p::core::muxing::SubstreamBox> {
        std::future::poll_fn(|cx| {
            drop(self.poll_unpin(cx));
            self.poll_inbound_unpin(cx)
        })
        .await
    }

    async fn next_outbound(&mut self) -> io::Result<libp2p::core::muxing::SubstreamBox> {
        std::future::poll_fn(|cx| self.poll_outbound_unpin(cx)).await
    }
}

fn refused(result: Connected, reason: &str) {
    let error = result.map(|(peer, _)| peer).unwrap_err().to_string();
    assert!(error.contains(reason), "{error:?} does not say {reason:?}");
}

#[tokio::test]
async fn strangers_are_refused_and_both_ends_know_why() {
    let (ours, theirs) = (ClusterKey::generate(), ClusterKey::generate());
    let (dialled, accepted) = both(Some(ours.clone()), Some(theirs)).await;
    refused(dialled, "another cluster key");
    refused(accepted, "another cluster key");
    let (dialled, accepted) = both(None, Some(ours.clone())).await;
    refused(dialled, "this node has none");
    refused(accepted, "the peer has no cluster key");
    let (dialled, accepted) = both(Some(ours), None).await;
    refused(dialled, "the peer has no cluster key");
    refused(accepted, "this node has none");
}

#[tokio::test]
async fn without_keys_loopback_is_enough() {
    let (dialled, accepted) = both(None, None).await;
    assert!(dialled.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn garbage_silence_and_halves_end_within_the_limit_and_harm_nobody() {
    let key = ClusterKey::generate();
    let there = Keypair::generate_ed25519();
    let (address, mut accepted) = listening(&there, Some(key.clone()), Duration::from_secs(2)).await;
    let socket = socket_address(&address).unwrap();
    let mut garbage = tokio::net::TcpStream::connect(socket).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut garbage, &[0xff; 5000]).await.unwrap();
    refused(accepted.recv().await.unwrap(), "TLS failed");
    let silent = tokio::net::TcpStream::connect(socket).await.unwrap();
    assert!(accepted.recv().await.unwrap().is_err(), "a silent peer was admitted");
    drop(silent);
    assert!(dial(&Keypair::generate_ed25519(), Some(key), address).await.is_ok());
    assert!(accepted.recv().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_stock_libp2p_node_is_refused() {
    let there = Keypair::generate_ed25519();
    let (address, mut accepted) = listening(&there, None, Duration::from_secs(2)).await;
    let here = Keypair::generate_ed25519();
    let mut stock = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(libp2p::core::upgrade::Version::V1)
        .authenticate(libp2p::tls::Config::new(&here).unwrap())
        .multiplex(libp2p::yamux::Config::default())
        .boxed();
    let dialled = stock.dial(address, opts()).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(5), dialled).await.unwrap().is_err());
    assert!(accepted.recv().await.unwrap().is_err());
}
