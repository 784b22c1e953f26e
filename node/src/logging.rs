//! Logs: to standard error, as text or JSON, filtered by `SHOAL_LOG`.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::Environment;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging for this process.
///
/// # Errors
/// If the format or the filter is none, naming where it was said.
pub fn start(flag: Option<&str>, environment: &Environment) -> anyhow::Result<()> {
    let format = format(flag, environment)?;
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter(environment)?);
    let started = match format {
        Format::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}

/// The format: the flag's, else the variable's, else text.
fn format(flag: Option<&str>, environment: &Environment) -> anyhow::Result<Format> {
    let variable = environment.get("SHOAL_LOG_FORMAT").map(|value| value.to_string_lossy());
    let (text, source) = match (flag, &variable) {
        (Some(flag), _) => (flag, "--log-format"),
        (None, Some(variable)) => (variable.as_ref(), "SHOAL_LOG_FORMAT in the environment"),
        (None, None) => return Ok(Format::Text),
    };
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => anyhow::bail!("{source}: log_format = {text:?} is not a format (allowed: text, json)"),
    }
}

/// The filter: `SHOAL_LOG`, else `RUST_LOG`, else info.
fn filter(environment: &Environment) -> anyhow::Result<EnvFilter> {
    let said = ["SHOAL_LOG", "RUST_LOG"].into_iter().find_map(|name| Some((name, environment.get(name)?)));
    let Some((name, value)) = said else { return Ok(EnvFilter::new("info")) };
    let text = value.to_string_lossy();
    EnvFilter::try_new(text.as_ref()).with_context(|| {
        format!("{name} = {text:?} is not a log filter (allowed: error, warn, info, debug, trace, also by part, as in info,shoal=debug)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_environment_and_a_wrong_format_names_its_place() {
        let environment = Environment::with(&[("SHOAL_LOG_FORMAT", "json")]);
        assert_eq!(format(None, &environment).unwrap(), Format::Json);
        assert_eq!(format(Some("text"), &environment).unwrap(), Format::Text);
        assert_eq!(format(None, &Environment::default()).unwrap(), Format::Text);
        let error = format(Some("xml"), &environment).unwrap_err().to_string();
        assert_eq!(error, r#"--log-format: log_format = "xml" is not a format (allowed: text, json)"#);
        let error = format(None, &Environment::with(&[("SHOAL_LOG_FORMAT", "xml")])).unwrap_err();
        assert!(error.to_string().starts_with("SHOAL_LOG_FORMAT in the environment: "), "{error}");
    }

    #[test]
    fn the_filter_is_shoals_own_or_rusts_or_info() {
        let shown = |variables| filter(&Environment::with(variables)).unwrap().to_string();
        assert_eq!(shown(&[]), "info");
        assert_eq!(shown(&[("RUST_LOG", "warn")]), "warn");
        assert_eq!(shown(&[("RUST_LOG", "warn"), ("SHOAL_LOG", "error")]), "error");
        let error = filter(&Environment::with(&[("SHOAL_LOG", "shoal=loud")])).unwrap_err().to_string();
        assert!(error.contains("SHOAL_LOG = \"shoal=loud\"") && error.contains("allowed: error"), "{error}");
    }
}
