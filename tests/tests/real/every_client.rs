//! Every client, told of Shoal by `shoal setup`: a hit, a miss, Shoal stopped, and what its closed port costs.
//!
//! A Docker Hub of the test's own stands beside the mirror: a client that goes past Shoal is seen there.

use std::process::Command;
use std::time::{Duration, Instant};

use shoal_tests::containerd::Version as Containerd;
use shoal_tests::docker::Version as Docker;
use shoal_tests::fleet::Fleet;
use shoal_tests::hub::Hub;
use shoal_tests::image::{Image, synthetic};
use shoal_tests::process::output;
use shoal_tests::puller::{self, Kind, Puller, REPOSITORY};
use shoal_tests::registry::Kind as RegistryKind;
use shoal_tests::tool;

async fn pushed(fleet: &Fleet, tag: &str, seed: u64) -> Image {
    let image = synthetic::unpackable(fleet.home(), seed, &[300_000, 70_000]).unwrap();
    fleet.registry.push(REPOSITORY, tag, &image).await.unwrap();
    image
}

async fn pulls(kind: Kind) {
    let mut fleet = Fleet::start(RegistryKind::Distribution, 1).await.unwrap();
    let hub = Hub::start(fleet.home(), fleet.registry.address()).await.unwrap();
    let gateway = fleet.nodes[0].gateway_url();
    let client = Puller::start(kind, &fleet.home().join("client"), &hub, Some(&gateway)).await.unwrap();

    let hit = pushed(&fleet, "hit", 1).await;
    let name = format!("docker.io/{REPOSITORY}");
    fleet.nodes[0].client().unwrap().pull(&name, "hit", &hit).await.unwrap();
    let before = fleet.registry.access().await.unwrap();
    client.pull("hit").unwrap();
    client.has("hit", &hit).unwrap();
    let access = fleet.registry.access().await.unwrap().since(&before);
    assert_eq!(access.all_blob_bytes(), 0, "the node had it: {access:#?}");

    let miss = pushed(&fleet, "miss", 2).await;
    let before = fleet.registry.access().await.unwrap();
    client.pull("miss").unwrap();
    client.has("miss", &miss).unwrap();
    let access = fleet.registry.access().await.unwrap().since(&before);
    assert_eq!(access.all_blob_bytes(), miss.size(), "{access:#?}");
    assert_eq!(hub.connections(), 0, "it went past Shoal");

    let stopped = pushed(&fleet, "stopped", 3).await;
    fleet.nodes[0].stop().unwrap();
    client.pull("stopped").unwrap();
    client.has("stopped", &stopped).unwrap();
    assert!(hub.connections() > 0, "where did it get it from?");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_1_6() {
    pulls(Kind::Containerd(Containerd::Debian)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_2_4() {
    pulls(Kind::Containerd(Containerd::Built)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_20_10() {
    pulls(Kind::Docker(Docker::Debian)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_29_with_the_store_of_containerd() {
    pulls(Kind::Docker(Docker::Built)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildkit() {
    pulls(Kind::Buildkit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman() {
    pulls(Kind::Podman).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildah() {
    pulls(Kind::Buildah).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo() {
    pulls(Kind::Skopeo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regctl_with_a_mirror() {
    pulls(Kind::Regctl).await;
}

/// Clients that know no mirror name the gateway and the registry in the image's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crane_oras_and_regctl_by_path() {
    let mut fleet = Fleet::start(RegistryKind::Distribution, 1).await.unwrap();
    let gateway = fleet.nodes[0].serving.gateway;
    let home = fleet.home().to_owned();
    let pull = |client: &str, tag: &str| {
        let name = format!("{gateway}/docker.io/{REPOSITORY}:{tag}");
        let folder = home.join(format!("{client}-{tag}"));
        let mut command = match client {
            "crane" => Command::new(tool::CRANE.path().unwrap()),
            "oras" => Command::new(tool::ORAS.path().unwrap()),
            _ => Command::new(tool::REGCTL.path().unwrap()),
        };
        command.env("HOME", &home);
        let to = folder.display();
        match client {
            "crane" => command.args(["pull", "--format", "oci", &name]).arg(&folder),
            "oras" => {
                command.args(["copy", "--from-plain-http", &name, "--to-oci-layout", &format!("{to}:{tag}")])
            }
            _ => command.args([
                "image",
                "copy",
                "--host",
                &format!("reg={gateway},tls=disabled"),
                &name,
                &format!("ocidir://{to}:{tag}"),
            ]),
        };
        output(&mut command).map(|_| folder)
    };
    for (seed, client) in [(10, "crane"), (20, "oras"), (30, "regctl")] {
        for tag in ["miss", "hit"] {
            let tag = format!("{client}-{tag}");
            let image = pushed(&fleet, &tag, seed).await;
            let before = fleet.registry.access().await.unwrap();
            let folder = pull(client, &tag).unwrap();
            puller::in_folder(&folder, &image).unwrap();
            let fetched = fleet.registry.access().await.unwrap().since(&before).all_blob_bytes();
            // The same image again, under another name.
            let expected = if tag.ends_with("miss") { image.size() } else { 0 };
            assert_eq!(fetched, expected, "{tag}");
        }
    }
    fleet.nodes[0].stop().unwrap();
    for client in ["crane", "oras", "regctl"] {
        let error = pull(client, "stopped").unwrap_err().to_string();
        assert!(error.contains("refused"), "{client}: {error}");
    }
}

/// The port of a gateway that does not run is closed, and says so at once.
#[expect(clippy::print_stdout, reason = "the figure is of interest, and not only whether it is low enough")]
async fn cost_of_a_closed_port(kind: Kind) {
    const PULLS: u64 = 7;
    let fleet = Fleet::start(RegistryKind::Distribution, 0).await.unwrap();
    let hub = Hub::start(fleet.home(), fleet.registry.address()).await.unwrap();
    // Port 9 of loopback takes no connection.
    let told = Some("http://127.0.0.1:9");
    let with = Puller::start(kind, &fleet.home().join("with"), &hub, told).await.unwrap();
    let without = Puller::start(kind, &fleet.home().join("without"), &hub, None).await.unwrap();
    let (mut took_with, mut took_without) = (Vec::new(), Vec::new());
    for number in 0..=PULLS {
        let tag = format!("cost-{number}");
        let image = synthetic::unpackable(fleet.home(), 100 + number, &[1000]).unwrap();
        fleet.registry.push(REPOSITORY, &tag, &image).await.unwrap();
        let took = |client: &Puller<'_>| {
            let begun = Instant::now();
            client.pull(&tag).unwrap();
            begun.elapsed()
        };
        let pair = (took(&without), took(&with));
        // The first ones warm both up.
        if number > 0 {
            took_without.push(pair.0);
            took_with.push(pair.1);
        }
    }
    took_with.sort();
    took_without.sort();
    let shown = format!("{kind:?}: {took_with:?} with a closed port, {took_without:?} without a mirror");
    // A busy machine makes some of them slow, and medians differ; not the fastest ones.
    let added = took_with[0].saturating_sub(took_without[0]);
    assert!(added <= Duration::from_millis(300), "{shown}");
    let median = |all: &[Duration]| all[all.len() / 2].as_secs_f64();
    println!(
        "{kind:?}: medians of {:.3} s with a closed port, {:.3} s without a mirror",
        median(&took_with),
        median(&took_without)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_costs_next_to_nothing() {
    for kind in Kind::ALL {
        cost_of_a_closed_port(kind).await;
    }
}
