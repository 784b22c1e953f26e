//! Several nodes of one cluster and the registry they pull from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use shoal_swarm::cluster_key::ClusterKey;

use crate::faulty::Faulty;
use crate::link::Link;
use crate::node::{Node, Settings};
use crate::process::output;
use crate::registry::{Kind, Registry};
use crate::tool;

/// What clients call the test registry.
pub const REGISTRY: &str = "registry.test";

/// A registry and nodes that share a cluster key.
#[derive(Debug)]
pub struct Fleet<U = Registry> {
    // Before the directory, so that they are dead when it is removed.
    /// The nodes; the first is the others' bootstrap.
    pub nodes: Vec<Node>,
    /// The registry, known to each node as [`REGISTRY`] and as Docker Hub.
    pub registry: U,
    url: String,
    key: PathBuf,
    home: tempfile::TempDir,
}

impl Fleet {
    /// Starts a registry of `kind` and `count` nodes, connected with one another.
    ///
    /// # Errors
    /// If a part does not start.
    pub async fn start(kind: Kind, count: usize) -> Result<Self> {
        let home = home()?;
        let registry = Registry::start(kind, home.path(), "registry").await?;
        let url = registry.url();
        Self::assemble(home, registry, url, count).await
    }
}

impl Fleet<Faulty> {
    /// Starts an upstream that fails on demand and `count` nodes, connected with one another.
    ///
    /// # Errors
    /// If a part does not start.
    pub async fn with_faulty_upstream(count: usize) -> Result<Self> {
        let registry = Faulty::start().await?;
        let url = registry.url();
        Self::assemble(home()?, registry, url, count).await
    }
}

/// A registry that nodes reach over a link.
#[derive(Debug)]
pub struct Linked {
    /// The registry, to push to.
    pub registry: Registry,
    /// The way to it.
    pub link: Link,
}

impl Fleet<Linked> {
    /// Starts a registry of `kind` behind a link of `rate` bytes a second, and `count` nodes, connected with one
    /// another.
    ///
    /// # Errors
    /// If a part does not start.
    pub async fn behind_a_link(kind: Kind, rate: u64, count: usize) -> Result<Self> {
        let home = home()?;
        let registry = Registry::start(kind, home.path(), "registry").await?;
        let link = Link::start(registry.address(), rate)?;
        let url = link.url();
        Self::assemble(home, Linked { registry, link }, url, count).await
    }
}

fn home() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("shoal-tests-").tempdir()?)
}

impl<U> Fleet<U> {
    async fn assemble(home: tempfile::TempDir, registry: U, url: String, count: usize) -> Result<Self> {
        let key = new_key(home.path(), "cluster.key")?;
        let mut fleet = Self { nodes: Vec::new(), registry, url, key, home };
        for _ in 0..count {
            fleet.grow().await?;
        }
        fleet.settled().await?;
        Ok(fleet)
    }

    /// Adds a node and gives its number.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn grow(&mut self) -> Result<usize> {
        let settings = self.settings();
        self.grow_with(settings).await
    }

    /// Adds a node with settings of its own and gives its number.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn grow_with(&mut self, settings: Settings) -> Result<usize> {
        let number = self.nodes.len();
        let node = Node::start(self.home.path(), &format!("node-{number}"), settings).await?;
        self.nodes.push(node);
        Ok(number)
    }

    /// What a further node of this fleet is told.
    pub fn settings(&self) -> Settings {
        Settings {
            upstreams: vec![
                (REGISTRY.to_owned(), self.url.clone()),
                ("docker.io".to_owned(), self.url.clone()),
            ],
            bootstrap: self.nodes.first().map(|node| node.serving.peer.to_string()).into_iter().collect(),
            cluster_key: Some(self.key.clone()),
            ..Settings::default()
        }
    }

    /// Waits until every node is connected with every other.
    ///
    /// # Errors
    /// If they do not find each other.
    pub async fn settled(&self) -> Result<()> {
        for node in &self.nodes {
            node.joined(self.nodes.len() - 1).await?;
        }
        Ok(())
    }

    /// The key that admits to this fleet's cluster.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn cluster_key(&self) -> Result<ClusterKey> {
        Ok(ClusterKey::read(&self.key)?)
    }

    /// The directory of everything in this fleet.
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

/// Makes a cluster key with the daemon's own command, in a file.
///
/// # Errors
/// If the daemon is not built, or makes no key.
pub fn new_key(home: &Path, name: &str) -> Result<PathBuf> {
    let path = home.join(name);
    fs::write(&path, output(Command::new(tool::shoal()?).args(["key", "new"]))?)?;
    Ok(path)
}
