//! `shoal demo` as people run it: it says how it went, and leaves nothing behind, however it ends.

use std::fs;
use std::path::Path;
use std::time::Duration;

use shoal_tests::client::Client;
use shoal_tests::process::{Process, Spec, output, until};
use shoal_tests::tool;

/// How long a small demo may take. The machine may be busy.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long its end may take.
const END: Duration = Duration::from_secs(30);
const SIZE: u64 = 8 << 20;

/// A demo of three nodes and 8 MiB, its temporary files below `home`.
fn start(home: &Path, args: &[&str]) -> Process {
    let temporary = home.join("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut spec = Spec::new(&tool::shoal().unwrap(), "demo", home);
    spec.command().args(["demo", "--nodes", "3", "--size", "8MiB"]).args(args).env("TMPDIR", temporary);
    spec.start().unwrap()
}

/// The processes of a demo whose files are below `home`: each node names its folder there.
fn nodes(home: &Path) -> Vec<String> {
    let home = home.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let command = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let command = command.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
    command.filter(|command| command.contains(home) && command.contains("shoal run")).collect()
}

fn nothing_is_left(home: &Path) {
    let left: Vec<_> = fs::read_dir(home.join("temporary")).unwrap().collect();
    assert!(left.is_empty(), "temporary files are left: {left:?}");
    // A killed process takes a moment to vanish.
    for _ in 0..100 {
        if nodes(home).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nodes are left: {:#?}", nodes(home));
}

/// A node's line of the table.
#[derive(Debug)]
struct Line {
    upstream: f64,
    peers: f64,
    digests: u32,
}

/// A size as the table writes it, in bytes.
fn bytes(number: &str, unit: &str) -> f64 {
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        other => panic!("{other}"),
    };
    number.parse::<f64>().unwrap() * factor
}

fn line(words: &[&str]) -> Line {
    let [_, upstream, upstream_unit, peers, peers_unit, _, "s", digests] = words else { panic!("{words:?}") };
    Line {
        upstream: bytes(upstream, upstream_unit),
        peers: bytes(peers, peers_unit),
        digests: digests.parse().unwrap(),
    }
}

/// The nodes' lines, and the copies that upstream sent.
fn table(log: &str) -> (Vec<Line>, f64) {
    let (_, table) = log.split_once("digests proven\n").unwrap_or_else(|| panic!("no table in {log}"));
    let (lines, rest) = table.split_once("\n\n").unwrap();
    let lines = lines.lines().map(|text| line(&text.split_whitespace().collect::<Vec<_>>())).collect();
    let copies = rest.lines().next().unwrap().strip_suffix(" copies").unwrap();
    (lines, copies.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
fn it_shows_that_upstream_gave_one_copy_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut demo = start(home.path(), &[]);
    let status = demo.wait(PATIENCE).unwrap();
    assert!(status.success(), "{status}\n{}", demo.tail());
    let (lines, copies) = table(&demo.log().unwrap());
    assert_eq!(lines.len(), 3);
    assert!((1.0..1.05).contains(&copies), "upstream sent {copies} copies");
    // Layers, config and manifest; at every node the same.
    assert!(lines[0].digests >= 3 && lines.iter().all(|line| line.digests == lines[0].digests), "{lines:?}");
    // All pull at once: together they have one copy from upstream, and each has the rest from its peers. The table
    // rounds to tenths of a MiB.
    let (size, slack) = (SIZE as f64, 0.05 * 1024.0 * 1024.0 * 3.0);
    let upstream: f64 = lines.iter().map(|line| line.upstream).sum();
    assert!((size - slack..size * 1.05 + slack).contains(&upstream), "{lines:?}");
    assert!(lines.iter().all(|line| line.peers + line.upstream >= size - slack), "{lines:?}");
    nothing_is_left(home.path());
}

/// Starts a demo that stays, and waits until it says what to try.
async fn kept(home: &Path) -> Process {
    let demo = start(home, &["--keep"]);
    let said = until("the demo says what to try next", PATIENCE, async || {
        demo.log().ok()?.contains("containerd ").then_some(())
    });
    said.await.unwrap_or_else(|error| panic!("{error}\n{}", demo.tail()));
    demo
}

/// The word that follows `before` in what the demo said.
fn word<'a>(log: &'a str, before: &str) -> &'a str {
    let (_, after) = log.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {log}"));
    after.split_whitespace().next().unwrap()
}

#[tokio::test]
async fn a_demo_that_is_kept_can_be_tried_and_ends_with_ctrl_c() {
    let home = tempfile::tempdir().unwrap();
    let mut demo = kept(home.path()).await;
    let log = demo.log().unwrap();
    assert_eq!(nodes(home.path()).len(), 3);
    let gateway = word(&log, "The last node's gateway is ").trim_end_matches('.');
    let client = Client::new(&format!("http://{gateway}")).unwrap();
    // The printed commands, one after the other, as far as what is everywhere can follow them.
    let url = word(&log, "curl -s '").trim_end_matches('\'');
    let manifest = client.get(url.strip_prefix(&format!("http://{gateway}")).unwrap()).await.unwrap();
    assert_eq!(manifest.status.as_u16(), 200, "{manifest:?}");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.body).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let mut size = 0;
    for blob in layers.iter().chain([&manifest["config"]]) {
        let digest = blob["digest"].as_str().unwrap();
        size += client.blob("demo.local/demo/app", digest).await.unwrap();
    }
    assert!(size >= SIZE, "{size}");
    let metrics = word(&log, "curl http://");
    let (admin, path) = metrics.split_once('/').unwrap();
    let metrics = Client::new(&format!("http://{admin}")).unwrap().get(&format!("/{path}")).await.unwrap();
    assert_eq!(metrics.status.as_u16(), 200, "{metrics:?}");
    let mut status = std::process::Command::new(tool::shoal().unwrap());
    let status = output(status.args(["status", "--admin-addr", word(&log, "shoal status --admin-addr ")]));
    assert!(String::from_utf8(status.unwrap()).unwrap().contains(gateway), "another node's status");

    let ended = demo.interrupt(END).unwrap();
    assert_eq!(ended.code(), Some(0), "{}", demo.tail());
    nothing_is_left(home.path());
}

#[tokio::test]
async fn ctrl_c_in_the_middle_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut demo = start(home.path(), &[]);
    let started =
        until("a node has started", PATIENCE, async || (!nodes(home.path()).is_empty()).then_some(()));
    started.await.unwrap();
    demo.interrupt(END).unwrap();
    nothing_is_left(home.path());
}

/// Nobody can tidy up after that, but no node runs on.
#[tokio::test]
async fn no_node_outlives_a_demo_that_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let mut demo = kept(home.path()).await;
    assert_eq!(nodes(home.path()).len(), 3);
    demo.kill();
    let gone = until("the nodes end", END, async || nodes(home.path()).is_empty().then_some(()));
    gone.await.unwrap();
}
