//! Nodes behind nodes: chains that are carried on, circles that end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shoal_proto::name::{Reference, Tag};
use shoal_proto::range::RangeRequest;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::fake::{Fake, answer, hello};
use super::*;
use crate::caller::Caller;
use crate::server::{self, Observe};
use crate::source::{Accept, BlobBody, Manifest, Passage, Passed, Resolved, Source};

/// A node that holds nothing and hands every question on.
#[derive(Clone)]
struct Relay(Upstreams);

impl Source for Relay {
    fn asked_by(&self, caller: &Caller) -> Self {
        Self(self.0.through(&caller.hops))
    }

    async fn resolve(&self, scope: &Scope, tag: &Tag, accept: &Accept) -> Result<Resolved, PullError> {
        let said = self.0.head_manifest(scope, &Reference::Tag(tag.clone()), accept).await?;
        let info = said.info().ok_or_else(|| PullError::Content("HEAD does not tell".to_owned()))?;
        Ok(Resolved { info, warning: None })
    }

    async fn manifest(&self, scope: &Scope, digest: &Digest, accept: &Accept) -> Result<Manifest, PullError> {
        self.0.get_manifest(scope, &Reference::Digest(*digest), accept).await
    }

    async fn blob_size(&self, scope: &Scope, digest: &Digest) -> Result<u64, PullError> {
        Ok(self.0.blob_size(scope, digest).await?.unwrap_or_default())
    }

    async fn open(
        &self,
        scope: &Scope,
        digest: &Digest,
        _: Option<RangeRequest>,
    ) -> Result<BlobBody, PullError> {
        self.blob_size(scope, digest).await?;
        Err(PullError::Unavailable("not here".to_owned()))
    }

    async fn pass(&self, scope: &Scope, passage: Passage, query: &str) -> Result<Passed, PullError> {
        self.0.pass(scope, passage, query).await
    }
}

/// Serves a relay of this name, whose registries are at `url`: also the one that is meant when none is named, as no node
/// names one to what it asks.
fn serve(listener: TcpListener, name: &str, url: &str, observe: Observe, stop: &CancellationToken) {
    let tables = ["reg.test", "docker.io"].map(|registry| (registry.to_owned(), at(url))).into();
    let settings = Settings { upstreams: tables, ..Default::default() };
    let upstreams = Upstreams::with_limits(settings, "shoal/test", name, LIMITS).unwrap();
    let settings = server::Settings::new(name, upstreams.known(), observe);
    let router = server::router(Arc::new(Relay(upstreams)), settings);
    tokio::spawn(server::serve(listener, router, stop.clone()));
}

async fn port() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What each of the endpoints answers at this gateway.
async fn statuses(gateway: SocketAddr) -> Vec<u16> {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let digest = digest();
    let mut statuses = Vec::new();
    for rest in ["manifests/v1", &format!("manifests/{digest}"), &format!("blobs/{digest}"), "tags/list"] {
        let url = format!("http://{gateway}/v2/team/app/{rest}?ns=reg.test");
        statuses.push(client.get(url).send().await.unwrap().status().as_u16());
    }
    statuses
}

#[tokio::test]
async fn a_circle_of_any_length_closes_after_one_round() {
    for length in [1, 2, 3] {
        let (answers, observe) = counter();
        let stop = CancellationToken::new();
        let mut ports = Vec::new();
        for _ in 0..length {
            ports.push(port().await);
        }
        let addresses: Vec<SocketAddr> = ports.iter().map(|(_, address)| *address).collect();
        for (number, (listener, _)) in ports.into_iter().enumerate() {
            let next = addresses[(number + 1) % length];
            serve(listener, &format!("shoal-{number}"), &format!("http://{next}"), observe.clone(), &stop);
        }
        assert_eq!(statuses(addresses[0]).await, [404; 4], "{length}");
        // For each of the four: once around, and the one that sees it. A blob's size is asked for once more by range.
        let answers = answers.load(Ordering::SeqCst);
        assert!(answers <= 4 * (length + 1), "{length}: {answers}");
        stop.cancel();
    }
}

fn counter() -> (Arc<AtomicUsize>, Observe) {
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = answers.clone();
    let observe = move |_: &server::Answered| {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    (answers, Arc::new(observe))
}

#[tokio::test]
async fn a_node_may_stand_behind_a_node() {
    let tags = r#"{"tags":["v1"]}"#;
    let registry = Fake::start(move |_| answer(200, &[("content-type", "application/json")], tags)).await;
    let stop = CancellationToken::new();
    let (_, observe) = counter();
    let ((outer, address), (inner, behind)) = (port().await, port().await);
    serve(outer, "shoal-outer", &format!("http://{behind}"), observe.clone(), &stop);
    serve(inner, "shoal-inner", &registry.http(), observe, &stop);

    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let url = format!("http://{address}/v2/team/app/tags/list?ns=reg.test&n=5");
    let answer = client.get(url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, tags));
    let [asked] = &registry.asked()[..] else { panic!("{:?}", registry.asked()) };
    assert_eq!(asked.header("via"), "1.1 shoal-outer, 1.1 shoal-inner");
    assert_eq!(asked.path, "/v2/team/app/tags/list?n=5");
    stop.cancel();
}

/// Some registries answer an unknown parameter with 400.
#[tokio::test]
async fn every_request_names_this_node_and_none_the_namespace() {
    let registry = Fake::start(|_| hello()).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let (scope, tag) = (scope("reg.test"), Reference::Tag("v1".parse().unwrap()));
    upstreams.head_manifest(&scope, &tag, &Accept::default()).await.unwrap();
    upstreams.get_manifest(&scope, &Reference::Digest(digest()), &Accept::default()).await.unwrap();
    upstreams.blob_size(&scope, &digest()).await.unwrap();
    get(&upstreams, "reg.test").await.unwrap();
    upstreams.pass(&scope, Passage::Tags, "").await.unwrap();
    let asked = registry.asked();
    assert_eq!(asked.len(), 5);
    for asked in asked {
        assert_eq!(asked.header("via"), "1.1 shoal-self");
        assert!(!asked.path.contains("ns="), "{}", asked.path);
    }
}
