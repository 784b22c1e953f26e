//! The files that a configuration names: each is opened and read once before the node starts.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::problem::{Given, Problem, Wrong};
use shoal_gateway::upstream::check_client_certificate;
use shoal_swarm::cluster_key::{ClusterKey, ClusterKeyError};

/// No file of a configuration is larger: a bundle of every public CA is a quarter of this.
const MAX_FILE: u64 = 1024 * 1024;

/// What a file must hold.
#[derive(Debug)]
pub(super) enum Kind {
    /// The cluster key.
    ClusterKey,
    /// PEM certificates.
    Certificates,
    /// The certificate that this node shows a registry, with its key in the same file or in this one.
    ClientCertificate(Option<PathBuf>),
    /// A private key in PEM.
    PrivateKey,
    /// A password.
    Password,
    /// Docker's `config.json`. What it says of a registry is looked at when the client is built.
    DockerConfig,
}

/// A file that the node will open.
#[derive(Debug)]
pub(super) struct ToOpen {
    pub(super) kind: Kind,
    /// Where it was named.
    pub(super) given: Given,
    pub(super) path: PathBuf,
}

impl ToOpen {
    /// Opens it and looks whether it holds what it should.
    pub(super) fn check(&self) -> Option<Problem> {
        let checked = match &self.kind {
            Kind::ClusterKey => cluster_key(&self.path),
            Kind::Certificates => certificates(&self.path),
            Kind::ClientCertificate(key) => client_certificate(&self.path, key.as_deref()),
            Kind::PrivateKey => private_key(&self.path),
            Kind::Password => password(&self.path),
            Kind::DockerConfig => docker_config(&self.path),
        };
        checked.err().map(|wrong| self.given.problem(wrong))
    }
}

/// Reads a small file whole. Nothing else is opened: to open a pipe is to wait for whoever writes to it.
pub(super) fn read(path: &Path, allowed: &str) -> Result<Vec<u8>, Wrong> {
    let cannot = |error: std::io::Error| Wrong::new(format!("cannot be read: {error}"), allowed);
    if path.is_dir() {
        return Err(Wrong::new("is a folder", allowed));
    }
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(Wrong::new("is not a regular file", allowed));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Wrong::new("is larger than 1 MiB", allowed));
    }
    Ok(bytes)
}

fn cluster_key(path: &Path) -> Result<(), Wrong> {
    const ALLOWED: &str =
        "allowed: a file that this user may read, with one line as `shoal key new` prints it";
    ClusterKey::read(path).map(drop).map_err(|error| match error {
        ClusterKeyError::Read { error, .. } => Wrong::new(format!("cannot be read: {error}"), ALLOWED),
        _ => Wrong::new("holds no cluster key", ALLOWED),
    })
}

fn certificates(path: &Path) -> Result<(), Wrong> {
    const ALLOWED: &str = "allowed: a PEM file that this user may read, with one certificate or more";
    let pem = read(path, ALLOWED)?;
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if certificates.is_empty() => Err(Wrong::new("holds no certificate", ALLOWED)),
        Ok(_) => Ok(()),
        Err(error) => Err(Wrong::new(format!("holds a broken certificate: {error}"), ALLOWED)),
    }
}

fn client_certificate(path: &Path, key: Option<&Path>) -> Result<(), Wrong> {
    const ALLOWED: &str = "allowed: a PEM file that this user may read, with a certificate of X.509 version 3, and \
         with its private key without a passphrase, which may be in the file of client_key instead";
    certificates(path)?;
    let mut pem = read(path, ALLOWED)?;
    if let Some(key) = key {
        if private_key(key).is_err() {
            // That is said of client_key.
            return Ok(());
        }
        pem.push(b'\n');
        pem.extend(read(key, ALLOWED)?);
    }
    let cannot = |problem| Wrong::new(format!("cannot be shown to a registry: {problem}"), ALLOWED);
    check_client_certificate(&pem).map_err(cannot)
}

fn password(path: &Path) -> Result<(), Wrong> {
    const ALLOWED: &str = "allowed: a file that this user may read, with the password and nothing else";
    let bytes = read(path, ALLOWED)?;
    let text = String::from_utf8(bytes).map_err(|_| Wrong::new("is not text", ALLOWED))?;
    // An editor's line break at the end is not part of a password.
    if text.trim_end_matches(['\r', '\n']).is_empty() {
        return Err(Wrong::new("is empty", ALLOWED));
    }
    Ok(())
}

fn private_key(path: &Path) -> Result<(), Wrong> {
    const ALLOWED: &str =
        "allowed: a PEM file that this user may read, with a private key without a passphrase";
    let pem = read(path, ALLOWED)?;
    let text = String::from_utf8(pem).map_err(|_| Wrong::new("is not text", ALLOWED))?;
    if text.contains("ENCRYPTED") {
        return Err(Wrong::new("holds a key with a passphrase", ALLOWED));
    }
    if !text.contains("PRIVATE KEY-----") {
        return Err(Wrong::new("holds no private key", ALLOWED));
    }
    Ok(())
}

fn docker_config(path: &Path) -> Result<(), Wrong> {
    const ALLOWED: &str = "allowed: a file that this user may read, in the form of Docker's config.json";
    let bytes = read(path, ALLOWED)?;
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes) {
        Ok(_) => Ok(()),
        // The error's own text may repeat a value, which may be a secret.
        Err(error) => {
            let place = format!("is not JSON, at line {}, column {}", error.line(), error.column());
            Err(Wrong::new(place, ALLOWED))
        }
    }
}
