//! Names of the field: registry, repository, tag, reference, and whole image names.
//!
//! The grammars are the OCI distribution specification's ("Pulling manifests"); how an image name that a
//! person types is completed (`debian` → `docker.io/library/debian:latest`) is Docker's rule, which every
//! client follows.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry that Docker's short names mean.
pub const DOCKER_HUB: &str = "docker.io";

/// Longest repository name accepted. The specification leaves it to clients, which cap host and name together
/// at 255.
pub const MAX_REPOSITORY: usize = 255;
/// Longest tag (OCI distribution spec: one character and up to 127 more).
pub const MAX_TAG: usize = 128;

/// Why a text is not a name. The message says which kind of name, what was wrong and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `host` or `host:port`.
    #[error("{0:?} is not a registry: write host or host:port, as in registry.example.com:5000")]
    Registry(String),
    /// Breaks the repository grammar.
    #[error(
        "{0:?} is not a repository name: lower-case letters, digits and single separators (. _ __ or dashes) \
         in parts between slashes, at most 255 characters"
    )]
    Repository(String),
    /// Breaks the tag grammar.
    #[error(
        "{0:?} is not a tag: a letter, digit or underscore, then up to 127 letters, digits, dots, dashes or \
         underscores"
    )]
    Tag(String),
    /// The digest part is malformed.
    #[error("the digest is malformed: {0}")]
    Digest(#[from] DigestError),
}

/// What a person needs to see of a name that may be as long as its sender liked.
fn shown(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut out: String = text.chars().take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push('…');
    }
    out
}

/// A registry as clients name it: `host` or `host:port`, lower case. `docker.io` is Docker Hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry(String);

impl Registry {
    /// Docker Hub, what names without a host mean.
    pub fn docker_hub() -> Self {
        Self(DOCKER_HUB.to_owned())
    }

    /// The text, lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is Docker Hub, whose one-part repositories live under `library/`.
    pub fn is_docker_hub(&self) -> bool {
        self.0 == DOCKER_HUB
    }
}

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError::Registry(shown(text));
        if text.is_empty() || text.len() > 255 {
            return Err(error());
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            // An IPv6 literal keeps its brackets, as in a URL. It has many spellings and one canonical form, so that
            // no list of names is got around by another spelling.
            let (address, rest) = rest.split_once(']').ok_or_else(error)?;
            let address = address.parse::<core::net::Ipv6Addr>().map_err(|_| error())?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(error()),
            };
            (format!("[{address}]"), port)
        } else {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            if !host.split('.').all(is_host_label) {
                return Err(error());
            }
            (host.to_ascii_lowercase(), port)
        };
        if port.is_some_and(|port| !is_port(port)) {
            return Err(error());
        }
        let lower = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        // Docker's own names for its hub: clients and configurations use all three.
        Ok(match lower.as_str() {
            "index.docker.io" | "registry-1.docker.io" => Self::docker_hub(),
            _ => Self(lower),
        })
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A port in its one spelling: without a sign and without leading zeros.
fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0') && text.parse::<u16>().is_ok()
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository's name within its registry, as in `library/debian`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(String);

impl Repository {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as `registry` knows it: Docker Hub keeps one-part names under `library/`.
    #[must_use]
    pub fn completed_for(self, registry: &Registry) -> Self {
        if registry.is_docker_hub() && !self.0.contains('/') {
            Self(format!("library/{}", self.0))
        } else {
            self
        }
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_REPOSITORY || !text.split('/').all(is_path_component) {
            return Err(NameError::Repository(shown(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let bytes = part.as_bytes();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !plain(first) || !plain(last) {
        return false;
    }
    bytes.split(|&b| plain(b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag, as in `12-slim`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let bytes = text.as_bytes();
        let good = bytes.len() <= MAX_TAG
            && bytes.first().is_some_and(|&b| word(b))
            && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-');
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Tag(shown(text))) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names a manifest in a repository: a tag, which may move, or a digest, which cannot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // No tag has a colon, every digest has one.
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// One repository of one registry: the scope in which tags and permissions hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The registry that the content comes from.
    pub registry: Registry,
    /// The repository there.
    pub repository: Repository,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

/// A whole image name, completed: `docker.io/library/debian:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// Registry and repository.
    pub scope: Scope,
    /// Tag or digest; a name with both means the digest.
    pub reference: Reference,
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; one before it is a port.
        let after_slash = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[after_slash..].rfind(':') {
            Some(colon) => {
                let colon = after_slash + colon;
                (&name[..colon], Some(name[colon + 1..].parse::<Tag>()?))
            }
            None => (name, None),
        };
        // The first part is a registry if it looks like a host, which no repository part of Docker Hub does.
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => {
                (first.parse::<Registry>()?, rest)
            }
            _ => (Registry::docker_hub(), name),
        };
        let repository = repository.parse::<Repository>()?.completed_for(&registry);
        let reference = match (digest, tag) {
            (Some(digest), _) => Reference::Digest(digest),
            (None, Some(tag)) => Reference::Tag(tag),
            (None, None) => Reference::Tag(Tag("latest".to_owned())),
        };
        Ok(Self { scope: Scope { registry, repository }, reference })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.scope, self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for good in ["a", "library/debian", "a.b_c__d---e/f", "0/1"] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in
            ["", "/", "a/", "/a", "A", "a..b", "a___b", "-a", "a-", "a b", "a/../b", "ä", long.as_str()]
        {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags() {
        let longest = "a".repeat(128);
        for good in ["latest", "_x", "1.2-3_4", longest.as_str()] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(129);
        for bad in ["", ".a", "-a", "a:b", "a/b", "ä", too_long.as_str()] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn registries() {
        for (text, canonical) in [
            ("docker.io", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("GHCR.io", "ghcr.io"),
            ("localhost:5000", "localhost:5000"),
            ("10.0.0.1:5000", "10.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("[::1]", "[::1]"),
            ("[2001:DB8:0:0:0:0:0:1]:443", "[2001:db8::1]:443"),
            ("[0:0::0:1]", "[::1]"),
        ] {
            assert_eq!(text.parse::<Registry>().unwrap().as_str(), canonical);
        }
        for bad in [
            "", "a:", ":1", "a:b", "a:99999", "a/b", "a b", "http://a", "[::1", "[x]:1", "a..b", "-a",
            "[::1]x", "[::1]:", "a:+443", "a:0443", "a:0", "[::1]:+5",
        ] {
            assert!(bad.parse::<Registry>().is_err(), "{bad}");
        }
    }

    #[test]
    fn image_names_are_completed_as_docker_does() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (text, completed) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("debian:12", "docker.io/library/debian:12".to_owned()),
            ("bitnami/redis", "docker.io/bitnami/redis:latest".to_owned()),
            ("localhost:5000/a:b", "localhost:5000/a:b".to_owned()),
            ("ghcr.io/a/b/c", "ghcr.io/a/b/c:latest".to_owned()),
            (&format!("quay.io/a/b:c@{digest}"), format!("quay.io/a/b@{digest}")),
        ] {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), completed);
        }
        assert!("a:b:c".parse::<ImageName>().is_err());
        assert!("localhost:5000/a@sha256:00".parse::<ImageName>().is_err());
    }

    #[test]
    fn hostile_names_are_cut_in_messages() {
        let error = "A".repeat(100_000).parse::<Repository>().unwrap_err().to_string();
        assert!(error.len() < 400, "{}", error.len());
    }
}
