//! What a client is to be told: which registries it reaches through which gateway.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use shoal_proto::name::Registry;

use super::gateway::Gateway;
use super::problem::Problem;

/// The mirror that a client is to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    /// Where it is.
    pub(super) gateway: Gateway,
    /// Whether it stands for all registries, where the client can say that, and else for Docker Hub.
    pub(super) all: bool,
    /// The registries that it stands for, by name.
    pub(super) registries: BTreeSet<Registry>,
}

impl Mirror {
    /// Their names in a client's file, which has a word for all or not.
    pub(super) fn names(&self, word_for_all: &str) -> Vec<String> {
        let all = self.all.then(|| word_for_all.to_owned());
        let named = self.registries.iter().map(|registry| registry.as_str().to_owned());
        let named = named.filter(|name| !self.all || name != word_for_all);
        all.into_iter().chain(named).collect()
    }
}

/// Reads a client's configuration. Paths are the host's own, whatever folder its root is mounted at.
pub(super) trait Files {
    /// The file's text; none if it does not exist.
    fn read(&self, path: &Path) -> Result<Option<String>, Problem>;

    /// The paths of what is in a folder, in order of name; none if it does not exist.
    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, Problem>;

    /// Whether there is a folder of this path.
    fn is_folder(&self, path: &Path) -> Result<bool, Problem>;
}

/// What a client's files are to become.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Each file and its new text.
    pub(super) files: Vec<(PathBuf, String)>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

#[cfg(test)]
pub(super) mod memory {
    use std::collections::BTreeMap;

    use super::*;

    /// Files in memory.
    pub(in crate::setup) struct Memory(pub(crate) BTreeMap<PathBuf, String>);

    impl Memory {
        pub(crate) fn with(files: &[(&str, &str)]) -> Self {
            Self(files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect())
        }

        pub(crate) fn take(&mut self, plan: &Plan) {
            self.0.extend(plan.files.iter().cloned());
        }
    }

    impl Files for Memory {
        fn read(&self, path: &Path) -> Result<Option<String>, Problem> {
            Ok(self.0.get(path).cloned())
        }

        fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, Problem> {
            let mut names: Vec<PathBuf> = Vec::new();
            for path in self.0.keys() {
                let Ok(rest) = path.strip_prefix(folder) else { continue };
                names.extend(rest.components().next().map(|first| folder.join(first)));
            }
            names.dedup();
            Ok(names)
        }

        fn is_folder(&self, path: &Path) -> Result<bool, Problem> {
            Ok(!self.list(path)?.is_empty())
        }
    }

    /// A mirror at the default gateway.
    pub(crate) fn mirror(registries: &[&str]) -> Mirror {
        let named: BTreeSet<Registry> = registries.iter().map(|name| name.parse().unwrap()).collect();
        Mirror { gateway: crate::config::GATEWAY_ADDR.into(), all: named.is_empty(), registries: named }
    }
}
