//! What each client does with a mirror that answers with an error, or not at all: it gets the image from Docker Hub by
//! itself.
//!
//! Where Shoal's port is, a registry stands that fails on demand. Behind it is a Docker Hub of the test's own. Some clients
//! do not go on from everything: what they do is in [`gives_up`], and README.md says it.

use std::time::Duration;

use shoal_tests::containerd::Version as Containerd;
use shoal_tests::docker::Version as Docker;
use shoal_tests::faulty::{Fault, Faulty, Kind as Part};
use shoal_tests::hub::Hub;
use shoal_tests::image::synthetic;
use shoal_tests::puller::{Kind, Puller, REPOSITORY};
use shoal_tests::registry::{Kind as RegistryKind, Registry};

/// Errors that a mirror can answer with.
const STATUSES: [u16; 14] = [400, 401, 403, 404, 405, 408, 416, 429, 451, 500, 501, 502, 503, 504];
/// Longer than any client waits that goes on.
const PATIENCE: Duration = Duration::from_secs(150);
/// Who still waits then is one that waits without end.
const SHORT: Duration = Duration::from_secs(10);

/// What the mirror does wrong, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    part: Part,
    fault: Fault,
}

/// Whether a client gets no image at all then, though Docker Hub has it.
fn gives_up(kind: Kind, case: Case) -> bool {
    match case.fault {
        // They limit how long they wait for an answer to 30 s, the others do not.
        Fault::Silent => !matches!(kind, Kind::Containerd(Containerd::Built) | Kind::Docker(Docker::Built)),
        // Whoever gives these the manifest is the one they ask for all of its blobs (containers/image before 2026-05).
        _ => case.part == Part::Blob && matches!(kind, Kind::Podman | Kind::Buildah | Kind::Skopeo),
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let statuses = STATUSES.into_iter().flat_map(|status| {
        [Part::Manifest, Part::Blob].map(|part| Case { part, fault: Fault::Status(status) })
    });
    statuses.chain([Case { part: Part::Manifest, fault: Fault::Silent }])
}

async fn goes_past(kind: Kind) {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(RegistryKind::Distribution, home.path(), "registry").await.unwrap();
    let hub = Hub::start(home.path(), registry.address()).await.unwrap();
    let mirror = Faulty::start().await.unwrap();
    let client = Puller::start(kind, &home.path().join("client"), &hub, Some(&mirror.url())).await.unwrap();
    let mut wrong = Vec::new();
    for (number, case) in cases().enumerate() {
        let tag = format!("case-{number}");
        let image = synthetic::unpackable(home.path(), number as u64, &[1000]).unwrap();
        registry.push(REPOSITORY, &tag, &image).await.unwrap();
        mirror.hold(&tag, &image).unwrap();
        mirror.fail(case.part, case.fault);
        let (asked, connections) = (mirror.seen().len(), hub.connections());
        let patience = if gives_up(kind, case) { SHORT } else { PATIENCE };
        let pulled = client.pull_within(&tag, patience).and_then(|()| client.has(&tag, &image));
        mirror.fail(case.part, Fault::None);
        let seen = mirror.seen().split_off(asked);
        assert!(!seen.is_empty(), "{kind:?}, {case:?}: the mirror was not asked");
        if pulled.is_ok() == gives_up(kind, case) {
            let seen: Vec<String> =
                seen.iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
            let past = hub.connections() - connections;
            wrong.push(format!("{kind:?}, {case:?}: {pulled:#?}\nasked {seen:?}, and the Hub {past} times"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_1_6() {
    goes_past(Kind::Containerd(Containerd::Debian)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_2_4() {
    goes_past(Kind::Containerd(Containerd::Built)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_20_10() {
    goes_past(Kind::Docker(Docker::Debian)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_29_with_the_store_of_containerd() {
    goes_past(Kind::Docker(Docker::Built)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildkit() {
    goes_past(Kind::Buildkit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman() {
    goes_past(Kind::Podman).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildah() {
    goes_past(Kind::Buildah).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo() {
    goes_past(Kind::Skopeo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regctl() {
    goes_past(Kind::Regctl).await;
}
