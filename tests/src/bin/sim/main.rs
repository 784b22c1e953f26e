//! A fleet under virtual time: thousands of nodes on the very swarm core that the daemon runs.
//!
//! ```text
//! cargo run --release -p shoal-tests --bin sim -- tests/scenarios/kraken.toml --plot curve.svg
//! ```
//!
//! ```text
//!   clock: what happens next ─► fleet ─► transfer ─► proto: Transfer (a node and layer)
//!                                 │          │ letters, chunks, fetches
//!                                 └─► keeper ─► proto: Homes (a node)
//! ```
//!
//! Everything that decides is the daemon's: which chunk is asked of whom, who is home, who may go upstream. What is
//! simulated is what the daemon's cores are driven by: links, latencies, CPU, connections, deaths. All randomness comes
//! from the scenario's seed: a run can be repeated to the last event.
//!
//! The model and its limits:
//! - Bytes: a chunk crosses the sender's uplink, shared evenly by its uploads, then the receiver's downlink in turn
//!   (`upload`). The registry is one link shared evenly by the fetches that run (`upstream`). The network between is
//!   never full, nothing is lost, TCP is at full rate at once. 5 % of a link goes to headers, which the bound lacks.
//! - Control: each message costs CPU at both ends, which one core does in turn, and bytes on both links (`letter`).
//!   A first message to a peer costs a handshake. Encryption and hashing of chunks are not counted: rates are those of
//!   nodes that keep up with their links.
//! - Membership: who is connected at the start stays so, and ranks as the daemon does (`membership`). The fleet has
//!   joined already; manifests, tags and the client's unpacking are left out.
//! - The DHT: providers' records are right at once, and known to homes (`fleet`, `search`).
//!
//! | module | concept |
//! | --- | --- |
//! | `options`, `scenario` | the command line; what is simulated |
//! | `clock`, `dice` | time; randomness |
//! | `fleet` | all nodes and layers, and the events between them |
//! | `membership` | who is connected to whom |
//! | `client` | who pulls which layer when |
//! | `transfer`, `follow`, `search` | the driver of one transfer; what peers tell each other of it; discovery |
//! | `keeper` | the driver of a node's homes |
//! | `letter` | control messages |
//! | `link`, `upload`, `upstream` | bytes |
//! | `death` | nodes that die |
//! | `figures`, `report`, `plot` | what is counted, printed, drawn |

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};

mod client;
mod clock;
mod death;
mod dice;
mod figures;
mod fleet;
mod follow;
mod keeper;
mod letter;
mod link;
mod membership;
mod options;
mod plot;
mod report;
mod scenario;
mod search;
mod transfer;
mod upload;
mod upstream;

use fleet::Fleet;
use options::Options;
use report::Outcome;
use scenario::Scenario;

fn main() -> Result<ExitCode> {
    let options = Options::parse(std::env::args().skip(1))?;
    let scenario = Scenario::read(&options.scenario, &options.set)?;
    scenario.check()?;
    let began = Instant::now();
    let mut fleet = Fleet::new(scenario)?;
    fleet.run();
    let outcome = Outcome::of(&fleet);
    if options.seconds {
        note(&report::seconds(&fleet));
    }
    say(&outcome, options.json)?;
    // Not part of the result: it differs each time.
    note(&format!("simulated in {:.1} s", began.elapsed().as_secs_f64()));
    if let Some(path) = &options.plot {
        let title = format!("{}: {} nodes", options.scenario.display(), fleet.scenario.nodes);
        let svg = plot::svg(&title, &outcome.ends, fleet.scenario.bound());
        std::fs::write(path, svg).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(if outcome.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "the result")]
fn say(outcome: &Outcome, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(outcome)?);
    } else {
        println!("{outcome}");
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "beside the result")]
fn note(what: &str) {
    eprintln!("{what}");
}
