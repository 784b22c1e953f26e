//! The command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
sim: a fleet on the daemon's own swarm core, under virtual time

  sim SCENARIO.toml [options]

  --nodes N       another number of nodes than the scenario says
  --seed S        another seed
  --set KEY=VALUE another value for anything the scenario says: --set core.leases=8
  --seconds       print also what the fleet did in each second
  --json          print the result as JSON
  --plot OUT.svg  draw the completion curve";

#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) scenario: PathBuf,
    /// What replaces values of the scenario: keys and values as TOML has them.
    pub(crate) set: Vec<(String, String)>,
    pub(crate) seconds: bool,
    pub(crate) json: bool,
    pub(crate) plot: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().with_context(|| format!("{argument}: a value is missing\n\n{USAGE}\n"));
            match argument.as_str() {
                "--help" | "-h" => bail!("{USAGE}"),
                "--nodes" => options.set.push(("nodes".to_owned(), value()?)),
                "--seed" => options.set.push(("seed".to_owned(), value()?)),
                "--set" => {
                    let value = value()?;
                    let (key, value) = value.split_once('=').context("--set needs KEY=VALUE")?;
                    options.set.push((key.to_owned(), value.to_owned()));
                }
                "--seconds" => options.seconds = true,
                "--json" => options.json = true,
                "--plot" => options.plot = Some(value()?.into()),
                _ if options.scenario.as_os_str().is_empty() && !argument.starts_with('-') => {
                    options.scenario = argument.into();
                }
                _ => bail!("{argument}: not known\n\n{USAGE}\n"),
            }
        }
        if options.scenario.as_os_str().is_empty() {
            bail!("a scenario is missing\n\n{USAGE}\n");
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_line_is_read_and_mistakes_are_named() {
        let options = parse("a.toml --nodes 3 --set core.leases=8 --plot out.svg").unwrap();
        assert_eq!(options.set[1], ("core.leases".to_owned(), "8".to_owned()));
        for (line, said) in [("", "scenario"), ("a.toml --nods 3", "--nods"), ("a.toml --seed", "missing")] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
