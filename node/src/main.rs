//! Shoal: a peer-to-peer distribution node for container images.
//!
//! ```text
//! parse the command line ─► start logging ─► dispatch
//!     run             configuration ─► runtime ─► the daemon, until it is told to stop
//!     demo            runtime ─► nodes as processes of their own
//!     pull, status, why, images    runtime ─► one conversation with the node on this machine
//!     setup           files of this machine
//!     key, config     answered here
//! ─► exit: 0 done, 1 failed (`error: …` says why), 2 the command line was wrong
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::runtime::Runtime;

pub mod access;
pub mod admin;
pub mod announce;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod descriptors;
pub mod fetch;
pub mod health;
pub mod hearsay;
pub mod history;
pub mod homes;
pub mod images;
pub mod key;
pub mod logging;
pub mod metrics;
pub mod pull;
pub mod run;
pub mod savings;
pub mod serve;
pub mod setup;
pub mod size;
pub mod source;
pub mod status;
pub mod supervisor;
pub mod tags;
pub mod turn;
pub mod watchdog;
pub mod why;

use cli::{Cli, Command, ConfigCommand, Key};
use config::Environment;

/// How long blocking work may hold up the end of the process.
const LAST_CHANCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::of_process();
    let done = logging::start(cli.log_format.as_deref(), &environment)
        .and_then(|()| dispatch(cli.command, &environment));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::explain_failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command, environment: &Environment) -> anyhow::Result<()> {
    match command {
        Command::Run(flags) => {
            let config = config::load(&flags, environment)?.config;
            for warning in config.warnings() {
                tracing::warn!("{warning}");
            }
            on_runtime(run::run(config))
        }
        Command::Demo(options) => on_runtime(demo::run(options)),
        Command::Pull(options) => on_runtime(pull::run(options, environment)),
        Command::Status(options) => on_runtime(status::run(options, environment)),
        Command::Images(command) => on_runtime(images::run(command, environment)),
        Command::Why(options) => on_runtime(why::run(options, environment)),
        Command::Setup(options) => setup::run(&options, environment),
        Command::Key(Key::New) => cli::new_key(),
        Command::Config(ConfigCommand::Check(flags)) => cli::check_config(&flags, environment),
        Command::Config(ConfigCommand::Example) => cli::example_config(),
    }
}

/// Runs one future to its end on a runtime of its own.
fn on_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = Runtime::new().context("the runtime cannot start")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_CHANCE);
    done
}
