//! Nodes as processes of their own, which end with the demo: each stops when its standard input does.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use shoal_swarm::cluster_key::ClusterKey;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::REGISTRY;
use crate::status::{Status, Traffic};

/// How long a node may take to serve.
const START: Duration = Duration::from_secs(30);
/// How much of a log is shown.
const LOG_TAIL: usize = 2000;

/// What a node prints once it serves.
#[derive(Debug, Deserialize)]
struct Serving {
    gateway: SocketAddr,
    peer: SocketAddr,
    admin: SocketAddr,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    serving: Serving,
    log: PathBuf,
    /// Killed when dropped.
    _child: Child,
}

/// The nodes, and the folder of their data, which goes with them.
#[derive(Debug)]
pub(super) struct Fleet {
    /// Before the folder: they are to end first.
    nodes: Vec<Node>,
    folder: TempDir,
}

impl Fleet {
    /// Starts so many nodes that know the registry and each other.
    pub(super) async fn start(program: &Path, count: u16, registry: SocketAddr) -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("shoal-demo-").tempdir().context("no temporary folder")?;
        let key = folder.path().join("cluster.key");
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key)?;
        std::io::Write::write_all(&mut file, ClusterKey::generate().reveal().as_bytes())?;
        let mut fleet = Self { nodes: Vec::new(), folder };
        for number in 1..=count {
            let node = fleet.start_node(program, number, registry, &key).await;
            fleet.nodes.push(node.with_context(|| format!("node {number} does not start"))?);
        }
        Ok(fleet)
    }

    async fn start_node(
        &self,
        program: &Path,
        number: u16,
        registry: SocketAddr,
        key: &Path,
    ) -> anyhow::Result<Node> {
        let folder = self.folder.path().join(format!("node-{number}"));
        let log = self.folder.path().join(format!("node-{number}.log"));
        let mut command = Command::new(program);
        // What this shell sets is meant for a node of its own.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SHOAL_") {
                command.env_remove(name);
            }
        }
        command.arg("run").arg("--data-dir").arg(&folder).arg("--cluster-key-file").arg(key);
        for listener in ["--gateway-addr", "--peer-addr", "--admin-addr"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.arg("--upstream").arg(format!("{REGISTRY}=http://{registry}"));
        if let Some(first) = self.nodes.first() {
            command.arg("--bootstrap").arg(first.serving.peer.to_string());
        }
        command.arg("--exit-with-stdin").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?);
        let mut child = command.spawn().with_context(|| format!("{} does not run", program.display()))?;
        let stdout = child.stdout.take().context("a child without standard output")?;
        let mut line = String::new();
        let mut said = BufReader::new(stdout);
        let read = tokio::time::timeout(START, said.read_line(&mut line)).await;
        match read {
            Ok(Ok(1..)) => {}
            Ok(_) => bail!("it ended; its log:\n{}", tail(&log)),
            Err(_) => bail!("it did not serve within {} s; its log:\n{}", START.as_secs(), tail(&log)),
        }
        let serving = serde_json::from_str(&line).with_context(|| format!("it said {line:?}"))?;
        Ok(Node { serving, log, _child: child })
    }

    /// The nodes, the first first.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

impl Node {
    /// Where clients pull.
    pub(super) fn gateway(&self) -> SocketAddr {
        self.serving.gateway
    }

    /// Where it says how it is.
    pub(super) fn admin(&self) -> SocketAddr {
        self.serving.admin
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Where its bytes came from.
    pub(super) async fn traffic(&self) -> anyhow::Result<Traffic> {
        let url = format!("http://{}/status", self.admin());
        let client = super::client::http()?;
        let answer = client.get(url).send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice::<Status>(&answer)?.traffic)
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let skip = text.chars().count().saturating_sub(LOG_TAIL);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program. Another process writes it: one that another test starts inherits what this one has open for an
    /// instant, and a program that is open for writing cannot be started ("Text file busy").
    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("program");
        let text = format!("#!/bin/sh\n{text}\n");
        let write = ["-c", r#"printf %s "$1" >"$2" && chmod 755 "$2""#, "sh", &text];
        assert!(std::process::Command::new("/bin/sh").args(write).arg(&path).status().unwrap().success());
        path
    }

    #[tokio::test]
    async fn a_node_that_dies_is_told_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let program = script(folder.path(), "echo the port is taken >&2; exit 1");
        let error = Fleet::start(&program, 2, "127.0.0.1:1".parse().unwrap()).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("node 1 does not start") && text.contains("the port is taken"), "{text}");
    }

    #[tokio::test]
    async fn nodes_end_with_the_fleet() {
        let folder = tempfile::tempdir().unwrap();
        let program = script(
            folder.path(),
            r#"echo '{"gateway":"127.0.0.1:1","peer":"127.0.0.1:2","admin":"127.0.0.1:3"}'; cat >/dev/null; echo "$@" > "$0.ended""#,
        );
        let fleet = Fleet::start(&program, 1, "127.0.0.1:1".parse().unwrap()).await.unwrap();
        let data = fleet.folder.path().to_owned();
        assert_eq!(fleet.nodes()[0].gateway().port(), 1);
        drop(fleet);
        assert!(!data.exists());
    }
}
