//! One machine, Docker and no fleet: what was pulled once is there when the registry is not.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use shoal_tests::docker::{Docker, Network};
use shoal_tests::fleet::Fleet;
use shoal_tests::image::debian::Debian;
use shoal_tests::node::Settings;
use shoal_tests::process::{output, until};
use shoal_tests::registry::Kind;
use shoal_tests::tool;

#[tokio::test]
async fn docker_pulls_again_while_its_registry_is_gone() {
    let debian = Debian::get().unwrap();
    let mut fleet = Fleet::start(Kind::Distribution, 0).await.unwrap();
    // The same after a restart: the engine is told once.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Settings { gateway_addr: Some(free), ..fleet.settings() };
    fleet.grow_with(settings).await.unwrap();
    fleet.registry.push_debian("library/debian", &debian).await.unwrap();
    let docker = Docker::start(fleet.home(), "docker", &[], Network::None).await.unwrap();
    let gateway = fleet.nodes[0].gateway_url();
    let mut setup = Command::new(tool::shoal().unwrap());
    setup
        .args(["setup", "docker", "--config-dir", "/docker", "--gateway", &gateway, "--root"])
        .arg(fleet.home());
    output(&mut setup).unwrap();
    docker.reload().unwrap();
    let is_read = async || {
        let info = docker.docker(&["info", "--format", "{{json .RegistryConfig.Mirrors}}"]).unwrap();
        String::from_utf8_lossy(&info).contains(&gateway).then_some(())
    };
    until("the engine reads daemon.json again", Duration::from_secs(10), is_read).await.unwrap();

    let layers: u64 = debian.image.layers.iter().map(|layer| layer.size).sum();
    let pull = || {
        docker
            .docker(&["pull", "debian:latest"])
            .unwrap_or_else(|error| panic!("{error:#}\n{}", docker.tail()))
    };
    let id = || docker.docker(&["image", "inspect", "--format", "{{.Id}}", "debian:latest"]).unwrap();
    pull();
    let first = id();
    let upstream = fleet.nodes[0].status().await.unwrap().traffic.upstream.bytes;
    assert!(upstream >= layers, "{upstream} bytes came from the registry through the node, of {layers}");

    // The node is started again too: what it knows of the tag and of who may read is on its disk.
    docker.docker(&["image", "rm", "debian:latest"]).unwrap();
    fleet.registry.stop();
    // A kill would lose what was counted since it was written down last.
    fleet.nodes[0].stop().unwrap();
    fleet.nodes[0].restart().await.unwrap();
    pull();
    assert_eq!(id(), first);
    let status = fleet.nodes[0].status().await.unwrap();
    let (traffic, saved) = (status.traffic, status.savings);
    assert_eq!(traffic.upstream.bytes, 0);
    assert!(traffic.store.bytes >= layers, "{traffic:?}");

    // What was saved is counted over the restart, and shown to people.
    assert_eq!(saved.upstream_bytes, upstream);
    assert!(saved.given_bytes >= 2 * layers, "{saved:?}");
    assert_eq!((saved.pulls, saved.offline_pulls), (2, 1), "{saved:?}");
    let mut shown = Command::new(tool::shoal().unwrap());
    shown.args(["status", "--admin-addr", &fleet.nodes[0].serving.admin.to_string()]);
    let shown = String::from_utf8(output(&mut shown).unwrap()).unwrap();
    assert!(shown.contains("2 pulls, 1 of them while the registry was down"), "{shown}");
}
