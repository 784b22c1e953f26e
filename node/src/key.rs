//! The cluster key on the command line: `shoal key new`.

use std::path::Path;

/// Stand-in for the cluster key of the peer transport, replaced when that lands.
#[derive(Debug)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Its text form, which is the secret itself.
    pub fn reveal(&self) -> String {
        format!("shoal-key-1:{}", hex::encode(self.0))
    }
}

/// Reads a key file.
///
/// # Errors
/// If it cannot be read or holds no key; the text never repeats what it holds.
pub fn read(path: &Path) -> anyhow::Result<ClusterKey> {
    let text = std::fs::read_to_string(path)?;
    let mut key = [0; 32];
    let hex = text.trim().strip_prefix("shoal-key-1:").unwrap_or_default();
    hex::decode_to_slice(hex, &mut key).map_err(|_| anyhow::anyhow!("not shoal-key-1: and 64 hex digits"))?;
    Ok(ClusterKey(key))
}

/// How to keep a new key, for people.
pub const HINT: &str = "\
Keep this line secret and give it to every node of the cluster:
  file        (umask 077; shoal key new > cluster.key)
              shoal run --cluster-key-file cluster.key
  Kubernetes  shoal key new | kubectl create secret generic shoal-cluster-key --from-file=cluster.key=/dev/stdin
              mounted as a file, SHOAL_CLUSTER_KEY_FILE naming its path";

/// A new key's line for standard output.
pub fn new() -> String {
    ClusterKey::generate().reveal()
}
