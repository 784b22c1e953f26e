//! What people see of a status, and what they are told when there is none.

use axum::Router;
use axum::http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::cli::local::MAX_ANSWER;

/// When it is asked, in seconds since the Unix epoch.
const NOW: u64 = 1_795_000_000 + 9 * 86_400 + 3 * 3_600 + 1_800;

fn busy() -> Status {
    Status {
        version: "0.1.0".into(),
        peer_id: "12D3KooWNode".into(),
        gateway_addr: "127.0.0.1:5055".into(),
        peer_addrs: vec!["10.0.0.1:5056".into(), "[fd00::1]:5056".into()],
        zone: Some("eu-west-1a".into()),
        uptime_seconds: 3 * 86_400 + 4 * 3_600 + 59,
        ready: true,
        peers: vec![PeerLine {
            peer_id: "12D3KooWPeer".into(),
            address: "10.0.0.7:5056".into(),
            connected_seconds: 125,
            zone: Some("eu-west-1b".into()),
        }],
        store: StoreLine { blobs: 12, bytes: 1_288_490_189, partials: 1, partial_bytes: 31_457_280 },
        traffic: Traffic {
            store: Source { requests: 1_234, bytes: 5_368_709_120 },
            peer: Source { requests: 8, bytes: 1_048_576 },
            upstream: Source { requests: 0, bytes: 0 },
        },
        savings: Savings {
            since: 1_795_000_000,
            given_bytes: 3_221_225_472,
            peer_bytes: 1_048_576,
            upstream_bytes: 2_147_483_648,
            pulls: 34,
            offline_pulls: 2,
        },
        allowances: vec![AllowanceLine {
            registry: "docker.io".to_owned(),
            remaining: 7,
            limit: Some(100),
            window_seconds: Some(21600),
        }],
        sent_past: SentPast { no_credentials: 2, wrong_credentials: 0, registry: 1 },
        uploaded_bytes: 2_048,
        announced: 12,
        pulls: vec![PullLine { digest: Digest::sha256_of(b"x"), size: 41_943_040, have_bytes: 31_457_280 }],
        swarms: vec![SwarmLine {
            digest: Digest::sha256_of(b"x"),
            size: 41_943_040,
            home: true,
            members: 5,
            leases: 1,
        }],
    }
}

fn fresh() -> Status {
    Status {
        zone: None,
        uptime_seconds: 5,
        ready: false,
        peers: Vec::new(),
        store: StoreLine::default(),
        traffic: Traffic::default(),
        savings: Savings::default(),
        allowances: Vec::new(),
        sent_past: SentPast::default(),
        uploaded_bytes: 0,
        announced: 0,
        pulls: Vec::new(),
        swarms: Vec::new(),
        peer_addrs: vec!["127.0.0.1:5056".into()],
        ..busy()
    }
}

#[test]
fn a_busy_node() {
    let expected = "\
shoal 0.1.0, ready, up 3d 4h
  peer id    12D3KooWNode
  gateway    127.0.0.1:5055
  peers at   10.0.0.1:5056
             [fd00::1]:5056
  zone       eu-west-1a
  holds      12 blobs, 1.20 GiB
             1 blob in part, 30.00 MiB
  announced  12 keys, of blobs and tags
  uploaded   2.00 KiB
  saved      1.00 GiB that registries did not have to send again, in 9d 3h
             34 pulls, 2 of them while the registry was down
  sent past  2 requests, without credentials for what is not everyone's
             1 request, for what this node must not ask registries for, or lacks the login: its log says which
  allowed    7 requests of 100 left in 6h 0m, by docker.io

content got          requests         bytes
  from the store         1234      5.00 GiB
  from peers                8      1.00 MiB
  from upstream             0           0 B

pulls running: 1
   75 %  30.00 MiB of 40.00 MiB  sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881

swarms kept: 1
  home    5 members, 1 range of upstream  40.00 MiB  sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881

peers connected: 1
  12D3KooWPeer  10.0.0.7:5056  for 2m 5s  in eu-west-1b
";
    assert_eq!(render::for_people(&busy(), NOW), expected);
}

#[test]
fn a_fresh_node() {
    let expected = "\
shoal 0.1.0, not ready yet, up 5s
  peer id    12D3KooWNode
  gateway    127.0.0.1:5055
  peers at   127.0.0.1:5056
  zone       none
  holds      0 blobs, 0 B
  announced  0 keys, of blobs and tags
  uploaded   0 B

content got          requests         bytes
  from the store            0           0 B
  from peers                0           0 B
  from upstream             0           0 B

pulls running: 0

peers connected: 0
";
    assert_eq!(render::for_people(&fresh(), NOW), expected);
}

#[test]
fn long_lists_are_counted() {
    let peer = busy().peers.remove(0);
    let status = Status { peers: vec![peer; 23], ..busy() };
    let text = render::for_people(&status, NOW);
    assert!(text.contains("peers connected: 23\n") && text.ends_with("  and 3 more\n"), "{text}");
}

/// The JSON is read by other programs: its names stay.
#[test]
fn the_json_has_these_names() {
    let digest = Digest::sha256_of(b"x");
    let expected = serde_json::json!({
        "version": "0.1.0", "peer_id": "12D3KooWNode", "gateway_addr": "127.0.0.1:5055",
        "peer_addrs": ["10.0.0.1:5056", "[fd00::1]:5056"], "zone": "eu-west-1a", "uptime_seconds": 273_659,
        "ready": true,
        "peers": [{"peer_id": "12D3KooWPeer", "address": "10.0.0.7:5056", "connected_seconds": 125,
                   "zone": "eu-west-1b"}],
        "store": {"blobs": 12, "bytes": 1_288_490_189, "partials": 1, "partial_bytes": 31_457_280},
        "traffic": {"store": {"requests": 1_234, "bytes": 5_368_709_120_u64},
                    "peer": {"requests": 8, "bytes": 1_048_576}, "upstream": {"requests": 0, "bytes": 0}},
        "allowances": [{"registry": "docker.io", "remaining": 7, "limit": 100, "window_seconds": 21600}],
        "savings": {"since": 1_795_000_000, "given_bytes": 3_221_225_472_u64, "peer_bytes": 1_048_576,
                    "upstream_bytes": 2_147_483_648_u64, "pulls": 34, "offline_pulls": 2},
        "sent_past": {"no_credentials": 2, "wrong_credentials": 0, "registry": 1},
        "uploaded_bytes": 2_048, "announced": 12,
        "pulls": [{"digest": digest.to_string(), "size": 41_943_040, "have_bytes": 31_457_280}],
        "swarms": [{"digest": digest.to_string(), "size": 41_943_040, "home": true, "members": 5, "leases": 1}],
    });
    let written = serde_json::to_value(busy()).unwrap();
    assert_eq!(written, expected);
    // A field that a newer node adds is ignored.
    let mut newer = expected;
    newer["mood"] = "good".into();
    assert_eq!(serde_json::from_value::<Status>(newer).unwrap(), busy());
}

/// Asks a server that answers `/status` so.
async fn asked(http_status: StatusCode, body: String) -> anyhow::Result<Status> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router =
        Router::new().route("/status", axum::routing::get(move || async move { (http_status, body) }));
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, router).await.unwrap() });
    ask(&LocalNode::new(address, "--admin-addr", SILENCE).unwrap()).await
}

#[tokio::test]
async fn a_node_is_asked() {
    let ok = StatusCode::OK;
    assert_eq!(asked(ok, serde_json::to_string(&busy()).unwrap()).await.unwrap(), busy());
    let error = asked(ok, "hello".into()).await.unwrap_err().to_string();
    assert!(error.contains("is not a node's admin API, or one of another version"), "{error}");
    assert!(error.ends_with("--admin-addr IP:PORT"), "{error}");
    let error = asked(StatusCode::NOT_FOUND, "no\u{1b}such page".into()).await.unwrap_err();
    assert!(error.to_string().ends_with("answered 404 Not Found: no such page"), "{error}");
    let error = asked(ok, "x".repeat(MAX_ANSWER + 1)).await.unwrap_err().to_string();
    assert!(error.ends_with("sends more than a status"), "{error}");
}

#[tokio::test]
async fn nobody_there() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = Options { admin_addr: Some(address.to_string()), json: false, ready: false };
    let error = run(options, &Environment::default()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("no node answers at {address} (")), "{error}");
    assert!(error.ends_with("start one with `shoal run`, or say where it listens with --admin-addr IP:PORT"));
}
