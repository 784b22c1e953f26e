//! The environment, read once and passed on as a value, so that tests need not change their process's own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The part of the process's environment that configuration depends on.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    root: bool,
}

impl Environment {
    /// What this process was started with.
    pub fn of_process() -> Self {
        let variables: BTreeMap<_, _> =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        let root = runs_of_root(&variables);
        Self { variables, root }
    }

    /// A variable. An empty one counts as not set: `SHOAL_ZONE=${ZONE:-}` in a compose file means no zone.
    ///
    /// Variables of other names are never looked at: Kubernetes sets `SHOAL_PORT` and the like by itself for a
    /// service called `shoal`.
    pub fn get(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name).filter(|value| !value.is_empty())
    }

    /// The folder for a node's data where none was named: `/var/lib/shoal` for root, else the user's own.
    pub(crate) fn default_data_dir(&self) -> Option<PathBuf> {
        if self.root {
            return Some(PathBuf::from("/var/lib/shoal"));
        }
        let absolute = |name| self.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
        Some(base.join("shoal"))
    }
}

#[cfg(test)]
impl Environment {
    /// An environment for a test: a plain user's, with these variables.
    pub(crate) fn with(variables: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), OsString::from(value));
        Self { variables: variables.iter().map(own).collect(), root: false }
    }

    /// The same with one more variable.
    pub(crate) fn and(mut self, name: &str, value: OsString) -> Self {
        self.variables.insert(name.to_owned(), value);
        self
    }

    /// The same, as root sees it.
    pub(crate) fn of_root(mut self) -> Self {
        self.root = true;
        self
    }
}

/// Linux says who we are in `/proc`; elsewhere the home folder has to do.
fn runs_of_root(variables: &BTreeMap<String, OsString>) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::metadata("/proc/self") {
        Ok(metadata) => metadata.uid() == 0,
        Err(_) => variables
            .get("HOME")
            .is_some_and(|home| [Path::new("/root"), Path::new("/var/root")].contains(&Path::new(home))),
    }
}
