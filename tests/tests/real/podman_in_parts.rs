//! podman pulls a zstd:chunked image through Shoal: the index at the layer's end, then many ranges in one request.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use shoal_tests::fleet::Fleet;
use shoal_tests::hub::Hub;
use shoal_tests::image::{Blob, synthetic};
use shoal_tests::process::output;
use shoal_tests::registry::Kind;
use shoal_tests::tool;

const REPOSITORY: &str = "some/image";
/// In the older image; the newer has them and as many more.
const FILES: u64 = 20;
/// Of each, in bytes; they do not compress.
const SIZE: u64 = 100_000;

/// A command with stores of its own in `home`, whose mounts are gone with it.
fn client(hub: &Hub, program: tool::Tool, home: &Path) -> Command {
    let mut command = hub.command(&program.path().unwrap()).unwrap();
    command.env("HOME", home).env("XDG_CONFIG_HOME", home.join(".config"));
    command
}

fn buildah(hub: &Hub, home: &Path, arguments: &[&str]) -> String {
    let mut command = client(hub, tool::BUILDAH, home);
    command.arg("--root").arg(home.join("built")).arg("--runroot").arg(home.join("built-run"));
    let said = output(command.args(["--storage-driver", "vfs"]).args(arguments)).unwrap();
    String::from_utf8(said).unwrap().trim().to_owned()
}

/// Pushes an image of one layer, in zstd:chunked, with a file for each seed.
fn push(
    hub: &Hub,
    home: &Path,
    registry: SocketAddr,
    tag: &str,
    seeds: impl Iterator<Item = u64>,
) -> Vec<Blob> {
    let content = home.join(tag);
    fs::create_dir(&content).unwrap();
    let files = seeds.map(|seed| synthetic::blob(&content, seed, SIZE).unwrap()).collect();
    let container = buildah(hub, home, &["from", "scratch"]);
    buildah(hub, home, &["add", &container, content.to_str().unwrap(), "/"]);
    buildah(hub, home, &["commit", "--quiet", &container, tag]);
    let to = format!("docker://{registry}/{REPOSITORY}:{tag}");
    let push = ["push", "--tls-verify=false", "--compression-format", "zstd:chunked", "--format", "oci"];
    buildah(hub, home, &[&push[..], &[tag, &to]].concat());
    files
}

/// Whether all these are in one of the layers that podman has unpacked.
fn is_unpacked(graph: &Path, files: &[Blob]) -> bool {
    let mut layers =
        fs::read_dir(graph.join("overlay")).unwrap().map(|entry| entry.unwrap().path().join("diff"));
    layers.any(|diff| {
        files.iter().all(|file| {
            let unpacked = diff.join(file.path.file_name().unwrap());
            fs::read(unpacked).is_ok_and(|bytes| bytes == file.bytes().unwrap())
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_takes_a_chunked_image_in_parts() {
    let fleet = Fleet::start(Kind::Distribution, 1).await.unwrap();
    let hub = Hub::start(fleet.home(), fleet.registry.address()).await.unwrap();
    let home = fleet.home().join("home");
    fs::create_dir_all(home.join(".config/containers")).unwrap();
    let registry = fleet.registry.address();
    let old = push(&hub, &home, registry, "old", (0..2 * FILES).step_by(2));
    // What podman has of it by then is every other file.
    let new = push(&hub, &home, registry, "new", 0..2 * FILES);

    let mut setup = Command::new(tool::shoal().unwrap());
    setup.args(["setup", "podman", "--config-dir", "/.config/containers", "--root"]).arg(&home);
    output(setup.args(["--gateway", &fleet.nodes[0].gateway_url()])).unwrap();
    let graph = home.join("pulled");
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n[storage.options]\npull_options = \
         {{enable_partial_images = \"true\", use_hard_links = \"false\", ostree_repos = \"\"}}\n",
        graph.display(),
        home.join("pulled-run").display()
    );
    fs::write(home.join("storage.conf"), storage).unwrap();
    let mut answered = 0;
    // What was answered to a pull with a status, in bytes.
    let mut pull = |tag: &str| {
        let mut pull = client(&hub, tool::PODMAN, &home);
        pull.env("CONTAINERS_STORAGE_CONF", home.join("storage.conf"));
        output(pull.args(["pull", "--quiet", &format!("docker.io/{REPOSITORY}:{tag}")])).unwrap();
        let log = fleet.nodes[0].log().unwrap();
        let blobs: Vec<_> = log.lines().filter(|line| line.contains("answered what=\"blob\"")).collect();
        let parts: Vec<u64> = blobs[answered..]
            .iter()
            .filter(|line| line.contains("status=206"))
            .map(|line| line.split_once(" bytes=").unwrap().1.split(' ').next().unwrap().parse().unwrap())
            .collect();
        answered = blobs.len();
        parts
    };
    let parts = pull("old");
    assert!(!parts.is_empty(), "it did not read the index");
    assert!(is_unpacked(&graph, &old));

    let parts: u64 = pull("new").iter().sum();
    assert!(is_unpacked(&graph, &new));
    let missing = FILES * SIZE;
    assert!(
        (missing..missing * 3 / 2).contains(&parts),
        "{parts} bytes came in parts, of {missing} that it lacked"
    );
    assert_eq!(hub.connections(), 0, "it went past Shoal");
}
