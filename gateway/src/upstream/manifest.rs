//! Manifests: what a tag names, and the bytes.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use reqwest::Response;
use shoal_proto::digest::Digest;
use shoal_proto::manifest::{self, ACCEPT_ALL, MAX_MANIFEST};
use shoal_proto::name::Reference;

use super::body::{self, ReadError};
use super::mirrors::Origin;
use super::request::{self, Ask};
use super::site::At;
use crate::error::PullError;
use crate::source::{Accept, Manifest, ManifestInfo};

/// What most registries say of a manifest beside its bytes.
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The longest `Accept` that is passed on; registries refuse headers of 8 KiB.
const MAX_ACCEPT: usize = 4096;
/// What a registry says of a manifest without sending it. Each part may be missing; nothing of it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadAnswer {
    /// Its digest: the one asked for, or what the registry says that the tag names.
    pub digest: Option<Digest>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its media type, without parameters.
    pub media_type: Option<String>,
}

impl HeadAnswer {
    /// The whole of it, if nothing is missing.
    pub fn info(&self) -> Option<ManifestInfo> {
        let media_type = self.media_type.clone()?;
        Some(ManifestInfo { digest: self.digest?, size: self.size?, media_type })
    }
}

pub(super) async fn head(
    at: At<'_>,
    reference: &Reference,
    accept: &Accept,
) -> Result<HeadAnswer, PullError> {
    let response = match request::ask(at, asking(at, Method::HEAD, reference, accept)).await {
        Ok(response) => response,
        // A registry without HEAD: nothing is known, and the caller gets the manifest itself.
        Err(PullError::Rejected { status: 405, .. } | PullError::Upstream { status: Some(501), .. }) => {
            return Ok(HeadAnswer { digest: asked(reference), size: None, media_type: None });
        }
        Err(error) => return Err(error),
    };
    only_ok(at, response.status())?;
    let said = said_digest(response.headers());
    if let (Some(asked), Some(said)) = (asked(reference), said)
        && asked.algorithm() == said.algorithm()
        && asked != said
    {
        return Err(PullError::Content(format!(
            "{} answers {said} when asked for {asked}",
            at.site.registry
        )));
    }
    let size = body::content_length(response.headers());
    if let Some(size) = size
        && size > MAX_MANIFEST
    {
        return Err(too_large(at, reference));
    }
    Ok(HeadAnswer { digest: asked(reference).or(said), size, media_type: media_type(response.headers()) })
}

pub(super) async fn get(at: At<'_>, reference: &Reference, accept: &Accept) -> Result<Manifest, PullError> {
    let ask = asking(at, Method::GET, reference, accept);
    let response = request::ask(at, ask.clone()).await?;
    let origin = Origin::of(&response);
    match taken(at, reference, response).await {
        // A mirror's bad manifest is not yet the registry's.
        Err(error) if let Some(origin) = origin => {
            origin.failed(&error.to_string());
            taken(at, reference, request::ask_registry(at, &ask).await?).await
        }
        result => result,
    }
}

/// The manifest in an answer.
async fn taken(at: At<'_>, reference: &Reference, response: Response) -> Result<Manifest, PullError> {
    only_ok(at, response.status())?;
    let (said, said_type) = (said_digest(response.headers()), media_type(response.headers()));
    let bytes =
        body::read(response, MAX_MANIFEST, at.web.limits.stall).await.map_err(|error| match error {
            ReadError::TooLarge(_) => too_large(at, reference),
            error => at.site.failed(None, format!("the body of manifest {reference}: {error}")),
        })?;
    let digest = prove(at, reference, said, &bytes)?;
    let media_type = manifest::media_type(&bytes, said_type.as_deref());
    Ok(Manifest { info: ManifestInfo { digest, size: bytes.len() as u64, media_type }, bytes })
}

fn asking(at: At<'_>, method: Method, reference: &Reference, accept: &Accept) -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, accept_header(accept));
    Ask { method, url: at.endpoint(&format!("manifests/{reference}")), headers }
}

/// What the client accepts, as one header; what all clients accept, if it did not say.
fn accept_header(accept: &Accept) -> HeaderValue {
    let mut text = String::new();
    for media_type in &accept.0 {
        let fits = text.len() + media_type.len() + 2 <= MAX_ACCEPT;
        if fits && HeaderValue::from_str(media_type).is_ok() && !media_type.is_empty() {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(media_type);
        }
    }
    match HeaderValue::from_str(&text) {
        Ok(value) if !text.is_empty() => value,
        _ => HeaderValue::from_str(&ACCEPT_ALL.join(", ")).unwrap_or(HeaderValue::from_static("*/*")),
    }
}

fn asked(reference: &Reference) -> Option<Digest> {
    match reference {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(_) => None,
    }
}

fn said_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

/// `Content-Type` without parameters, if it says anything.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let text = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    manifest::telling_type(&text).map(str::to_owned)
}

/// The digest that these bytes have: the one asked for, or else the one that the registry gave with them.
fn prove(
    at: At<'_>,
    reference: &Reference,
    said: Option<Digest>,
    bytes: &Bytes,
) -> Result<Digest, PullError> {
    let mismatch = |expected: Digest, actual: Digest| {
        PullError::Content(format!(
            "the manifest that {} sent for {reference} should have the digest {expected} and has {actual}",
            at.site.registry
        ))
    };
    if let Some(asked) = asked(reference) {
        let actual = asked.same_algorithm_of(bytes);
        return if actual == asked { Ok(asked) } else { Err(mismatch(asked, actual)) };
    }
    if let Some(said) = said {
        let actual = said.same_algorithm_of(bytes);
        return if actual == said { Ok(said) } else { Err(mismatch(said, actual)) };
    }
    // Nothing vouches for these bytes, and a login page comes with 200 as well.
    if !serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|value| value.is_object()) {
        return Err(at.site.failed(None, format!("what it sent for {reference} is no manifest")));
    }
    Ok(Digest::sha256_of(bytes))
}

fn only_ok(at: At<'_>, status: StatusCode) -> Result<(), PullError> {
    if status == StatusCode::OK {
        return Ok(());
    }
    Err(at.site.failed(Some(status), format!("it answered {status} to a request for a manifest")))
}

fn too_large(at: At<'_>, reference: &Reference) -> PullError {
    PullError::TooLarge(format!(
        "manifest {reference} of {}/{} is larger than {MAX_MANIFEST} bytes, the most that Shoal carries",
        at.site.registry, at.repository
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_passed_on_and_bounded() {
        let header = |types: &[&str]| {
            let accept = Accept(types.iter().map(|&text| text.to_owned()).collect());
            accept_header(&accept).to_str().unwrap().to_owned()
        };
        assert_eq!(header(&["a/b", "c/d; q=0.5"]), "a/b, c/d; q=0.5");
        assert_eq!(header(&[]), ACCEPT_ALL.join(", "));
        assert_eq!(header(&["a\nb", ""]), ACCEPT_ALL.join(", "));
        let long = "x".repeat(3000);
        assert_eq!(header(&[&long, &long, "a/b"]), format!("{long}, a/b"));
    }
}
