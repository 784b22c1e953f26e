//! Why an image was, or was not, served by this node: the admin API's `GET /why`, and `shoal why`, which shows it to
//! people.
//!
//! It looks at what this node knows and asks nobody, so it can be asked at any time.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use indicatif::BinaryBytes;
use serde::{Deserialize, Serialize};
use shoal_gateway::upstream::config::Access;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::manifest::{Listing, MAX_MANIFEST};
use shoal_proto::name::{ImageName, Reference, Scope};
use shoal_proto::verdict::Reader;
use shoal_store::{Store, StoreError};

use crate::admin::Views;
use crate::cli;
use crate::cli::local::{LocalNode, image_path, printable};
use crate::clock;
use crate::config::{self, Environment, Listener};
use crate::history::{Fetched, LastAnswer};
use crate::source::manifests;

/// The answer is small; one that takes longer comes from a node in trouble.
const SILENCE: Duration = Duration::from_secs(10);
/// The most parts told of one image.
const MOST: usize = 512;

/// What a node knows of an image, as JSON on the admin API. Fields may be added, never renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The image's whole name.
    pub image: String,
    /// Which rule forbids to ask its registry, if one does.
    pub forbidden: Option<String>,
    /// Who profits of the operator's credentials for the registry: `cluster`, `verify`, `challenge`, or nothing without
    /// credentials.
    pub access: Option<String>,
    /// Whether everyone may read the repository, as upstream last said.
    pub everyone: Everyone,
    /// How the name itself was last answered to a client.
    pub name: Option<LastAnswer>,
    /// The manifest, those that it lists, and their blobs, as far as their manifests are here.
    pub parts: Vec<Part>,
}

/// Whether everyone may read a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Everyone {
    /// Upstream said so lately.
    May,
    /// It said so once; it is asked again.
    MayOnce,
    /// Upstream refused it lately.
    MayNot,
    /// Nobody has asked.
    Unknown,
}

/// A manifest or blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `manifest` or `blob`.
    pub kind: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Whether this node holds it.
    pub held: bool,
    /// Where it came from, if this node fetched it since it started.
    pub fetched: Option<Fetched>,
    /// How it was last answered to a client, from this repository.
    pub answer: Option<LastAnswer>,
}

/// Looks up what the node knows.
///
/// # Errors
/// Whatever the disk says.
pub async fn look(views: &Views, image: &ImageName) -> Result<Why, StoreError> {
    let scope = &image.scope;
    let access = views.upstreams.access(&scope.registry);
    let reader = if access == Some(Access::Cluster) { Reader::Cluster } else { Reader::Everyone };
    let everyone = if views.access.may_read(scope, reader) {
        Everyone::May
    } else if views.access.is_refused(scope, reader) {
        Everyone::MayNot
    } else if views.access.last_read(scope, reader).await.is_some() {
        Everyone::MayOnce
    } else {
        Everyone::Unknown
    };
    let digest = match &image.reference {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(tag) => {
            let known = views.store.tags(scope, tag).await?;
            let newest = known.into_iter().max_by_key(|signed| signed.mapping.checked_unix_ms);
            newest.map(|signed| signed.mapping.digest)
        }
    };
    let mut parts = Vec::new();
    if let Some(digest) = digest {
        walk(views, scope, digest, &mut parts).await?;
    }
    Ok(Why {
        image: image.to_string(),
        forbidden: views.upstreams.check(&scope.registry).err().map(|error| error.to_string()),
        access: access.map(|access| access.name().to_owned()),
        everyone,
        name: views.history.last_answer(scope, &image.reference.to_string()),
        parts,
    })
}

/// The manifest of this digest, and what it and those below it list.
async fn walk(views: &Views, scope: &Scope, digest: Digest, parts: &mut Vec<Part>) -> Result<(), StoreError> {
    let mut manifests = vec![(digest, 0)];
    let mut seen = HashSet::from([digest]);
    while let Some((digest, said)) = manifests.pop() {
        if parts.len() >= MOST {
            break;
        }
        let held = views.store.held(&digest).await?;
        parts.push(part(views, scope, "manifest", digest, held.map_or(said, |held| held.size)).await?);
        let Some(listing) = listing(&views.store, &digest).await? else { continue };
        for blob in listing.blobs {
            if parts.len() < MOST && seen.insert(blob.digest) {
                parts.push(part(views, scope, "blob", blob.digest, blob.size).await?);
            }
        }
        let below = listing.manifests.into_iter().map(|manifest| (manifest.digest, manifest.size));
        let unseen = below.filter(|(digest, _)| seen.insert(*digest));
        manifests.extend(unseen.take(MOST.saturating_sub(parts.len())).collect::<Vec<_>>().into_iter().rev());
    }
    Ok(())
}

async fn part(
    views: &Views,
    scope: &Scope,
    kind: &str,
    digest: Digest,
    size: u64,
) -> Result<Part, StoreError> {
    Ok(Part {
        kind: kind.to_owned(),
        digest,
        size,
        held: views.store.held(&digest).await?.is_some(),
        fetched: views.history.origin(&digest),
        answer: views.history.last_answer(scope, &digest.to_string()),
    })
}

/// What a held manifest lists; nothing if it is not held, or no manifest.
async fn listing(store: &Store, digest: &Digest) -> Result<Option<Listing>, StoreError> {
    let Some(held) = store.held(digest).await?.filter(|held| held.size <= MAX_MANIFEST) else {
        return Ok(None);
    };
    let Ok(layout) = ChunkLayout::of(held.size) else { return Ok(None) };
    let Ok(bytes) = manifests::whole(store, digest, layout).await else { return Ok(None) };
    Ok(Listing::parse(&bytes).ok())
}

/// What `shoal why` may be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The image: debian, debian:12, ghcr.io/owner/name:tag, or any name with @sha256:….
    #[arg(value_name = "IMAGE")]
    pub image: ImageName,
    /// Where the node's admin API listens (or `SHOAL_ADMIN_ADDR`) [default: 127.0.0.1:5057].
    #[arg(long, value_name = "IP:PORT")]
    pub admin_addr: Option<String>,
    /// Print the node's answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `shoal why`.
///
/// # Errors
/// If no node answers, or something that is no node.
pub async fn run(options: Options, environment: &Environment) -> anyhow::Result<()> {
    let address = config::address_of(Listener::Admin, options.admin_addr.as_deref(), environment)?;
    let node = LocalNode::new(address, "--admin-addr", SILENCE)?;
    let path = image_path("/why", &options.image);
    let why: Why = node.admin_answer(node.get(&path), "what it knows of an image").await?;
    cli::print(&if options.json {
        format!("{}\n", serde_json::to_string_pretty(&why)?)
    } else {
        for_people(&why, clock::unix_seconds())
    })
}

/// Renders it for a terminal; `now` in seconds since the Unix epoch.
fn for_people(why: &Why, now: u64) -> String {
    let mut out = format!("{}\n", why.image);
    // Writing into a string cannot fail.
    let mut say = |text: &str| {
        let _ = writeln!(out, "  {text}");
    };
    if let Some(rule) = &why.forbidden {
        say(&format!("its registry is not asked: {}", printable(rule)));
    }
    let (whom, refused) = match why.access.as_deref() {
        Some("cluster") => ("the operator's credentials", "the operator's credentials may not read it"),
        _ => ("everyone", "not everyone may read it"),
    };
    say(&match why.everyone {
        Everyone::May => format!("{whom} may read it: upstream said so lately"),
        Everyone::MayOnce => format!("{whom} could read it when upstream was last asked; it is asked again"),
        Everyone::MayNot => format!("{refused}: upstream refused it lately"),
        Everyone::Unknown => format!("upstream was not asked whether {whom} may read it"),
    });
    match why.access.as_deref() {
        Some("cluster") => {
            say("the operator's credentials are for whoever reaches this gateway (access = cluster)");
        }
        Some(access) => {
            say(&format!("clients have to show credentials that upstream accepts (access = {access})"));
        }
        None => {}
    }
    match &why.name {
        Some(answer) => say(&format!("the name was last {}", answered(answer, now))),
        None => say("no client has asked for this name since the node started, or long ago"),
    }
    if why.parts.is_empty() {
        say("nothing of it is known here");
    }
    for part in &why.parts {
        let held = if part.held { "held" } else { "not held" };
        let size = BinaryBytes(part.size).to_string();
        let _ = writeln!(out, "\n{} {}, {size}, {held}", part.kind, part.digest);
        if let Some(fetched) = &part.fetched {
            let _ = writeln!(
                out,
                "  fetched {}: {} from peers, {} from upstream",
                ago(fetched.at, now),
                BinaryBytes(fetched.from_peers),
                BinaryBytes(fetched.from_upstream)
            );
        }
        if let Some(answer) = &part.answer {
            let _ = writeln!(out, "  last {}", answered(answer, now));
        }
    }
    out
}

fn answered(answer: &LastAnswer, now: u64) -> String {
    let reason =
        answer.reason.as_deref().map_or_else(String::new, |reason| format!(": {}", printable(reason)));
    format!("answered {} with {}{reason}", ago(answer.at, now), answer.status)
}

fn ago(at: u64, now: u64) -> String {
    match now.saturating_sub(at) {
        0 => "just now".to_owned(),
        seconds @ 1..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_who_may_and_why_not() {
        let digest = Digest::sha256_of(b"x");
        let why = Why {
            image: "ghcr.io/team/app:v1".to_owned(),
            forbidden: None,
            access: Some("verify".to_owned()),
            everyone: Everyone::MayNot,
            name: Some(LastAnswer {
                at: 100,
                status: 404,
                bytes: 0,
                reason: Some("no\u{1b}[31m credentials".to_owned()),
            }),
            parts: vec![Part {
                kind: "blob".to_owned(),
                digest,
                size: 3 << 20,
                held: true,
                fetched: Some(Fetched { at: 0, from_peers: 2 << 20, from_upstream: 1 << 20 }),
                answer: None,
            }],
        };
        let text = for_people(&why, 160);
        for said in [
            "not everyone may read it",
            "access = verify",
            "answered 60 s ago with 404: no [31m credentials",
            "3.00 MiB, held",
            "fetched 2 min ago: 2.00 MiB from peers, 1.00 MiB from upstream",
        ] {
            assert!(text.contains(said), "{said} is not in\n{text}");
        }
    }
}
