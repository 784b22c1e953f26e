//! The clients that people use pull a real image through a node that never had it, from a node that did.
//!
//! Each test: two nodes and a real registry with Debian in it; the first node already pulled the image; the client
//! pulls it through the second. What the client has is compared with what was pushed, byte for byte, and by the
//! registry's own access log the second pull took no byte of any blob from it.

use std::fs;
use std::process::Command;

use serde_json::Value;
use shoal_tests::containerd::Containerd;
use shoal_tests::docker::{Docker, Network};
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::debian::{Debian, diff_ids};
use shoal_tests::image::{Image, digest, file_digest};
use shoal_tests::process::output;
use shoal_tests::registry::Kind;
use shoal_tests::registry::access::Access;
use shoal_tests::skopeo::{Copied, Platforms};
use shoal_tests::tool;

/// Two nodes, the first of which holds Debian, all of it.
async fn warm(kind: Kind, debian: &Debian) -> (Fleet, Access) {
    let fleet = Fleet::start(kind, 2).await.unwrap();
    fleet.registry.push_debian("library/debian", debian).await.unwrap();
    let client = fleet.nodes[0].client().unwrap();
    let repository = format!("{REGISTRY}/library/debian");
    assert_eq!(client.manifest(&repository, "latest").await.unwrap().body, debian.index.bytes);
    for image in [&debian.image, &debian.docker, &debian.other] {
        client.pull(&repository, &image.manifest.digest, image).await.unwrap();
    }
    let access = fleet.registry.access().await.unwrap();
    assert!(access.all_blob_bytes() >= debian.image.size(), "the first pull did not come from the registry");
    (fleet, access)
}

/// The second pull read no blob from the registry, and really came through the second node, from its peer.
async fn only_from_the_peer(fleet: &Fleet, before: &Access, image: &Image) {
    let access = fleet.registry.access().await.unwrap().since(before);
    assert_eq!(access.all_blob_bytes(), 0, "{access:#?}");
    let traffic = fleet.nodes[1].status().await.unwrap().traffic;
    let layers: u64 = image.layers.iter().map(|layer| layer.size).sum();
    assert!(traffic.peer.bytes >= layers, "{traffic:?}");
}

async fn containerd_pulls(kind: Kind) {
    let debian = Debian::get().unwrap();
    let (fleet, before) = warm(kind, &debian).await;
    let containerd = Containerd::start(fleet.home(), "containerd").await.unwrap();
    containerd.mirror(REGISTRY, &fleet.nodes[1].gateway_url()).unwrap();
    let name = format!("{REGISTRY}/library/debian:latest");
    containerd.pull(&name).unwrap();

    assert_eq!(containerd.content(&debian.index.digest).unwrap(), debian.index.bytes);
    assert_eq!(containerd.content(&debian.image.manifest.digest).unwrap(), debian.image.manifest.bytes);
    for blob in debian.image.blobs() {
        assert!(
            containerd.content(&blob.digest).unwrap() == blob.bytes().unwrap(),
            "{} differs",
            blob.digest
        );
    }
    only_from_the_peer(&fleet, &before, &debian.image).await;
    let said = containerd.run(&name, &["/bin/echo", "from", "the", "fleet"]).unwrap();
    assert_eq!(said, "from the fleet\n");
}

#[tokio::test]
async fn containerd_pulls_what_docker_registry_2_8_has() {
    containerd_pulls(Kind::Debian).await;
}

#[tokio::test]
async fn containerd_pulls_what_distribution_3_1_has() {
    containerd_pulls(Kind::Distribution).await;
}

/// Docker keeps config files as they were and layers unpacked: `docker save` gives both back.
fn saved_is_what_was_pushed(docker: &Docker, fleet: &Fleet, name: &str, image: &Image) {
    let directory = fleet.home().join("saved");
    fs::create_dir(&directory).unwrap();
    let archive = directory.join("saved.tar");
    docker.docker(&["save", "--output", archive.to_str().unwrap(), name]).unwrap();
    output(Command::new(tool::TAR.path().unwrap()).arg("-xf").arg(&archive).arg("-C").arg(&directory))
        .unwrap();
    let manifest: Value =
        serde_json::from_slice(&fs::read(directory.join("manifest.json")).unwrap()).unwrap();
    let config = fs::read(directory.join(manifest[0]["Config"].as_str().unwrap())).unwrap();
    assert_eq!(digest(&config), image.config.digest);
    let layers: Vec<String> = manifest[0]["Layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| file_digest(&directory.join(layer.as_str().unwrap())).unwrap().0)
        .collect();
    assert_eq!(layers, diff_ids(image).unwrap());
    fs::remove_dir_all(directory).unwrap();
}

async fn docker_pulls(kind: Kind) {
    let debian = Debian::get().unwrap();
    let (fleet, before) = warm(kind, &debian).await;
    let mirrors = [fleet.nodes[1].gateway_url()];
    let docker = Docker::start(fleet.home(), "docker", &mirrors, Network::None).await.unwrap();
    for (name, image) in [("debian:latest", &debian.image), ("debian:docker", &debian.docker)] {
        docker.docker(&["pull", name]).unwrap_or_else(|error| panic!("{error:#}\n{}", docker.tail()));
        saved_is_what_was_pushed(&docker, &fleet, name, image);
    }
    only_from_the_peer(&fleet, &before, &debian.image).await;
    let run = ["run", "--rm", "--network", "none", "debian:latest", "/bin/echo", "from", "the", "fleet"];
    assert_eq!(docker.docker(&run).unwrap(), b"from the fleet\n");
}

#[tokio::test]
async fn docker_pulls_what_docker_registry_2_8_has() {
    docker_pulls(Kind::Debian).await;
}

#[tokio::test]
async fn docker_pulls_what_distribution_3_1_has() {
    docker_pulls(Kind::Distribution).await;
}

async fn skopeo_copies(kind: Kind) {
    let debian = Debian::get().unwrap();
    let (fleet, before) = warm(kind, &debian).await;
    let name = format!("{}/{REGISTRY}/library/debian:latest", fleet.nodes[1].serving.gateway);
    let copied = Copied::copy(fleet.home(), "skopeo", &name, Platforms::All).unwrap();
    assert_eq!(copied.manifest().unwrap(), debian.index.bytes);
    for image in [&debian.image, &debian.other] {
        assert_eq!(copied.child(&image.manifest.digest).unwrap(), image.manifest.bytes);
        for blob in image.blobs() {
            assert!(copied.blob(&blob.digest).unwrap() == blob.bytes().unwrap(), "{} differs", blob.digest);
        }
    }
    only_from_the_peer(&fleet, &before, &debian.image).await;
}

#[tokio::test]
async fn skopeo_copies_what_docker_registry_2_8_has() {
    skopeo_copies(Kind::Debian).await;
}

#[tokio::test]
async fn skopeo_copies_what_distribution_3_1_has() {
    skopeo_copies(Kind::Distribution).await;
}
