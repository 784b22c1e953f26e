//! The command line: what can be asked of `shoal`, and the small commands themselves.

use std::io::{self, Write as _};

use clap::{Parser, Subcommand};

use crate::config::{self, Environment};
use crate::{demo, key, pull, status};

pub mod local;

/// Peer-to-peer distribution of container images: every node serves what it holds to the others.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, arg_required_else_help = true)]
#[command(
    after_help = "Start here:\n  shoal demo           watch five nodes share an image, nothing to install\n  \
                        shoal run            run a node with its defaults\n  shoal pull debian:12 pull through it"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines are written to standard error: text or json (or `SHOAL_LOG_FORMAT`) [default: text].
    /// What is logged is set by `SHOAL_LOG`, as in `SHOAL_LOG=info,shoal=debug` [default: info].
    #[arg(long, global = true, value_name = "FORMAT", display_order = 1000)]
    pub log_format: Option<String>,
}

/// What can be asked of `shoal`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node until it is told to stop.
    ///
    /// Each option has a twin in the environment (`SHOAL_DATA_DIR` for `--data-dir`) and in the configuration file
    /// (`data_dir`). A flag wins over the environment, the environment over the file. `shoal config example`
    /// prints a file that explains every key.
    Run(Box<config::Flags>),
    /// Show what Shoal does: a registry and five nodes on this machine share an image.
    Demo(demo::Options),
    /// Pull an image through the node on this machine, which holds it from then on.
    Pull(pull::Options),
    /// Show what the node on this machine holds and does.
    Status(status::Options),
    /// The secret that admits nodes to a cluster.
    #[command(subcommand, arg_required_else_help = true)]
    Key(Key),
    /// Check a node's configuration, or print an example of one.
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigCommand),
}

/// `shoal key …`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Print a new cluster key.
    New,
}

/// `shoal config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check everything that `run` with the same options would, and print the effective configuration.
    ///
    /// Also opens the files that it names. Secrets are left out of what is printed. Exits with 1 and every
    /// mistake if there are some.
    Check(Box<config::Flags>),
    /// Print a configuration file that explains every key.
    Example,
}

/// `shoal key new`: the key on standard output, so that it can be piped, and how to keep it on standard error.
///
/// # Errors
/// If standard output cannot be written.
pub fn new_key() -> anyhow::Result<()> {
    print(&format!("{}\n", key::new()))?;
    explain(key::HINT);
    Ok(())
}

/// `shoal config check`.
///
/// # Errors
/// Everything that is wrong with the configuration.
pub fn check_config(flags: &config::Flags, environment: &Environment) -> anyhow::Result<()> {
    let loaded = config::load(flags, environment)?;
    print(&config::show::effective(&loaded))?;
    for warning in loaded.config.warnings() {
        explain(&format!("warning: {warning}"));
    }
    Ok(())
}

/// `shoal config example`.
///
/// # Errors
/// If standard output cannot be written.
pub fn example_config() -> anyhow::Result<()> {
    print(config::show::EXAMPLE)
}

/// Writes an answer to standard output.
///
/// # Errors
/// If it cannot be written: a script must not take half an answer for a whole one.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a line for people to standard error. If that is gone nobody reads it.
pub fn explain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
