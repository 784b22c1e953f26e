//! Which of an image's platforms are pulled.

use std::fmt;
use std::str::FromStr;

use shoal_proto::manifest::{self, Descriptor};

use super::failure::PullFailure;

/// An operating system and architecture, in Go's words: `linux/amd64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: write os/architecture, as in linux/amd64 or linux/arm64")]
pub struct PlatformError(String);

/// What is wanted of an image for many platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// What runs there; all variants of it, if the image has several (`linux/arm/v6` and `v7`).
    One(Platform),
    /// The same, where nobody said so: it is this machine's.
    Here(Platform),
}

impl Platform {
    /// Where this machine's containers run. They are Linux's, also on a Mac.
    pub(super) fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            same => same,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned() }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |word: &str| {
            !word.is_empty()
                && word.len() <= 32
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('/') {
            Some((os, architecture)) if word(os) && word(architecture) => {
                Ok(Self { os: os.to_owned(), architecture: architecture.to_owned() })
            }
            _ => Err(PlatformError(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

impl Wanted {
    /// Looks whether an image that is for one platform alone is for the wanted one. `Some` is what to tell people of an
    /// image that is pulled all the same, because nobody named a platform.
    ///
    /// # Errors
    /// [`PullFailure::Platform`] if another one was named.
    pub(super) fn judge(&self, found: &manifest::Platform) -> Result<Option<String>, PullFailure> {
        let (Self::One(wanted) | Self::Here(wanted)) = self else { return Ok(None) };
        if found.os == wanted.os && found.architecture == wanted.architecture {
            return Ok(None);
        }
        let offered = crate::cli::local::printable(&format!("{}/{}", found.os, found.architecture));
        if matches!(self, Self::Here(_)) {
            return Ok(Some(format!("the image is for {offered} alone, and this machine runs {wanted}")));
        }
        Err(PullFailure::Platform { wanted: wanted.to_string(), offered })
    }

    /// Picks of an index's entries.
    ///
    /// # Errors
    /// [`PullFailure::Platform`] if none fits, with what there is.
    pub(super) fn of(&self, entries: Vec<Descriptor>) -> Result<Vec<Descriptor>, PullFailure> {
        let (Self::One(wanted) | Self::Here(wanted)) = self else { return Ok(entries) };
        let mut offered: Vec<String> = Vec::new();
        let mut fitting = Vec::new();
        for entry in entries {
            let Some(platform) = &entry.platform else { continue };
            if platform.os == wanted.os && platform.architecture == wanted.architecture {
                fitting.push(entry);
                continue;
            }
            let name = crate::cli::local::printable(&format!("{}/{}", platform.os, platform.architecture));
            // Attestations beside an image are listed as unknown/unknown: nothing to choose.
            if platform.os != "unknown" && !offered.contains(&name) {
                offered.push(name);
            }
        }
        if !fitting.is_empty() {
            return Ok(fitting);
        }
        let offered = if offered.is_empty() { "no platform at all".to_owned() } else { offered.join(", ") };
        Err(PullFailure::Platform { wanted: wanted.to_string(), offered })
    }
}
