//! Why a pull did not work, for people.

use std::fmt;

use shoal_proto::digest::Digest;
use shoal_proto::manifest::ManifestError;

use crate::cli::local::LocalError;

/// Why a pull did not work.
#[derive(Debug, thiserror::Error)]
pub enum PullFailure {
    /// The node could not be asked, or was cut off.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The node was cut off before it answered.
    #[error("{what}: {reason}")]
    NoAnswer {
        /// What was asked for.
        what: String,
        /// What broke.
        reason: LocalError,
    },
    /// The gateway said no.
    #[error("the node cannot give {what}: {status}{}", Said(.said))]
    Refused {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: reqwest::StatusCode,
        /// What its OCI error JSON said, made printable.
        said: Vec<String>,
    },
    /// A blob's body broke.
    #[error("{digest} was cut off after {received} of {size} bytes: {reason}{after}")]
    CutOff {
        /// The blob.
        digest: Digest,
        /// How much came.
        received: u64,
        /// How much was promised.
        size: u64,
        /// What broke.
        reason: Box<LocalError>,
        /// What the node said when it was asked again.
        after: After,
    },
    /// A blob's body ended early, though in good order.
    #[error("{digest} ended after {received} of {size} bytes{after}")]
    TooShort {
        /// The blob.
        digest: Digest,
        /// How much came.
        received: u64,
        /// How much was promised.
        size: u64,
        /// What the node said when it was asked again.
        after: After,
    },
    /// A blob's body went on after its end.
    #[error("{digest} is longer than the {size} bytes that its manifest says")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// How much was promised.
        size: u64,
    },
    /// The content is not what its digest promises.
    #[error("the {what} is wrong: {promised} was promised, {actual} came")]
    Mismatch {
        /// Manifest or blob.
        what: &'static str,
        /// What was asked for.
        promised: Digest,
        /// What the bytes hash to.
        actual: Box<Digest>,
    },
    /// A manifest is not of a form that can be followed.
    #[error("{what} cannot be followed: {reason}")]
    Manifest {
        /// Which one.
        what: String,
        /// Why.
        reason: ManifestError,
    },
    /// An image breaks a bound.
    #[error("{0}")]
    Unusual(String),
    /// The image is not there for that platform.
    #[error(
        "the image is not there for {wanted}, only for {offered}: name one with --platform, or --all-platforms"
    )]
    Platform {
        /// What was wanted.
        wanted: String,
        /// What its index offers.
        offered: String,
    },
    /// Some blobs failed.
    #[error("{} of {of} blobs failed:{}", .failures.len(), Lines(.failures))]
    Blobs {
        /// Why, one for each.
        failures: Vec<Self>,
        /// How many there were to pull.
        of: usize,
    },
    /// A blob's task broke, which is a mistake in Shoal.
    #[error("a task of this command broke: {0}")]
    Task(String),
}

/// What the node says when it is asked again for a blob that broke off: a body can only end, and not say why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// It begins to give the blob again.
    Given,
    /// It does not give it.
    Refused {
        /// The HTTP status.
        status: reqwest::StatusCode,
        /// What its OCI error JSON said, made printable.
        said: Vec<String>,
    },
    /// It gave no answer.
    Silent,
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => write!(f, "; asked again, the node begins to give it: run the same command again"),
            Self::Refused { status, said } => {
                write!(f, "; asked again, the node says {status}{}", Said(said))
            }
            Self::Silent => Ok(()),
        }
    }
}

struct Said<'a>(&'a [String]);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for said in self.0 {
            write!(f, "; {said}")?;
        }
        Ok(())
    }
}

struct Lines<'a>(&'a [PullFailure]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in self.0 {
            write!(f, "\n  {failure}")?;
        }
        Ok(())
    }
}
