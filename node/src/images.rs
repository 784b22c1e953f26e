//! `shoal images …`: what the node on this machine knows of images.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_proto::digest::Digest;
use shoal_proto::name::ImageName;

use crate::admin::BY_HAND;
use crate::cli;
use crate::cli::local::{LocalNode, image_path};
use crate::config::{self, Environment, Listener};

/// How long upstream may take: longer than a client of the gateway would wait.
const SILENCE: Duration = Duration::from_secs(40);

/// What can be done with images.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Ask the registry now what a tag names, however short a while ago it was asked.
    ///
    /// This node answers with it at once, the others of the fleet once what they know is older than `tag_ttl`, or the
    /// rule's `ttl`. A tag that a rule makes immutable (`ttl = "forever"`) is refreshed on each node.
    Refresh(Options),
}

/// What `shoal images refresh` may be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The image: debian, debian:12, or ghcr.io/owner/name:tag.
    #[arg(value_name = "IMAGE")]
    pub image: ImageName,
    /// Where the node's admin API listens (or `SHOAL_ADMIN_ADDR`) [default: 127.0.0.1:5057].
    #[arg(long, value_name = "IP:PORT")]
    pub admin_addr: Option<String>,
}

/// What a tag named and names, as JSON on the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The image's whole name.
    pub image: String,
    /// What it was known to name.
    pub before: Option<Digest>,
    /// What it names.
    pub now: Digest,
}

/// `shoal images …`.
///
/// # Errors
/// If no node answers, or its registry does not.
pub async fn run(command: Command, environment: &Environment) -> anyhow::Result<()> {
    let Command::Refresh(options) = command;
    let address = config::address_of(Listener::Admin, options.admin_addr.as_deref(), environment)?;
    let node = LocalNode::new(address, "--admin-addr", SILENCE)?;
    let ask = node.post(&image_path("/refresh", &options.image)).header(BY_HAND, "1");
    let said: Refreshed = node.admin_answer(ask, "what a tag names").await?;
    cli::print(&for_people(&said))
}

fn for_people(said: &Refreshed) -> String {
    let Refreshed { image, before, now } = said;
    match before {
        Some(before) if before == now => format!("{image} still names {now}\n"),
        Some(before) => format!("{image} names {now}, and named {before}\n"),
        None => format!("{image} names {now}\n"),
    }
}
