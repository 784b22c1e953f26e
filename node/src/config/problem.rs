//! What is wrong with a configuration: always the key, the value, where it was said, and what is allowed.

use std::fmt;
use std::path::PathBuf;

/// Where a value was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the command line, by this flag.
    Flag(String),
    /// In the environment, by this variable.
    Environment(String),
    /// In the configuration file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment(variable) => write!(f, "{variable} in the environment"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as it was said, before anyone looked at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// The key's full name in the file, as in `upstream."docker.io".url`.
    pub(super) key: String,
    /// The value's text.
    pub(super) text: String,
    /// Where.
    pub(super) source: Source,
}

impl Given {
    /// What is wrong with this value.
    pub(super) fn problem(&self, wrong: Wrong) -> Problem {
        Problem {
            key: self.key.clone(),
            value: Some(shown(&self.text)),
            source: self.source.clone(),
            wrong: wrong.wrong,
            allowed: wrong.allowed,
        }
    }

    /// The same without the value, which may hold a secret.
    pub(super) fn problem_with_secret(&self, wrong: Wrong) -> Problem {
        Problem { value: None, ..self.problem(wrong) }
    }
}

/// Why a text is no value for its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What was wrong, as the end of a sentence that began with the value.
    pub(super) wrong: String,
    /// What is allowed, or what to do.
    pub(super) allowed: String,
}

impl Wrong {
    pub(super) fn new(wrong: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { wrong: wrong.into(), allowed: allowed.into() }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as the file writes it.
    pub key: String,
    /// The value, cut short; none where it may be a secret or where the key itself is wrong.
    pub value: Option<String>,
    /// Where it was said.
    pub source: Source,
    /// What is wrong with it.
    pub wrong: String,
    /// What is allowed, or what to do.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        write!(f, " {} ({})", self.wrong, self.allowed)
    }
}

/// Everything that is wrong with a configuration, in the order it was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// What a person needs to see of a value that may be as long as its writer liked.
pub(super) fn shown(text: &str) -> String {
    const SHOWN: usize = 120;
    let mut out: String = text.chars().take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push('…');
    }
    out
}
