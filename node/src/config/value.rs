//! What each kind of value may be.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use shoal_gateway::upstream::config::is_helper_name;
use shoal_proto::name::Registry;
use shoal_swarm::zone;
use wildmatch::WildMatch;

use super::Stream;
use super::problem::Wrong;
use crate::size::ByteSize;
use crate::tags::{Trust, Ttl};

/// How a text becomes a value.
pub(super) type Parse<T> = fn(&str) -> Result<T, Wrong>;

/// `IP:PORT` to listen on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        Wrong::new(
            "is not an address to listen on",
            "allowed: IP:PORT, as in 127.0.0.1:5055, 0.0.0.0:5055 or [::]:5055; port 0 takes a free one",
        )
    })
}

/// `IP:PORT` of a node that runs.
pub(super) fn node_address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        Wrong::new("is not an address", "allowed: IP:PORT where the node listens, as in 127.0.0.1:5055")
    })
}

/// A path of a file or folder.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.contains('\0') {
        return Err(Wrong::new("is not a path", "allowed: the path of a file or folder"));
    }
    Ok(PathBuf::from(text))
}

/// The path of the cluster key's file; the key itself there is a mistake that must not end in a log.
pub(super) fn cluster_key_path(text: &str) -> Result<PathBuf, Wrong> {
    if text.starts_with("shoal-key-") {
        return Err(Wrong::new(
            "is the key itself",
            "allowed: the path of a file that holds the key; command lines and environments can be read by others",
        ));
    }
    path(text)
}

/// The name of a zone.
pub(super) fn zone(text: &str) -> Result<String, Wrong> {
    if !zone::is_name(text) {
        return Err(Wrong::new(
            "is not a zone name",
            format!(
                "allowed: 1 to {} letters, digits, dots, dashes and underscores, as in eu-west-1a",
                zone::LONGEST
            ),
        ));
    }
    Ok(text.to_owned())
}

/// The least that a rate may be capped to: below it peers would take this node for one that stands still.
const LEAST_RATE: u64 = 1 << 20;

/// Bytes a second.
pub(super) fn rate(text: &str) -> Result<u64, Wrong> {
    let rate = text.parse().ok().filter(|ByteSize(rate)| *rate >= LEAST_RATE);
    rate.map(|ByteSize(rate)| rate).ok_or_else(|| {
        Wrong::new(
            "is not a rate",
            "allowed: bytes a second, 1MiB or more, as in 50MiB or 1GiB; leave it out for no cap",
        )
    })
}

/// When a body starts.
pub(super) fn stream(text: &str) -> Result<Stream, Wrong> {
    match text {
        "early" => Ok(Stream::Early),
        "proven" => Ok(Stream::Proven),
        _ => Err(Wrong::new(
            "is not a way to stream",
            "allowed: early, a body starts while its chunks still arrive; proven, when its digest is proven",
        )),
    }
}

/// Whose word on tags is taken.
pub(super) fn trust(text: &str) -> Result<Trust, Wrong> {
    match text {
        "fleet" => Ok(Trust::Fleet),
        "own" => Ok(Trust::Own),
        _ => Err(Wrong::new(
            "is not a way to resolve tags",
            "allowed: fleet, one node asks the registry and the others take its signed word; own, this node asks itself",
        )),
    }
}

/// The longest time that means something here.
const LONGEST: Duration = Duration::from_hours(24 * 366 * 10);

/// A time.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let time = humantime::parse_duration(text).ok().filter(|time| *time <= LONGEST);
    time.ok_or_else(|| {
        Wrong::new("is not a time", "allowed: a number and its unit, as in 0s, 30s, 10m, 24h or 7d")
    })
}

/// How long a tag holds.
pub(super) fn ttl(text: &str) -> Result<Ttl, Wrong> {
    if text == "forever" {
        return Ok(Ttl::Forever);
    }
    duration(text).map(Ttl::For).map_err(|_| {
        Wrong::new(
            "is not a time",
            "allowed: a number and its unit, as in 0s, 30s, 10m or 7d, or forever for tags that never move",
        )
    })
}

/// Which tags a rule is for.
pub(super) fn tag_pattern(text: &str) -> Result<WildMatch, Wrong> {
    let names = text.contains(['/', '*']) && text.contains([':', '*']);
    let plain = text.chars().all(|c| c.is_ascii_graphic() && c != '?');
    if !names || !plain || text.len() > 512 {
        return Err(Wrong::new(
            "matches no tag",
            "allowed: registry/repository:tag with * for any characters, as in docker.io/library/*:latest",
        ));
    }
    Ok(WildMatch::new(text))
}

/// A registry's name, as clients use it.
pub(super) fn registry(text: &str) -> Result<Registry, Wrong> {
    text.parse().map_err(|_| {
        Wrong::new(
            "is not a registry's name",
            "allowed: host or host:port as clients name it, as in docker.io or registry.example.com:5000",
        )
    })
}

/// A host that may be sent credentials: the grammar of a registry's name, but not its canonical form, which would
/// make one host of Docker Hub's several.
pub(super) fn token_realm(text: &str) -> Result<String, Wrong> {
    match text.parse::<Registry>() {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err(Wrong::new("is not a host", "allowed: host or host:port, as in auth.example.com")),
    }
}

/// The NAME of a credential helper `docker-credential-NAME`.
pub(super) fn helper(text: &str) -> Result<String, Wrong> {
    if !is_helper_name(text) {
        return Err(Wrong::new(
            "is not the name of a credential helper",
            "allowed: NAME of a program docker-credential-NAME in the PATH, as in ecr-login",
        ));
    }
    Ok(text.to_owned())
}

/// A pattern of `[policy]`: in its canonical form, lower case.
pub(super) fn pattern(text: &str) -> Result<String, Wrong> {
    let wrong = || {
        Wrong::new(
            "is not a registry pattern",
            "allowed: a registry's name (ghcr.io, reg.local:5000), *. and a domain for all names below it \
             (*.example.com), or * for all",
        )
    };
    if text == "*" {
        return Ok(text.to_owned());
    }
    match text.strip_prefix("*.") {
        Some(domain) => match domain.parse::<Registry>() {
            // Nothing lies below an address, and a port is of one registry.
            Ok(domain) if !domain.as_str().contains(':') => Ok(format!("*.{domain}")),
            _ => Err(wrong()),
        },
        None => Ok(text.parse::<Registry>().map_err(|_| wrong())?.to_string()),
    }
}

/// Whether a URL carries a user or password, which must not be shown.
pub(super) fn has_userinfo(text: &str) -> bool {
    let rest = text.split_once("//").map_or(text, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().contains('@')
}

/// Where a registry is. The text is kept as it was written.
pub(super) fn upstream_url(text: &str) -> Result<String, Wrong> {
    const ALLOWED: &str = "allowed: https://host[:port][/path], or http://… for a registry without TLS";
    if has_userinfo(text) {
        return Err(Wrong::new(
            "carries a user or password",
            "allowed: a URL without them; they belong into the table's credentials",
        ));
    }
    let url = Url::parse(text).map_err(|error| Wrong::new(format!("is not a URL: {error}"), ALLOWED))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Wrong::new(format!("has the scheme {}", url.scheme()), ALLOWED));
    }
    // The URL standard forgives `https:host` and `https:///host`; a person who wrote that meant something else.
    let (_, rest) = text.split_once(':').unwrap_or_default();
    if url.host_str().is_none() || !rest.starts_with("//") || rest.starts_with("///") {
        return Err(Wrong::new("names no host", ALLOWED));
    }
    if url.path().trim_end_matches('/').ends_with("/v2") {
        return Err(Wrong::new("ends with /v2, which is appended by itself", ALLOWED));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Wrong::new("has a query or fragment", ALLOWED));
    }
    Ok(text.to_owned())
}
