//! What `shoal setup` found before it wrote, so that it can be put back byte for byte.
//!
//! The record is written before the files are. So whatever instant the process ends at, each file is as it was found
//! or as the record knows that it was written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::host::Host;
use super::mirror::{Files, Mirror};
use super::problem::Problem;

/// The form of a record; a later one that means something else gets another number.
const FORM: u32 = 1;
/// A record holds files that may hold passwords.
const MODE: u32 = 0o600;

/// What was found and done for one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    form: u32,
    /// The folder of the client's configuration. Records of earlier versions do not say.
    #[serde(default)]
    pub(super) folder: Option<PathBuf>,
    /// The gateway that was written.
    pub(super) gateway: String,
    /// Whether it was for all registries.
    all: bool,
    /// The registries that were named.
    registries: BTreeSet<String>,
    /// The files, as they were found.
    pub(super) files: Vec<Kept>,
    /// The folders that were made, the outer ones first.
    pub(super) folders: Vec<PathBuf>,
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Where.
    pub(super) path: PathBuf,
    /// What it was; none if it did not exist.
    pub(super) original: Option<Original>,
    /// The SHA-256 of each text that was written to it.
    written: Vec<String>,
    /// Whether somebody else's change is in what was written last: it would be lost with what was found first.
    edited: bool,
}

/// A file's text and mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Original {
    pub(super) text: String,
    pub(super) mode: u32,
}

impl Kept {
    fn original_text(&self) -> Option<&str> {
        self.original.as_ref().map(|original| original.text.as_str())
    }

    /// Whether a file with this text is as we found it or as we wrote it.
    pub(super) fn knows(&self, text: Option<&str>) -> bool {
        let is_ours = |text| !self.edited && self.written.contains(&hash(text));
        text == self.original_text() || text.is_some_and(is_ours)
    }
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

impl Record {
    /// A record of nothing yet, for the client's configuration in a folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            form: FORM,
            folder: Some(folder.to_owned()),
            gateway: String::new(),
            all: false,
            registries: BTreeSet::new(),
            files: Vec::new(),
            folders: Vec::new(),
        }
    }

    /// Reads the record of an earlier run, if there was one.
    pub(super) fn load(host: &Host, path: &Path) -> Result<Option<Self>, Problem> {
        let Some(text) = host.read(path)? else { return Ok(None) };
        let wrong = |what: String| {
            Problem::file(
                path,
                format!("is no record of `shoal setup` ({what})"),
                "it holds what was there before; put that back by hand, then move this file away",
            )
        };
        let record: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if record.form != FORM {
            return Err(wrong(format!("its form is {}, known here is {FORM}", record.form)));
        }
        Ok(Some(record))
    }

    /// Writes it, for its owner alone.
    pub(super) fn save(&self, host: &Host, path: &Path) -> Result<(), Problem> {
        let text = serde_json::to_string_pretty(self);
        let text =
            text.map_err(|error| Problem::file(path, error.to_string(), "this is a mistake in Shoal"))?;
        host.write(path, &(text + "\n"), Some(MODE))
    }

    /// The mirror together with what earlier runs set up.
    pub(super) fn with_earlier(&self, mirror: Mirror) -> Mirror {
        let earlier = self.registries.iter().filter_map(|name| name.parse().ok());
        let registries = mirror.registries.iter().cloned().chain(earlier).collect();
        Mirror { all: mirror.all || self.all, registries, ..mirror }
    }

    /// Notes what is going to be set up.
    pub(super) fn note_mirror(&mut self, mirror: &Mirror) {
        mirror.gateway.url().clone_into(&mut self.gateway);
        self.all = mirror.all;
        self.registries = mirror.registries.iter().map(|name| name.as_str().to_owned()).collect();
    }

    /// Notes that a file which is now as `found` is going to be `text`. What was found first stays.
    pub(super) fn note_file(&mut self, path: &Path, found: Option<Original>, text: &str) {
        let hash = hash(text);
        if let Some(kept) = self.files.iter_mut().find(|kept| kept.path == path) {
            kept.edited |= !kept.knows(found.as_ref().map(|found| found.text.as_str()));
            if !kept.written.contains(&hash) {
                kept.written.push(hash);
            }
        } else {
            self.files.push(Kept {
                path: path.to_owned(),
                original: found,
                written: vec![hash],
                edited: false,
            });
        }
    }

    /// Notes folders that are going to be made.
    pub(super) fn note_folders(&mut self, folders: Vec<PathBuf>) {
        for folder in folders {
            if !self.folders.contains(&folder) {
                self.folders.push(folder);
            }
        }
    }
}

/// A host's files as they were before us, where nobody else changed them since: what to write is worked out from that,
/// so that writing again is writing the same, and another gateway takes the place of the last one.
pub(super) struct Before<'a> {
    pub(super) host: &'a Host,
    pub(super) record: Option<&'a Record>,
}

impl Files for Before<'_> {
    fn read(&self, path: &Path) -> Result<Option<String>, Problem> {
        let text = self.host.read(path)?;
        let mut kept = self.record.iter().flat_map(|record| &record.files);
        match kept.find(|kept| kept.path == path) {
            Some(kept) if kept.knows(text.as_deref()) => Ok(kept.original_text().map(str::to_owned)),
            _ => Ok(text),
        }
    }

    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, Problem> {
        self.host.list(folder)
    }

    fn is_folder(&self, path: &Path) -> Result<bool, Problem> {
        self.host.is_folder(path)
    }
}
