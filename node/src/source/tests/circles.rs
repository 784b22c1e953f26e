//! Nodes that are each other's registry.

use std::sync::atomic::{AtomicUsize, Ordering};

use shoal_gateway::server;
use shoal_proto::name::Registry;
use tokio::net::TcpListener;

use super::*;

/// Also a blob, whose transfer is shared and asks in its node's name alone, ends at once: the two would else wait for
/// each other's transfers, and ask again, until both clients have given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_two_nodes_seek_at_each_other() {
    let listeners =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let [one, other] = [&listeners[0], &listeners[1]].map(|listener| listener.local_addr().unwrap());
    let answers = Arc::new(AtomicUsize::new(0));
    let mut nodes = Vec::new();
    for (listener, (name, next)) in listeners.into_iter().zip([("shoal-one", other), ("shoal-other", one)]) {
        let node = Node::named(name, next, Stream::Early, None).await;
        let counted = answers.clone();
        let observe = move |_: &server::Answered| {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let settings = server::Settings::new(name, [], Arc::new(observe));
        let router = server::router(Arc::new(node.source.clone()), settings);
        tokio::spawn(server::serve(listener, router, node.stop.clone()));
        nodes.push(node);
    }
    // Its size is known, so a transfer begins without asking anybody: and asks the other node for its bytes.
    let digest = Digest::sha256_of(b"nowhere");
    let listing = format!(r#"{{"layers":[{{"digest":"{digest}","size":600000}}]}}"#);
    let hub = Scope { registry: Registry::docker_hub(), repository: "library/a".parse().unwrap() };
    for node in &nodes {
        // What a node asks names no registry, so the other takes it for Docker Hub's.
        node.source.sizes.note(&scope("a"), listing.as_bytes());
        node.source.sizes.note(&hub, listing.as_bytes());
    }
    let began = std::time::Instant::now();
    let error = nodes[0].get(&digest, None).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(answers.load(Ordering::SeqCst) <= 4, "{answers:?}");
}
