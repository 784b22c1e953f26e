//! The command line: what can be asked of `shoal`, and the small commands themselves.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::config::{self, Environment};
use crate::{demo, images, key, pull, run, setup, status, why};

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
    /// Say why an image was, or was not, served by the node on this machine, and where each part came from.
    Why(why::Options),
    /// What the node on this machine knows of images.
    #[command(subcommand, arg_required_else_help = true)]
    Images(images::Command),
    /// Tell a client on this machine to pull through Shoal, or undo that.
    ///
    /// Writes the client's mirror configuration and keeps what was there; the registry itself stays the fallback. Says
    /// whether the client needs a reload or restart, and restarts nothing.
    Setup(setup::Options),
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
    run::check(&loaded.config)?;
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

/// So many of something, in words: `1 blob`, `2 blobs`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Writes an answer to standard output.
///
/// # Errors
/// If it cannot be written: a script must not take half an answer for a whole one. A reader that went away, as
/// `head` does, had enough.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output cannot be written")
        }
        _ => Ok(()),
    }
}

/// Says why a command failed: the error and its causes, each once.
pub fn explain_failure(error: &anyhow::Error) {
    explain(&format!("error: {}", causes(error)));
}

/// An error and its causes in one text. Many libraries repeat the cause in their own text: it is said once.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Writes a line for people to standard error. If that is gone nobody reads it.
pub fn explain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_run_arrives() {
        let line = "shoal run --config c --data-dir d --gateway-addr g --peer-addr p --admin-addr a --bootstrap b:1 \
                    b:2 --bootstrap b:3,b:4 --cluster-key-file k --upstream u=v --upstream w=x --zone z \
                    --exit-with-stdin --log-format json";
        let cli = parse(line).unwrap();
        let Command::Run(flags) = cli.command else { panic!("another command") };
        let one = |value: &Option<String>| value.clone().unwrap_or_default();
        let texts = [
            &flags.config,
            &flags.data_dir,
            &flags.gateway_addr,
            &flags.peer_addr,
            &flags.admin_addr,
            &flags.cluster_key_file,
            &flags.zone,
        ];
        assert_eq!(texts.map(one).concat(), "cdgpakz");
        assert_eq!(flags.bootstrap, ["b:1", "b:2", "b:3,b:4"]);
        assert_eq!(flags.upstream, ["u=v", "w=x"]);
        assert!(flags.exit_with_stdin);
        assert_eq!(cli.log_format.as_deref(), Some("json"));
    }

    #[test]
    fn help_where_something_is_missing() {
        for line in ["shoal", "shoal key", "shoal config"] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, "{line}");
        }
        let help = parse("shoal run --help").unwrap_err().to_string();
        assert!(help.contains("--cluster-key-file <FILE>") && !help.contains("exit-with-stdin"), "{help}");
        let version = parse("shoal --version").unwrap_err().to_string();
        assert_eq!(version, concat!("shoal ", env!("CARGO_PKG_VERSION"), "\n"));
    }

    #[test]
    fn check_refuses_what_run_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shoal.toml");
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
        for (text, said) in [
            ("[policy]\ndeny = [\"*.example.com:5000\"]", "*.example.com:5000"),
            ("[upstream.\"reg.test\"]\nca = \"ca.pem\"", "ca.pem"),
        ] {
            std::fs::write(&file, text).unwrap();
            let config = file.to_str().map(str::to_owned);
            let flags =
                config::Flags { config, data_dir: Some("/nonexistent/data".into()), ..Default::default() };
            let error = check_config(&flags, &Environment::with(&[])).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no disk").context("cannot write: no disk").context("saving failed");
        assert_eq!(causes(&error), "saving failed: cannot write: no disk");
    }

    #[test]
    fn what_pull_refuses_it_explains() {
        let said = |line| parse(line).unwrap_err().to_string();
        assert!(said("shoal pull UPPER").contains("is not a repository name"));
        assert!(said("shoal pull a --platform arm64").contains("write os/architecture, as in linux/amd64"));
        assert!(said("shoal pull a --platform linux/arm64 --all-platforms").contains("cannot be used with"));
    }
}
