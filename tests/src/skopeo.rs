//! skopeo, the client of the library that podman and CRI-O pull with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::output;
use crate::tool;

/// Which of an index's images are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platforms {
    /// This machine's.
    Host,
    /// All of them.
    All,
}

/// An image that skopeo copied, in its `dir:` layout: every file is named by its digest's hex.
#[derive(Debug)]
pub struct Copied {
    directory: PathBuf,
}

impl Copied {
    /// Copies `image` (`127.0.0.1:5055/docker.io/library/debian:12`) into a directory below `home`.
    ///
    /// # Errors
    /// If skopeo is missing or fails: with what it said.
    pub fn copy(home: &Path, name: &str, image: &str, platforms: Platforms) -> Result<Self> {
        let directory = home.join(name);
        fs::create_dir_all(&directory)?;
        let mut command = Command::new(tool::SKOPEO.path()?);
        command.args(["--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests"]);
        if platforms == Platforms::All {
            command.arg("--all");
        }
        output(command.arg(format!("docker://{image}")).arg(format!("dir:{}", directory.display())))?;
        Ok(Self { directory })
    }

    /// The top manifest or index.
    ///
    /// # Errors
    /// If there is none.
    pub fn manifest(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.directory.join("manifest.json"))?)
    }

    /// A manifest below an index, by its digest.
    ///
    /// # Errors
    /// If there is none.
    pub fn child(&self, digest: &str) -> Result<Vec<u8>> {
        let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
        Ok(fs::read(self.directory.join(format!("{hex}.manifest.json")))?)
    }

    /// A blob by its digest.
    ///
    /// # Errors
    /// If it was not copied.
    pub fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
        Ok(fs::read(self.directory.join(hex))?)
    }
}
