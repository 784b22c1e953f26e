//! What this program does as a process inside a namespace, where its parent cannot reach: `fleet-bench inside WHAT
//! ARGUMENTS`, the answer as JSON on standard output.
//!
//! | module | concept |
//! | --- | --- |
//! | `pull` | a client: pulls the image and says how long it took |
//! | `publish` | makes the image up and pushes it |
//! | `without_range` | stands before the registry and ignores Range |

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_tests::client::Client;
use shoal_tests::netns::Namespace;
use shoal_tests::process::Spec;

pub(crate) mod publish;
pub(crate) mod pull;
mod without_range;

/// The first argument of such a process.
pub(crate) const COMMAND: &str = "inside";

/// The process itself.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pull", request] => runtime.block_on(pull::pull(&serde_json::from_str(request)?)).and_then(answer),
        ["publish", request] => {
            runtime.block_on(publish::publish(&serde_json::from_str(request)?)).and_then(answer)
        }
        ["get", base, path] => runtime.block_on(get(base, path)).and_then(answer),
        ["without-range", address, registry] => {
            runtime.block_on(without_range::serve(address.parse()?, registry))
        }
        _ => bail!("inside: {words:?} is not known"),
    }
}

#[expect(clippy::print_stdout, reason = "the answer to the parent process")]
fn answer(answer: impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

async fn get(base: &str, path: &str) -> Result<String> {
    let answer = Client::new(base)?.get(path).await?;
    if !answer.status.is_success() {
        bail!("{base}{path} was answered {}", answer.status);
    }
    Ok(String::from_utf8(answer.body.into())?)
}

/// This program with these arguments, to be started inside a namespace.
pub(crate) fn spec(namespace: &Namespace, name: &str, logs: &Path, words: &[&str]) -> Result<Spec> {
    let mut spec = Spec::within(Some(namespace), &std::env::current_exe()?, name, logs);
    spec.command().arg(COMMAND).args(words);
    Ok(spec)
}

/// Starts it, waits for its end, and reads its answer.
///
/// # Errors
/// If it fails, or has not answered within `patience`: with what it said on standard error.
pub(crate) async fn ask<T: DeserializeOwned>(spec: Spec, patience: Duration) -> Result<T> {
    let (mut process, mut output) = spec.start_with_output()?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    // A process that says nothing is killed with its `Process`, which also ends the reading.
    let read = tokio::time::timeout(patience, reading).await;
    let text =
        read.with_context(|| format!("no answer within {} s\n{}", patience.as_secs(), process.tail()))??;
    let status = process.wait(Duration::from_secs(10))?;
    if !status.success() {
        bail!("{status}\n{}", process.tail());
    }
    serde_json::from_str(&text?).with_context(|| format!("an answer without sense\n{}", process.tail()))
}

/// GETs `path` of a server that listens on loopback inside a namespace.
pub(crate) async fn get_inside(namespace: &Namespace, logs: &Path, base: &str, path: &str) -> Result<String> {
    ask(spec(namespace, "get", logs, &["get", base, path])?, Duration::from_secs(10)).await
}
