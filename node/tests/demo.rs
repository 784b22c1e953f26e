//! `shoal demo --keep` as a person uses it: its commands work as printed, and Ctrl-C is its end.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

const SHOAL: &str = env!("CARGO_BIN_EXE_shoal");

#[test]
fn what_is_left_running_can_be_looked_at_and_ends_well() {
    let mut demo = Command::new(SHOAL)
        .args(["demo", "--nodes", "1", "--size", "4MiB", "--keep"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(demo.stderr.take().unwrap()).lines();
    let look = said
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| line.trim().strip_prefix("look at it").map(|command| command.trim().to_owned()))
        .unwrap();
    assert!(look.starts_with(SHOAL), "{look}");
    let shell = |command: &str| Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(shell(&look).status.success(), "{look}");
    let ready = shell(&format!("{look} --ready"));
    assert!(ready.status.success() && ready.stdout.is_empty(), "{ready:?}");

    assert!(shell(&format!("kill -INT {}", demo.id())).status.success());
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert!(demo.wait().unwrap().success(), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("error")), "{rest:?}");
    // Nobody is there to be ready.
    assert_eq!(shell(&format!("{look} --ready")).status.code(), Some(1));
}
