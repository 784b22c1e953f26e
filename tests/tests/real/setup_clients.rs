//! Real clients with what `shoal setup` wrote for them: a hit, a miss, and Shoal stopped.
//!
//! Each test: a node and its registry; `shoal setup` writes into a root of the test's own; the client reads what it
//! wrote. That an image came through the node is seen in the node's own count of what it holds, that it came past it
//! in the registry's access log.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use shoal_tests::containerd::{Containerd, Version};
use shoal_tests::docker::{Docker, Network};
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::debian::Debian;
use shoal_tests::image::{Image, synthetic};
use shoal_tests::node::Settings;
use shoal_tests::process::{output, until};
use shoal_tests::registry::{Kind, Registry};
use shoal_tests::tool;

/// What clients are asked to pull.
const REPOSITORY: &str = "some/image";

/// Runs `shoal setup` on a root, for a node.
fn setup(root: &Path, fleet: &Fleet, args: &[&str]) -> String {
    let mut command = Command::new(tool::shoal().unwrap());
    command.arg("setup").args(args).arg("--root").arg(root);
    if !args.contains(&"--undo") {
        command.args(["--gateway", &fleet.nodes[0].gateway_url()]);
    }
    String::from_utf8(output(&mut command).unwrap()).unwrap()
}

/// A registry and a node that knows it also by its address, which is how containerd names it.
async fn fleet() -> Fleet {
    let mut fleet = Fleet::start(Kind::Distribution, 0).await.unwrap();
    let mut settings = fleet.settings();
    settings.upstreams.push((fleet.registry.address().to_string(), fleet.registry.url()));
    fleet.grow_with(settings).await.unwrap();
    fleet.settled().await.unwrap();
    fleet
}

async fn pushed(fleet: &Fleet, registry: &Registry, tag: &str, seed: u64) -> Image {
    let image = synthetic::image(fleet.home(), seed, &[300_000, 70_000]).unwrap();
    registry.push(REPOSITORY, tag, &image).await.unwrap();
    image
}

/// How much the node holds.
async fn held(fleet: &Fleet) -> u64 {
    fleet.nodes[0].status().await.unwrap().store.bytes
}

async fn containerd_reads_it(version: Version) {
    let mut fleet = fleet().await;
    let root = fleet.home().join("host");
    fs::create_dir(&root).unwrap();
    let said = setup(&root, &fleet, &["containerd"]);
    assert!(said.contains("restart needed: containerd"), "{said}");
    let hosts = root.join("etc/containerd/certs.d");
    let containerd = Containerd::start_version(version, fleet.home(), "containerd").await.unwrap();
    let arrived = |image: &Image| {
        for blob in image.blobs() {
            let content = containerd.content(&blob.digest).unwrap();
            assert!(content == blob.bytes().unwrap(), "{} differs", blob.digest);
        }
    };

    let hit = pushed(&fleet, &fleet.registry, "hit", 1).await;
    containerd.fetch(&hosts, &format!("{}/{REPOSITORY}:hit", fleet.registry.address())).unwrap();
    arrived(&hit);
    assert!(held(&fleet).await >= hit.size(), "it did not come through the node");
    let access = fleet.registry.access().await.unwrap();
    assert_eq!(access.all_blob_bytes(), hit.size(), "{access:#?}");

    // A registry that the node may not ask: on loopback, and no upstream of its own.
    let other = Registry::start(Kind::Distribution, fleet.home(), "other").await.unwrap();
    let miss = pushed(&fleet, &other, "miss", 2).await;
    let before = held(&fleet).await;
    containerd.fetch(&hosts, &format!("{}/{REPOSITORY}:miss", other.address())).unwrap();
    arrived(&miss);
    assert_eq!(held(&fleet).await, before, "the node was not to have it");

    fleet.nodes[0].stop().unwrap();
    let stopped = pushed(&fleet, &fleet.registry, "stopped", 3).await;
    containerd.fetch(&hosts, &format!("{}/{REPOSITORY}:stopped", fleet.registry.address())).unwrap();
    arrived(&stopped);

    // The daemon itself, started with this config.toml, would look where the hosts are.
    for original in [None, Some("version = 2\n"), Some("root = \"/x\"\n")] {
        let root = fleet.home().join("config");
        let config = root.join("etc/containerd/config.toml");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        if let Some(original) = original {
            fs::write(&config, original).unwrap();
        }
        setup(&root, &fleet, &["containerd"]);
        let mut dump = Command::new(version.daemon().path().unwrap());
        let dumped = output(dump.arg("--config").arg(&config).args(["config", "dump"])).unwrap();
        let dumped = String::from_utf8(dumped).unwrap().replace('\'', "\"");
        assert!(dumped.contains("config_path = \"/etc/containerd/certs.d\""), "{original:?}:\n{dumped}");
        fs::remove_dir_all(root).unwrap();
    }
}

#[tokio::test]
async fn containerd_1_6_reads_what_was_written() {
    containerd_reads_it(Version::Debian).await;
}

#[tokio::test]
async fn containerd_2_4_reads_what_was_written() {
    containerd_reads_it(Version::Built).await;
}

/// A third form of config.toml, which only containerd 2 knows.
#[tokio::test]
async fn containerd_2_4_reads_its_own_form_of_config() {
    let fleet = Fleet::start(Kind::Distribution, 1).await.unwrap();
    for form in ["3", "4"] {
        let root = fleet.home().join(form);
        let config = root.join("etc/containerd/config.toml");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        fs::write(&config, format!("version = {form}\n")).unwrap();
        setup(&root, &fleet, &["containerd"]);
        let mut dump = Command::new(tool::CONTAINERD.path().unwrap());
        let dumped = output(dump.arg("--config").arg(&config).args(["config", "dump"])).unwrap();
        let dumped = String::from_utf8(dumped).unwrap().replace('\'', "\"");
        assert!(dumped.contains("config_path = \"/etc/containerd/certs.d\""), "{form}:\n{dumped}");
    }
}

fn mirrors(docker: &Docker) -> String {
    let info = docker.docker(&["info", "--format", "{{json .RegistryConfig.Mirrors}}"]).unwrap();
    String::from_utf8(info).unwrap()
}

/// The engine is told by a reload, as the command says, and is never restarted.
#[tokio::test]
async fn docker_reads_what_was_written_at_a_reload() {
    let debian = Debian::get().unwrap();
    let mut fleet = fleet().await;
    fleet.registry.push_debian("library/debian", &debian).await.unwrap();
    let docker = Docker::start(fleet.home(), "docker", &[], Network::None).await.unwrap();
    let home = fleet.home().to_owned();
    let original = fs::read(home.join("docker/daemon.json")).unwrap();
    let said = setup(&home, &fleet, &["docker", "--config-dir", "/docker"]);
    assert!(said.contains("reload needed: Docker"), "{said}");
    assert_eq!(mirrors(&docker).trim(), "[]", "a mirror before the reload");
    docker.reload().unwrap();
    let gateway = fleet.nodes[0].gateway_url();
    let is_read = async || mirrors(&docker).contains(&gateway).then_some(());
    until("the engine reads daemon.json again", Duration::from_secs(10), is_read).await.unwrap();

    docker.docker(&["pull", "debian:latest"]).unwrap_or_else(|error| panic!("{error:#}\n{}", docker.tail()));
    assert!(held(&fleet).await >= debian.image.layers.iter().map(|layer| layer.size).sum::<u64>());

    // Docker Hub itself is out of a test's reach: what matters is that the engine turns to it.
    let turns_to_the_hub = |name: &str| {
        let before = docker.log().unwrap().len();
        let error = docker.docker(&["pull", name]).unwrap_err().to_string();
        let log = docker.log().unwrap().split_off(before);
        let hub = "registry-1.docker.io";
        let denied = ["denied", "not found", "unknown"].iter().any(|word| error.contains(word));
        assert!(error.contains(hub) || log.contains(hub) || denied, "{error}\n{log}");
    };
    turns_to_the_hub("library/shoal-tests-no-such-image:1");
    fleet.nodes[0].stop().unwrap();
    turns_to_the_hub("library/shoal-tests-no-such-image:2");

    // A reload would not do: the engine keeps mirrors that are no longer in the file.
    let said = setup(&home, &fleet, &["docker", "--config-dir", "/docker", "--undo"]);
    assert!(said.contains("restart needed"), "{said}");
    assert_eq!(fs::read(home.join("docker/daemon.json")).unwrap(), original);
}

/// Has skopeo find the registry, whose name no name server knows. `shoal setup` does not take it for the registry itself
/// that is there, and so this is done after it. Gives what it wrote.
fn found_at(address: SocketAddr, file: &Path) -> String {
    let written = fs::read_to_string(file).unwrap();
    let place = format!("prefix = \"{REGISTRY}\"\nlocation = \"{address}\"");
    let found = written.replacen(&format!("location = \"{REGISTRY}\""), &place, 1);
    assert_ne!(found, written);
    fs::write(file, found).unwrap();
    written
}

/// skopeo, with the library of podman, buildah and CRI-O, reads a user's own files as it reads those in /etc.
#[tokio::test]
async fn skopeo_reads_what_was_written() {
    let mut fleet = fleet().await;
    let root = fleet.home().join("user");
    let folder = root.join(".config/containers");
    fs::create_dir_all(&folder).unwrap();
    // The registry is in this file already: the mirror has to be added here.
    let file = folder.join("registries.conf");
    let original = format!("[[registry]]\nlocation = \"{REGISTRY}\"\ninsecure = true\n");
    fs::write(&file, &original).unwrap();
    let args = ["podman", "--config-dir", "/.config/containers"];
    setup(&root, &fleet, &[&args[..], &["--registry", REGISTRY, "--registry", "docker.io"]].concat());
    let written = found_at(fleet.registry.address(), &file);
    let copy = |image: &str, to: &str| {
        let mut command = Command::new(tool::SKOPEO.path().unwrap());
        command.args(["--insecure-policy", "copy", "--preserve-digests"]);
        command.arg(format!("docker://{image}")).arg(format!("dir:{}", root.join(to).display()));
        output(command.env("HOME", &root).env("XDG_CONFIG_HOME", root.join(".config")))
    };
    let arrived = |image: &Image, to: &str| {
        for blob in image.blobs() {
            let hex = blob.digest.split_once(':').unwrap().1;
            assert!(fs::read(root.join(to).join(hex)).unwrap() == blob.bytes().unwrap(), "{hex} differs");
        }
    };

    let hit = pushed(&fleet, &fleet.registry, "hit", 1).await;
    copy(&format!("{REGISTRY}/{REPOSITORY}:hit"), "hit").unwrap();
    arrived(&hit, "hit");
    let first = held(&fleet).await;
    assert!(first >= hit.size(), "it did not come through the node");
    // The other one has nothing but the file of our own.
    let hub = pushed(&fleet, &fleet.registry, "hub", 2).await;
    copy(&format!("docker.io/{REPOSITORY}:hub"), "hub").unwrap();
    arrived(&hub, "hub");
    assert!(held(&fleet).await >= first + hub.size(), "it did not come through the node");

    fleet.nodes[0].stop().unwrap();
    let stopped = pushed(&fleet, &fleet.registry, "stopped", 3).await;
    copy(&format!("{REGISTRY}/{REPOSITORY}:stopped"), "stopped").unwrap();
    arrived(&stopped, "stopped");

    fs::write(&file, written).unwrap();
    setup(&root, &fleet, &[&args[..], &["--undo"]].concat());
    assert_eq!(fs::read_to_string(&file).unwrap(), original);
    assert!(!folder.join("registries.conf.d").exists());
}

/// A node whose policy denies a registry answers with a miss.
#[tokio::test]
async fn skopeo_goes_past_a_node_that_may_not_ask() {
    let mut fleet = Fleet::start(Kind::Distribution, 0).await.unwrap();
    let settings = Settings { config: format!("[policy]\ndeny = [\"{REGISTRY}\"]\n"), ..fleet.settings() };
    fleet.grow_with(settings).await.unwrap();
    let root = fleet.home().join("user");
    fs::create_dir_all(root.join(".config/containers")).unwrap();
    let file = root.join(".config/containers/registries.conf");
    fs::write(&file, format!("[[registry]]\nlocation = \"{REGISTRY}\"\ninsecure = true\n")).unwrap();
    setup(&root, &fleet, &["podman", "--config-dir", "/.config/containers", "--registry", REGISTRY]);
    found_at(fleet.registry.address(), &file);
    let image = pushed(&fleet, &fleet.registry, "miss", 1).await;
    let mut command = Command::new(tool::SKOPEO.path().unwrap());
    command.args(["--insecure-policy", "copy", &format!("docker://{REGISTRY}/{REPOSITORY}:miss")]);
    command.arg(format!("dir:{}", root.join("miss").display()));
    output(command.env("HOME", &root).env("XDG_CONFIG_HOME", root.join(".config"))).unwrap();
    let access = fleet.registry.access().await.unwrap();
    assert_eq!(access.all_blob_bytes(), image.size(), "{access:#?}");
    assert_eq!(held(&fleet).await, 0);
}
