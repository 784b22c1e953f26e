//! What a request's path names.
//!
//! Paths are split at their raw slashes first and each part is percent-decoded once, so an encoded slash or a
//! doubly encoded dot is never taken for structure: it is a character that no name has. The endpoint is read
//! from the end of the path, because a repository may itself be called `manifests` or `blobs`.

use std::borrow::Cow;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use shoal_proto::digest::{Digest, DigestError};
use shoal_proto::name::{NameError, Reference, Registry, Repository, Tag};

/// What of a repository a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// `manifests/<tag or digest>`.
    Manifest(Reference),
    /// `blobs/<digest>`.
    Blob(Digest),
    /// `tags/list`.
    Tags,
    /// `referrers/<digest>`.
    Referrers(Digest),
}

/// The name in a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// A first part with a colon, which can only be a registry with its port.
    pub(super) host: Option<Registry>,
    /// The rest; without `host` it may still begin with a registry.
    pub(super) rest: Repository,
}

/// An understood path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `/v2/`: does this speak the protocol?
    Base,
    /// Something of a repository.
    Repository(Name, What),
}

/// Why a path names nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    /// No endpoint has this form.
    #[error(
        "no such endpoint: this mirror answers /v2/, manifests, blobs, tags/list and referrers below /v2/<name>/"
    )]
    Unknown,
    /// A push's session, which a mirror never has.
    #[error("this mirror takes no pushes, so it has no uploads")]
    Upload,
    /// Breaks the repository grammar.
    #[error(transparent)]
    Name(NameError),
    /// A part is not text once it is percent-decoded, or hides a slash.
    #[error("the path holds percent-encoded bytes that no name has")]
    Encoding,
    /// Not a digest, or of an algorithm that cannot be checked.
    #[error(transparent)]
    Digest(DigestError),
    /// No manifest can have such a tag.
    #[error(transparent)]
    Tag(NameError),
}

/// Reads a request's path, still percent-encoded.
pub(super) fn parse(path: &str) -> Result<Target, PathError> {
    if matches!(path, "/v2" | "/v2/") {
        return Ok(Target::Base);
    }
    let rest = path.strip_prefix("/v2/").ok_or(PathError::Unknown)?;
    let parts = rest.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    match parts.as_slice() {
        [name @ .., "manifests", reference] => {
            let name = repository(name)?;
            Ok(Target::Repository(name, What::Manifest(parse_reference(reference)?)))
        }
        [_, .., "blobs", "uploads"] | [_, .., "blobs", "uploads", _] => Err(PathError::Upload),
        [name @ .., "blobs", digest] => {
            let name = repository(name)?;
            Ok(Target::Repository(name, What::Blob(digest.parse().map_err(PathError::Digest)?)))
        }
        [name @ .., "tags", "list"] => Ok(Target::Repository(repository(name)?, What::Tags)),
        [name @ .., "referrers", digest] => {
            let name = repository(name)?;
            Ok(Target::Repository(name, What::Referrers(digest.parse().map_err(PathError::Digest)?)))
        }
        _ => Err(PathError::Unknown),
    }
}

fn decode(part: &str) -> Result<Cow<'_, str>, PathError> {
    let part = percent_decode_str(part).decode_utf8().map_err(|_| PathError::Encoding)?;
    if part.contains('/') { Err(PathError::Encoding) } else { Ok(part) }
}

fn repository(parts: &[&str]) -> Result<Name, PathError> {
    let (host, rest) = match parts {
        [first, rest @ ..] if first.contains(':') && !rest.is_empty() => (Some(*first), rest),
        all => (None, all),
    };
    let host = host.map(Registry::from_str).transpose().map_err(PathError::Name)?;
    Ok(Name { host, rest: Repository::from_str(&rest.join("/")).map_err(PathError::Name)? })
}

fn parse_reference(text: &str) -> Result<Reference, PathError> {
    if text.contains(':') {
        Ok(Reference::Digest(text.parse().map_err(PathError::Digest)?))
    } else {
        Ok(Reference::Tag(text.parse::<Tag>().map_err(PathError::Tag)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name_and_what(path: &str) -> (String, What) {
        match parse(path) {
            Ok(Target::Repository(Name { host: None, rest }, what)) => (rest.to_string(), what),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn every_endpoint() {
        let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
        assert_eq!(parse("/v2"), Ok(Target::Base));
        assert_eq!(parse("/v2/"), Ok(Target::Base));
        let tag = What::Manifest(Reference::Tag("1.0".parse().unwrap()));
        for (path, name, what) in [
            ("/v2/a/b/manifests/1.0".to_owned(), "a/b", tag.clone()),
            ("/v2/%61/manifests/1%2E0".to_owned(), "a", tag.clone()),
            ("/v2/manifests/blobs/manifests/1.0".to_owned(), "manifests/blobs", tag.clone()),
            ("/v2/x/blobs/uploads/manifests/1.0".to_owned(), "x/blobs/uploads", tag),
            (format!("/v2/a/manifests/sha256:{HEX}"), "a", What::Manifest(Reference::Digest(digest))),
            (format!("/v2/a/manifests/sha256%3A{HEX}"), "a", What::Manifest(Reference::Digest(digest))),
            (format!("/v2/a/blobs/sha256:{HEX}"), "a", What::Blob(digest)),
            ("/v2/tags/tags/list".to_owned(), "tags", What::Tags),
            (format!("/v2/a/referrers/sha256:{HEX}"), "a", What::Referrers(digest)),
        ] {
            assert_eq!(name_and_what(&path), (name.to_owned(), what), "{path}");
        }
    }

    #[test]
    fn a_colon_makes_a_registry() {
        let Ok(Target::Repository(name, _)) = parse("/v2/localhost%3A5000/a/b/tags/list") else { panic!() };
        assert_eq!((name.host.unwrap().as_str(), name.rest.as_str()), ("localhost:5000", "a/b"));
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        for path in ["/", "", "*", "v2/", "/v1/", "//v2/", "/v2/_catalog", "/v2/a", "/v2/a/tags", "/v2/a/b/"]
        {
            assert_eq!(parse(path), Err(PathError::Unknown), "{path}");
        }
        for path in [
            "/v2//manifests/x",
            "/v2/manifests/x",
            "/v2/A/manifests/x",
            "/v2/a//b/manifests/x",
            "/v2/../../etc/manifests/x",
            "/v2/%2e%2e/a/manifests/x",
            "/v2/a%252fb/manifests/x",
            "/v2/a%00/tags/list",
            "/v2/a%/tags/list",
            "/v2/a%zz/tags/list",
            "/v2/localhost:5000/manifests/x",
            "/v2/:5000/a/manifests/x",
            "/v2/a/b:5/manifests/x",
        ] {
            assert!(matches!(parse(path), Err(PathError::Name(_))), "{path}: {:?}", parse(path));
        }
        for path in ["/v2/a%2fb/manifests/x", "/v2/a%ff/manifests/x", "/v2/a/manifests/%2F"] {
            assert_eq!(parse(path), Err(PathError::Encoding), "{path}");
        }
        for path in ["/v2/a/blobs/x", "/v2/a/blobs/sha256:00", "/v2/a/manifests/md5:00", "/v2/a/referrers/"] {
            assert!(matches!(parse(path), Err(PathError::Digest(_))), "{path}");
        }
        for path in ["/v2/a/manifests/", "/v2/a/manifests/.x", "/v2/a/manifests/a%20b"] {
            assert!(matches!(parse(path), Err(PathError::Tag(_))), "{path}");
        }
        for path in ["/v2/a/blobs/uploads", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/17"] {
            assert_eq!(parse(path), Err(PathError::Upload), "{path}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_names_are_always_valid(path in "\\PC{0,200}") {
            if let Ok(Target::Repository(name, _)) = parse(&path) {
                prop_assert!(name.rest.as_str().parse::<Repository>().is_ok());
            }
        }

        #[test]
        fn whatever_is_valid_is_found_again(
            name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,4}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        ) {
            let expected = What::Manifest(Reference::Tag(tag.parse().unwrap()));
            let encoded: String = name.bytes().map(|b| if b == b'/' { "/".into() } else { format!("%{b:02X}") }).collect();
            prop_assert_eq!(name_and_what(&format!("/v2/{name}/manifests/{tag}")), (name.clone(), expected.clone()));
            prop_assert_eq!(name_and_what(&format!("/v2/{encoded}/manifests/{tag}")), (name, expected));
        }
    }
}
