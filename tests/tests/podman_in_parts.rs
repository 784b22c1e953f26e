//! podman pulls a zstd:chunked image through Shoal: the index at the layer's end, then many ranges in one request.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use shoal_tests::fleet::Fleet;
use shoal_tests::hub::Hub;
use shoal_tests::image::synthetic;
use shoal_tests::process::output;
use shoal_tests::registry::Kind;
use shoal_tests::tool;

const NAME: &str = "some/image:chunked";
const FILES: u64 = 20;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_takes_a_chunked_image_in_parts() {
    let fleet = Fleet::start(Kind::Distribution, 1).await.unwrap();
    let hub = Hub::start(fleet.home(), fleet.registry.address()).await.unwrap();
    let home = fleet.home().join("home");
    fs::create_dir_all(home.join(".config/containers")).unwrap();
    let content = home.join("content");
    fs::create_dir(&content).unwrap();
    let files: Vec<_> = (0..FILES).map(|seed| synthetic::blob(&content, seed, 100_000).unwrap()).collect();
    let container = buildah(&hub, &home, &["from", "scratch"]);
    buildah(&hub, &home, &["add", &container, content.to_str().unwrap(), "/"]);
    buildah(&hub, &home, &["commit", "--quiet", &container, "chunked"]);
    let to = format!("docker://{}/{NAME}", fleet.registry.address());
    let push = ["push", "--tls-verify=false", "--compression-format", "zstd:chunked", "--format", "oci"];
    buildah(&hub, &home, &[&push[..], &["chunked", &to]].concat());

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
    let mut pull = client(&hub, tool::PODMAN, &home);
    pull.env("CONTAINERS_STORAGE_CONF", home.join("storage.conf"));
    output(pull.args(["pull", "--quiet", &format!("docker.io/{NAME}")])).unwrap();

    assert_eq!(hub.connections(), 0, "it went past Shoal");
    let log = fleet.nodes[0].log().unwrap();
    let blobs: Vec<&str> = log.lines().filter(|line| line.contains("answered what=\"blob\"")).collect();
    assert!(blobs.iter().any(|line| line.contains("status=206")), "it did not read the index: {blobs:#?}");
    let layers = fs::read_dir(graph.join("overlay")).unwrap().map(|entry| entry.unwrap().path().join("diff"));
    let layer = layers.into_iter().find(|diff| diff.join(files[0].path.file_name().unwrap()).is_file());
    for file in &files {
        let unpacked = layer.as_ref().unwrap().join(file.path.file_name().unwrap());
        assert!(fs::read(unpacked).unwrap() == file.bytes().unwrap(), "{} differs", file.path.display());
    }
}
