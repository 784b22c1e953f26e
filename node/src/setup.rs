//! `shoal setup`: writes a client's mirror configuration, and takes it back.
//!
//! ```text
//! options ─► client: what its files are to become ─► changes ─► a diff, or: the record, then each file at once
//!              │ a pure function a format (containerd, docker,     ▲                 │
//!              │ containers, k3s, buildkit), and what it reads     │                 ▼
//!              └─ record: the files as they were before us ────────┘      host: below --root, no symlink leads out
//! ```
//!
//! What was there stays: other keys, their order, comments. Nothing is written if one of the files cannot be used, and
//! nothing is ever restarted; what a person has to reload or restart is said.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use shoal_proto::name::Registry;

use crate::cli;
use crate::config::{self, Environment, GATEWAY_ADDR, Listener};

mod buildkit;
mod change;
mod client;
mod containerd;
mod containers;
mod desktop;
mod docker;
mod gateway;
mod host;
mod k3s;
mod mirror;
mod problem;
mod record;
mod tables;

pub use client::Client;
pub use gateway::Gateway;
pub use problem::Problem;

use change::Change;
use host::Host;
use mirror::{Files as _, Mirror};
use record::{Before, Original, Record};

/// What `shoal setup` may be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The client.
    #[arg(value_enum, value_name = "CLIENT")]
    pub client: Client,
    /// Where the client reaches the node's gateway [default: where the node of this environment listens, or
    /// `http://127.0.0.1:5055`; with --root the latter].
    #[arg(long, value_name = "URL")]
    pub gateway: Option<Gateway>,
    /// A registry to mirror, as in ghcr.io; may be given several times
    /// [default: all, and Docker Hub where a client has no word for all].
    #[arg(long, value_name = "HOST")]
    pub registry: Vec<Registry>,
    /// Where the host's root is mounted, as in an init container.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// The folder of the client's configuration, as the host knows it [default: the client's own, as /etc/docker].
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// Show what would be changed, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Put every file back as it was before the first run, byte for byte.
    #[arg(long, conflicts_with_all = ["gateway", "registry"])]
    pub undo: bool,
    /// With --undo: also put back files that somebody changed since. What they changed is lost.
    #[arg(long, requires = "undo")]
    pub force: bool,
}

/// `shoal setup …`: what was or would be changed on standard output, what a person should know on standard error.
///
/// # Errors
/// [`Problem`]. Nothing was written then, or what was is in the record.
pub fn run(options: &Options, environment: &Environment) -> anyhow::Result<()> {
    let (host, record) = open(options, environment)?;
    if options.undo {
        return undo(options, &host, &record);
    }
    // Who names the folder knows which Docker he means.
    if options.client == Client::Docker && options.config_dir.is_none() {
        let home = environment.get("HOME").filter(|_| options.root.is_none());
        desktop::refuse(&host, home.map(Path::new))?;
    }
    let gateway = match &options.gateway {
        Some(gateway) => gateway.clone(),
        // What this environment says of a node is not of the host below the root.
        None if options.root.is_some() => GATEWAY_ADDR.into(),
        None => config::address_of(Listener::Gateway, None, environment)?.into(),
    };
    set_up(options, gateway, &host, &record)
}

/// The host, and where on it the record of this client is.
fn open(options: &Options, environment: &Environment) -> Result<(Host, PathBuf), Problem> {
    let relative = options.config_dir.as_ref().filter(|folder| !folder.is_absolute());
    if let Some(folder) = relative {
        return Err(Problem::file(
            folder,
            "is no absolute path",
            "write the folder's whole path, from the root on",
        ));
    }
    let host = Host::new(options.root.as_deref().unwrap_or_else(|| Path::new("/")))?;
    let folder = match &options.root {
        Some(_) => Some(PathBuf::from("/var/lib/shoal")),
        None => environment.default_data_dir(),
    };
    let no_home = || Problem::asked("nowhere to keep what was there before", "set HOME, or run this as root");
    let folder = folder.ok_or_else(no_home)?.join("setup");
    let client = options.client;
    let name = match &options.config_dir {
        Some(other) if *other != client.folder() => {
            let other = blake3::hash(other.as_os_str().as_encoded_bytes()).to_hex();
            format!("{}-{}.json", client.record(), &other[..12])
        }
        _ => format!("{}.json", client.record()),
    };
    Ok((host, folder.join(name)))
}

fn set_up(options: &Options, gateway: Gateway, host: &Host, record_path: &Path) -> anyhow::Result<()> {
    let found = Record::load(host, record_path)?;
    let mirror = Mirror {
        gateway,
        all: options.registry.is_empty(),
        registries: options.registry.iter().cloned().collect(),
    };
    let mirror = match &found {
        Some(found) => found.with_earlier(mirror),
        None => mirror,
    };
    let folder = options.config_dir.clone().unwrap_or_else(|| options.client.folder());
    let before = Before { host, record: found.as_ref() };
    let plan = options.client.plan(&folder, &mirror, &before)?;
    let mut changes = Vec::new();
    for (path, text) in plan.files {
        let before = host.read(&path)?;
        if before.as_ref() != Some(&text) {
            changes.push(Change { path, before, after: Some(text) });
        }
    }
    refuse_edited_for_another(found.as_ref(), &mirror, host)?;
    if !options.dry_run && !changes.is_empty() {
        let record = found.unwrap_or_else(|| Record::new(&folder));
        write(host, record_path, record, &mirror, &changes)?;
    }
    for note in plan.notes {
        cli::explain(&format!("note: {note}"));
    }
    if changes.is_empty() {
        return cli::print("nothing to change: it is set up already\n");
    }
    conclude(options, &changes)
}

/// A file that somebody changed after us still has our former gateway in it, and we cannot tell which line is ours.
fn refuse_edited_for_another(found: Option<&Record>, mirror: &Mirror, host: &Host) -> Result<(), Problem> {
    let Some(found) = found.filter(|found| found.gateway != mirror.gateway.url()) else { return Ok(()) };
    for kept in &found.files {
        if !kept.knows(host.read(&kept.path)?.as_deref()) {
            return Err(Problem::file(
                &kept.path,
                format!("was set up for {}, and somebody changed it since", found.gateway),
                format!(
                    "put {} there by hand, or take everything back with --undo --force first",
                    mirror.gateway
                ),
            ));
        }
    }
    Ok(())
}

/// The record first, then the files. If one cannot be written, a first run leaves nothing behind.
fn write(
    host: &Host,
    record_path: &Path,
    mut record: Record,
    mirror: &Mirror,
    changes: &[Change],
) -> Result<(), Problem> {
    let is_first = record.files.is_empty();
    record.note_mirror(mirror);
    record.note_folders(host.missing_folders(record_path)?);
    for change in changes {
        record.note_folders(host.missing_folders(&change.path)?);
        let mode = host.mode(&change.path)?.unwrap_or(host::FILE_MODE);
        let found = change.before.clone().map(|text| Original { text, mode });
        record.note_file(&change.path, found, change.after.as_deref().unwrap_or_default());
    }
    record.save(host, record_path)?;
    for (written, Change { path, after, .. }) in changes.iter().enumerate() {
        if let Err(problem) = host.write(path, after.as_deref().unwrap_or_default(), None) {
            if is_first {
                let back: Vec<Change> = changes[..written].iter().map(Change::back).collect();
                // The record stays if this fails too, and --undo can be tried again.
                take_back(host, record_path, &record, &back).ok();
            }
            return Err(problem);
        }
    }
    Ok(())
}

fn undo(options: &Options, host: &Host, record_path: &Path) -> anyhow::Result<()> {
    let Some(record) = Record::load(host, record_path)? else {
        let elsewhere = elsewhere(options.client, host, record_path)?;
        return cli::print(&format!("nothing to undo: nothing was set up here{elsewhere}\n"));
    };
    let mut changes = Vec::new();
    for kept in &record.files {
        let before = host.read(&kept.path)?;
        if !options.force && !kept.knows(before.as_deref()) {
            let what = if before.is_some() { "changed" } else { "removed" };
            return Err(Problem::file(
                &kept.path,
                format!("was {what} by somebody since it was set up"),
                "see the difference with --undo --force --dry-run; --undo --force puts back what was there before, \
                 and that change is lost",
            )
            .into());
        }
        let after = kept.original.as_ref().map(|original| original.text.clone());
        if before != after {
            changes.push(Change { path: kept.path.clone(), before, after });
        }
    }
    if !options.dry_run {
        take_back(host, record_path, &record, &changes)?;
    }
    if changes.is_empty() {
        return cli::print("nothing to change: every file is as it was\n");
    }
    conclude(options, &changes)
}

/// Says for which other folders this client was set up, if any: each has a record of its own.
fn elsewhere(client: Client, host: &Host, record_path: &Path) -> Result<String, Problem> {
    let mut folders = Vec::new();
    for path in host.list(record_path.parent().unwrap_or(record_path))? {
        let name = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        let rest = name.strip_prefix(client.record());
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            let folder = Record::load(host, &path)?.and_then(|record| record.folder);
            folders.push(
                folder.map_or_else(|| "another folder".to_owned(), |folder| folder.display().to_string()),
            );
        }
    }
    let say = |folders: String| format!(", but it was for {folders}: name the folder with --config-dir");
    Ok(if folders.is_empty() { String::new() } else { say(folders.join(", ")) })
}

/// The files first, the record last: what is interrupted can be run again.
fn take_back(host: &Host, record_path: &Path, record: &Record, changes: &[Change]) -> Result<(), Problem> {
    for Change { path, after, .. } in changes {
        let kept = record.files.iter().find(|kept| kept.path == *path);
        let mode = kept.and_then(|kept| Some(kept.original.as_ref()?.mode));
        match after {
            Some(text) => host.write(path, text, mode)?,
            None => host.remove(path)?,
        }
    }
    host.remove(record_path)?;
    // Whichever client's record was the first made this folder.
    if let Some(records) = record_path.parent() {
        host.remove_empty(records)?;
    }
    for folder in record.folders.iter().rev() {
        host.remove_empty(folder)?;
    }
    Ok(())
}

/// Says what was changed, or shows what would be, and what has to be done then.
fn conclude(options: &Options, changes: &[Change]) -> anyhow::Result<()> {
    let mut text = String::new();
    for change in changes {
        if options.dry_run {
            text += &change.diff();
        } else {
            let _ = writeln!(text, "{} {}", change.verb(), change.path.display());
        }
    }
    if options.dry_run {
        text += "nothing was written (--dry-run). After it is:\n";
    }
    text += options.client.after(changes);
    cli::print(&(text + "\n"))
}
