//! The secret that admits nodes to a cluster.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What the text form begins with: it says what the secret is for, and which version.
const PREFIX: &str = "shoal-key-1:";
/// The longest key file that is read.
const MAX_FILE: u64 = 1024;

/// A cluster key: 32 random bytes. It never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

/// Why there is no cluster key. The text never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterKeyError {
    /// Not of the form.
    #[error(
        "this is not a cluster key: one is {PREFIX} and 64 hexadecimal digits, as `shoal key new` prints it"
    )]
    Form,
    /// The file cannot be read.
    #[error("cluster_key_file {} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// What is in the file is not a key.
    #[error(
        "cluster_key_file {} does not hold a cluster key: one is {PREFIX} and 64 hexadecimal digits, as \
         `shoal key new` prints it",
        path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
    },
}

impl ClusterKey {
    /// A new key, from the system's randomness.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The key's text, to be stored where only the nodes can read it.
    pub fn reveal(&self) -> String {
        let mut text = PREFIX.to_owned();
        for byte in self.0 {
            // Writing to a string cannot fail.
            fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}")).ok();
        }
        text
    }

    /// Reads a key from a file; white space around it does not matter.
    ///
    /// # Errors
    /// [`ClusterKeyError`] naming the file.
    pub fn read(path: &Path) -> Result<Self, ClusterKeyError> {
        let failed = |error| ClusterKeyError::Read { path: path.to_owned(), error };
        let mut text = String::new();
        // To open a pipe is to wait for whoever writes to it.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(failed(std::io::Error::other("it is not a regular file")));
        }
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        text.trim().parse().map_err(|_| ClusterKeyError::File { path: path.to_owned() })
    }

    /// A key for one purpose, derived from this one.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.0)
    }
}

impl FromStr for ClusterKey {
    type Err = ClusterKeyError;

    fn from_str(text: &str) -> Result<Self, ClusterKeyError> {
        let digits = text.strip_prefix(PREFIX).ok_or(ClusterKeyError::Form)?.as_bytes();
        if digits.len() != 64 {
            return Err(ClusterKeyError::Form);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let (high, low) =
                (digit(pair[0]).ok_or(ClusterKeyError::Form)?, digit(pair[1]).ok_or(ClusterKeyError::Form)?);
            *byte = high << 4 | low;
        }
        Ok(Self(key))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back_and_never_in_debug() {
        let key = ClusterKey::generate();
        let text = key.reveal();
        assert_eq!(text.parse::<ClusterKey>().unwrap(), key);
        assert_eq!(text.len(), PREFIX.len() + 64);
        assert!(!format!("{key:?}").contains(&text[PREFIX.len()..PREFIX.len() + 8]));
        assert_ne!(key, ClusterKey::generate());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in [
            "",
            "shoal-key-1:",
            "shoal-key-1:zz",
            "secret-secret",
            &format!("shoal-key-1:{}", "é".repeat(32)),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = ClusterKey::read(&path).unwrap_err().to_string();
            assert!(
                error.contains("key") && error.contains("shoal key new") && !error.contains("secret-"),
                "{error}"
            );
        }
        std::fs::write(&path, format!("{}\n", ClusterKey::generate().reveal())).unwrap();
        assert!(ClusterKey::read(&path).is_ok());
    }
}
