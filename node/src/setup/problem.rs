//! Why nothing was written: always the file, what is wrong with it, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a client is not set up, or not set back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A file or folder that cannot be used as it is.
    #[error("{} {wrong}: {todo}", path.display())]
    File {
        /// Which, as the client knows it.
        path: PathBuf,
        /// What is wrong, as the end of a sentence that began with the path.
        wrong: String,
        /// What to do.
        todo: String,
    },
    /// Something was asked that this client cannot do.
    #[error("{wrong}: {todo}")]
    Asked {
        /// What is wrong.
        wrong: String,
        /// What to do.
        todo: String,
    },
}

impl Problem {
    /// A file that cannot be used.
    pub(super) fn file(path: &Path, wrong: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), wrong: wrong.into(), todo: todo.into() }
    }

    /// A request that cannot be met.
    pub(super) fn asked(wrong: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Asked { wrong: wrong.into(), todo: todo.into() }
    }

    /// A file by which a client takes a registry's images from somewhere else, and so maybe others than the node has.
    pub(super) fn elsewhere(path: &Path, whence: &str, mirror: &str) -> Self {
        Self::file(
            path,
            format!(
                "has {whence}: images come from there, and the node would take them from the registry of that name"
            ),
            format!(
                "tell the node where they are ([upstream] in its shoal.toml), then add {mirror} there by hand and run \
                 this again; or leave the registry out, and name others with --registry"
            ),
        )
    }

    /// What the operating system refused.
    pub(super) fn system(path: &Path, what: &str, error: &io::Error) -> Self {
        let todo = match error.kind() {
            io::ErrorKind::PermissionDenied => "run this as root, or as the user who owns it",
            io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or name the right root with --root",
            io::ErrorKind::NotADirectory => {
                "a part of this path is a file: name another folder, or move the file"
            }
            _ => "see to that, and run this again",
        };
        Self::file(path, format!("{what}: {error}"), todo)
    }
}
