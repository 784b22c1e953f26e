//! The harness itself, with real registries: what the other tests rely on.

use shoal_tests::client::Client;
use shoal_tests::containerd::Containerd;
use shoal_tests::docker::{Docker, Network};
use shoal_tests::image::debian::Debian;
use shoal_tests::image::synthetic;
use shoal_tests::registry::{Kind, Registry};
use shoal_tests::skopeo::{Copied, Platforms};

/// The access log must count exactly what was sent: half of the other tests stand on it.
#[tokio::test]
async fn the_access_log_counts_the_bytes_of_each_blob() {
    for kind in Kind::ALL {
        let home = tempfile::tempdir().unwrap();
        let mut registry = Registry::start(kind, home.path(), "registry").await.unwrap();
        let image = synthetic::image(home.path(), 1, &[5 << 20, 100]).unwrap();
        registry.push("a/b", "tag", &image).await.unwrap();
        let before = registry.access().await.unwrap();
        let client = Client::new(&registry.url()).unwrap();
        client.pull("a/b", "tag", &image).await.unwrap();
        let path = format!("/v2/a/b/blobs/{}", image.layers[0].digest);
        let part = client.send(http::Method::GET, &path, &[("range", "bytes=10-19")]).await.unwrap();
        assert_eq!(part.body.len(), 10);
        let access = registry.access().await.unwrap().since(&before);
        assert_eq!(
            access.blob_bytes(&image.layers[0].digest),
            image.layers[0].size + 10,
            "{kind:?} {access:?}"
        );
        assert_eq!(access.blob_bytes(&image.layers[1].digest), 100, "{kind:?}");
        assert_eq!(access.manifest_requests("GET"), 1, "{kind:?}");

        registry.stop();
        assert!(client.get("/v2/").await.is_err(), "{kind:?} answers though it was stopped");
        registry.restart().await.unwrap();
        client.pull("a/b", &image.manifest.digest, &image).await.unwrap();
    }
}

#[tokio::test]
async fn debian_is_pushed_and_pulled_in_every_form() {
    let debian = Debian::get().unwrap();
    assert!(debian.image.layers.len() >= 4);
    assert_ne!(debian.image.manifest.digest, debian.other.manifest.digest);
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(Kind::Debian, home.path(), "registry").await.unwrap();
    registry.push_debian("library/debian", &debian).await.unwrap();
    let client = Client::new(&registry.url()).unwrap();
    client.pull("library/debian", "plain", &debian.image).await.unwrap();
    client.pull("library/debian", "docker", &debian.docker).await.unwrap();
    client.pull("library/debian", &debian.other.manifest.digest, &debian.other).await.unwrap();
    assert_eq!(client.manifest("library/debian", "latest").await.unwrap().body, debian.index.bytes);
}

/// Each engine pulls from a registry that is not Shoal: what fails in the other tests is then not the engine.
#[tokio::test]
async fn every_engine_works_without_shoal() {
    let debian = Debian::get().unwrap();
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(Kind::Distribution, home.path(), "registry").await.unwrap();
    registry.push_debian("library/debian", &debian).await.unwrap();

    let containerd = Containerd::start(home.path(), "containerd").await.unwrap();
    containerd.mirror("registry.test", &registry.url()).unwrap();
    containerd.pull("registry.test/library/debian:latest").unwrap();
    let said = containerd.run("registry.test/library/debian:latest", &["cat", "/etc/shoal-tests"]).unwrap();
    assert!(said.starts_with("shoal-tests "), "{said}");

    let docker = Docker::start(home.path(), "docker", &[registry.url()], Network::None).await.unwrap();
    docker.docker(&["pull", "debian:latest"]).unwrap();
    let said =
        docker.docker(&["run", "--rm", "--network", "none", "debian", "cat", "/etc/shoal-tests"]).unwrap();
    assert!(said.starts_with(b"shoal-tests "), "{said:?}");

    let image = format!("{}/library/debian", registry.address());
    let copied = Copied::copy(home.path(), "skopeo", &image, Platforms::All).unwrap();
    assert_eq!(copied.manifest().unwrap(), debian.index.bytes);
}
