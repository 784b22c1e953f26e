//! Who this node is: an ed25519 key, kept in its data directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use shoal_proto::identity::Keypair;

/// A key file is some 68 bytes; more is none.
const MAX_FILE: u64 = 4096;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("the identity in {} cannot be {what}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// The file is not a key.
    #[error(
        "{} is not an identity of Shoal: restore it, or remove it to give this node a new peer id",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the identity, or makes one on the first start. The file is for its owner alone.
///
/// # Errors
/// [`IdentityError`] if the file is damaged, or cannot be read or written.
pub fn load_or_create(path: &Path) -> Result<Keypair, IdentityError> {
    let failed = |what| move |error| IdentityError::Io { path: path.to_owned(), what, error };
    match File::open(path) {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path).map_err(failed("written")),
        Err(error) => Err(failed("read")(error)),
    }
}

fn read(path: &Path, file: File) -> Result<Keypair, IdentityError> {
    let failed = |error| IdentityError::Io { path: path.to_owned(), what: "read", error };
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %path.display(), mode = format!("{:o}", mode & 0o777),
            "others can read this node's identity: chmod 600 it"
        );
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Keypair::from_protobuf_encoding(&bytes).map_err(|_| IdentityError::Damaged { path: path.to_owned() })
}

/// Written beside, synced and moved: the file is whole or not there.
fn create(path: &Path) -> io::Result<Keypair> {
    let keypair = Keypair::generate_ed25519();
    let bytes = keypair.to_protobuf_encoding().map_err(io::Error::other)?;
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(keypair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        let first = load_or_create(&path).unwrap().public();
        assert_eq!(load_or_create(&path).unwrap().public(), first);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        std::fs::write(&path, b"not a key").unwrap();
        let error = load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("identity.key") && error.contains("remove it"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key");
    }
}
