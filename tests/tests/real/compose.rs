//! `docker-compose.yml` and the `Dockerfile`, as they are in the repository, with both generations of Compose.
//!
//! No base image can be pulled here, so stand-ins are made of local files: Debian's by debootstrap, the registry's
//! of distribution's binary. The daemon is the one that was built for the other tests (the target `prebuilt`).

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use shoal_tests::client::Client;
use shoal_tests::docker::{Docker, Network};
use shoal_tests::image::debian::{self, Debian};
use shoal_tests::process::{output, until};
use shoal_tests::registry::access::Access;
use shoal_tests::registry::push::Target;
use shoal_tests::tool::{self, Tool};

/// How long four nodes may take to be healthy.
const HEALTHY: Duration = Duration::from_mins(2);
const NODES: [&str; 4] = ["node-1", "node-2", "node-3", "node-4"];

/// A copy of what the repository says, with the daemon where `cargo build --release` would put it.
fn project(home: &Path) -> Result<PathBuf> {
    let repository =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ lies in the repository")?;
    let project = home.join("project");
    fs::create_dir_all(project.join("target/release"))?;
    for file in ["docker-compose.yml", "Dockerfile", ".dockerignore"] {
        fs::copy(repository.join(file), project.join(file)).with_context(|| file.to_owned())?;
    }
    fs::copy(tool::shoal()?, project.join("target/release/shoal"))?;
    Ok(project)
}

#[test]
fn both_generations_of_compose_accept_the_file() {
    let home = tempfile::tempdir().unwrap();
    let project = project(home.path()).unwrap();
    for compose in [tool::COMPOSE_V1, tool::COMPOSE_V2] {
        let mut command = Command::new(compose.path().unwrap());
        let services = output(command.current_dir(&project).args(["config", "--services"])).unwrap();
        let services = String::from_utf8(services).unwrap();
        for service in NODES.iter().chain(&["registry", "key"]) {
            assert!(services.lines().any(|line| line == *service), "{compose:?}: {services}");
        }
    }
}

/// A running fleet of the project's, with one Compose.
struct Composed<'a> {
    docker: &'a Docker,
    compose: Tool,
    project: &'a Path,
    ports: [u16; 5],
}

impl Composed<'_> {
    fn compose(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.docker.command(&self.compose.path()?);
        command.current_dir(self.project).args(["--project-name", "shoaltests"]).args(arguments);
        command.env("SHOAL_BUILD_TARGET", "prebuilt").env("SHOAL_RUNTIME", "shoal-tests/debian");
        command.env("SHOAL_IMAGE", "shoal-tests/shoal").env("SHOAL_REGISTRY_IMAGE", "shoal-tests/registry");
        command.env("SHOAL_REGISTRY_PORT", self.ports[0].to_string());
        for (number, port) in self.ports[1..].iter().enumerate() {
            command.env(format!("SHOAL_PORT_{}", number + 1), port.to_string());
        }
        Ok(String::from_utf8_lossy(&output(&mut command)?).into_owned())
    }

    fn container(&self, service: &str) -> Result<String> {
        Ok(self.compose(&["ps", "-q", service])?.trim().to_owned())
    }

    async fn healthy(&self, service: &str) -> Result<()> {
        let container = self.container(service)?;
        let inspect = ["inspect", "--format", "{{.State.Health.Status}}", container.as_str()];
        let healthy = until(service, HEALTHY, async || {
            (self.docker.docker(&inspect).ok()? == b"healthy\n").then_some(())
        });
        healthy.await.with_context(|| self.compose(&["logs", "--tail", "30"]).unwrap_or_default())
    }

    /// What the registry's container logged of its requests.
    fn access(&self) -> Result<Access> {
        let log = self.docker.docker(&["logs", &self.container("registry")?])?;
        Ok(Access::parse(&String::from_utf8_lossy(&log)))
    }

    fn client(&self, node: usize) -> Result<Client> {
        Client::new(&format!("http://127.0.0.1:{}", self.ports[node]))
    }
}

/// Ports that were free a moment ago.
fn ports() -> [u16; 5] {
    let listeners = [(); 5].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// The registry's image, as the file expects it of `registry:3`: it listens on 5000 and keeps its content in
/// `/var/lib/registry`.
fn import_registry(docker: &Docker, home: &Path) {
    let root = home.join("registry-root");
    for directory in ["bin", "etc", "var/lib/registry", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(tool::DISTRIBUTION.path().unwrap(), root.join("bin/registry")).unwrap();
    let config =
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\nhttp:\n  addr: :5000\n";
    fs::write(root.join("etc/registry.yml"), config).unwrap();
    let changes = [
        "ENTRYPOINT [\"/bin/registry\"]",
        "CMD [\"serve\", \"/etc/registry.yml\"]",
        "ENV OTEL_TRACES_EXPORTER=none",
        "VOLUME /var/lib/registry",
        "EXPOSE 5000",
    ];
    docker.import(&root, "shoal-tests/registry", &changes).unwrap();
}

#[tokio::test]
async fn the_fleet_starts_and_shares_an_image() {
    let debian = Debian::get().unwrap();
    let home = tempfile::tempdir().unwrap();
    let project = project(home.path()).unwrap();
    let docker = Docker::start(home.path(), "docker", &[], Network::Bridge).await.unwrap();
    docker.import(&debian::root_filesystem().unwrap(), "shoal-tests/debian", &[]).unwrap();
    import_registry(&docker, home.path());

    let mut built = false;
    for compose in [tool::COMPOSE_V1, tool::COMPOSE_V2] {
        let fleet = Composed { docker: &docker, compose, project: &project, ports: ports() };
        if !built {
            fleet.compose(&["build"]).unwrap();
            built = true;
        }
        fleet.compose(&["up", "-d", "--no-build"]).unwrap();
        for node in NODES {
            fleet.healthy(node).await.unwrap();
        }
        shares_an_image(&fleet, &debian).await;
        fleet.compose(&["down", "--volumes"]).unwrap();
    }
}

async fn shares_an_image(fleet: &Composed<'_>, debian: &Debian) {
    let registry = Target::new(&format!("http://127.0.0.1:{}", fleet.ports[0]));
    registry.image("team/debian", "12", &debian.image).await.unwrap();
    fleet.client(1).unwrap().pull("registry.local/team/debian", "12", &debian.image).await.unwrap();
    let before = fleet.access().unwrap();
    fleet.client(2).unwrap().pull("registry.local/team/debian", "12", &debian.image).await.unwrap();
    // And as the file's first lines say, by the engine itself.
    let name = format!("127.0.0.1:{}/registry.local/team/debian:12", fleet.ports[3]);
    fleet.docker.docker(&["pull", &name]).unwrap();
    let access = fleet.access().unwrap().since(&before);
    assert_eq!(access.all_blob_bytes(), 0, "{access:#?}");
    let said =
        fleet.docker.docker(&["run", "--rm", "--network", "none", &name, "/bin/echo", "hello"]).unwrap();
    assert_eq!(said, b"hello\n");

    let user = fleet.compose(&["exec", "-T", "node-1", "id", "-u"]).unwrap();
    assert_eq!(user.trim(), "10001");
    let status = fleet.compose(&["exec", "-T", "node-1", "shoal", "status"]).unwrap();
    assert!(!status.trim().is_empty());
    fleet.docker.docker(&["rmi", &name]).unwrap();
}
