//! Media types, and what a manifest lists.
//!
//! Manifests are stored and served byte for byte; this module only looks inside for the sizes of what they
//! list. It reads the OCI and the Docker forms with one lenient view, because a mirror must carry what it
//! does not understand (artifacts, attestations, whatever comes next).

use serde::Deserialize;

use crate::digest::Digest;

/// Manifests larger than this are refused with 413: clients stop at 4 MiB too (OCI distribution spec,
/// "Pushing Manifests", and containerd's limit).
pub const MAX_MANIFEST: u64 = 4 * 1024 * 1024;

/// The most descriptors that are read from one manifest.
const MAX_DESCRIPTORS: usize = 10_000;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list, version 2 schema 2.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker schema 1, passed through and never parsed.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Docker schema 1 without signatures.
const DOCKER_SCHEMA1_UNSIGNED: &str = "application/vnd.docker.distribution.manifest.v1+json";

/// Every manifest type a client may accept, most wanted first: what Shoal's own pulls send as `Accept`.
pub const ACCEPT_ALL: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

/// Whether a media type names a manifest that lists others.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// What a manifest says of one thing it lists (OCI image spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its type.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The platform, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// Where an index's entry runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// As in `GOARCH`.
    pub architecture: String,
    /// As in `GOOS`.
    pub os: String,
}

/// What a manifest lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The media type that the manifest itself states, if it does.
    pub media_type: Option<String>,
    /// Config and layers of an image, in order; or an artifact's blobs.
    pub blobs: Vec<Descriptor>,
    /// The manifests of an index.
    pub manifests: Vec<Descriptor>,
}

/// Why a manifest was not understood. It is still carried byte for byte.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of a manifest's form.
    #[error("the manifest is not of a form that Shoal reads: {0}")]
    Json(#[from] serde_json::Error),
    /// Lists more than any image does.
    #[error("the manifest lists more than {MAX_DESCRIPTORS} things")]
    TooMany,
}

impl Listing {
    /// Reads a manifest or index of either family.
    ///
    /// # Errors
    /// [`ManifestError`] if it is not JSON of that form. Descriptors that cannot be read (another digest
    /// algorithm, say) are left out: clients may not need them.
    pub fn parse(manifest: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct View {
            media_type: Option<String>,
            #[serde(default)]
            config: Option<serde_json::Value>,
            #[serde(default)]
            layers: Vec<serde_json::Value>,
            #[serde(default)]
            blobs: Vec<serde_json::Value>,
            #[serde(default)]
            manifests: Vec<serde_json::Value>,
        }
        let view: View = serde_json::from_slice(manifest)?;
        if view.layers.len() + view.blobs.len() + view.manifests.len() > MAX_DESCRIPTORS {
            return Err(ManifestError::TooMany);
        }
        let read = |value| serde_json::from_value::<Descriptor>(value).ok();
        let blobs = view.config.into_iter().chain(view.layers).chain(view.blobs).filter_map(read).collect();
        let manifests = view.manifests.into_iter().filter_map(read).collect();
        Ok(Self { media_type: view.media_type, blobs, manifests })
    }
}

/// What a manifest's bytes tell of its type: which of the known forms they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// An array `manifests`, be it empty.
    Index,
    /// `layers` or `config`.
    Image,
    /// `fsLayers` and `signatures`.
    Schema1,
    /// `fsLayers` alone.
    Schema1Unsigned,
}

impl Form {
    fn of(manifest: &serde_json::Map<String, serde_json::Value>) -> Option<Self> {
        if manifest.contains_key("fsLayers") {
            let signed = manifest.contains_key("signatures");
            Some(if signed { Self::Schema1 } else { Self::Schema1Unsigned })
        } else if manifest.get("manifests").is_some_and(serde_json::Value::is_array) {
            Some(Self::Index)
        } else if manifest.contains_key("layers") || manifest.contains_key("config") {
            Some(Self::Image)
        } else {
            None
        }
    }

    /// The types of this form, first the one that is meant if none is named: Docker's forms other than schema 1
    /// always state their type, OCI's need not.
    const fn types(self) -> [&'static str; 2] {
        match self {
            Self::Index => [OCI_INDEX, DOCKER_LIST],
            Self::Image => [OCI_MANIFEST, DOCKER_MANIFEST],
            Self::Schema1 => [DOCKER_SCHEMA1, DOCKER_SCHEMA1_UNSIGNED],
            Self::Schema1Unsigned => [DOCKER_SCHEMA1_UNSIGNED, DOCKER_SCHEMA1],
        }
    }
}

/// Content types that file servers give to anything: they say nothing.
const VAGUE_TYPES: [&str; 4] =
    ["application/json", "application/octet-stream", "binary/octet-stream", "text/plain"];

/// What a registry's `Content-Type` says, if it is more than a file server's guess.
pub fn telling_type(content_type: &str) -> Option<&str> {
    (!VAGUE_TYPES.contains(&content_type) && is_media_type(content_type)).then_some(content_type)
}

/// Whether a text can be sent as a media type (RFC 6838, section 4.2).
fn is_media_type(text: &str) -> bool {
    const MOST: usize = 255;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
    text.len() <= MOST
        && text.split_once('/').is_some_and(|(kind, name)| {
            [kind, name].iter().all(|part| !part.is_empty() && part.bytes().all(plain))
        })
}

/// The media type to serve proven bytes as. `said` is what the registry that sent them called them, if one did.
///
/// The bytes come first, because their digest is proven and nothing else is: what they state, then what was said if
/// it is a type of the form that they have, then what that form implies. So nobody's word for one repository, and no
/// guess, decides what another's client is told.
pub fn media_type(manifest: &[u8], said: Option<&str>) -> String {
    let said = said.and_then(telling_type);
    let Ok(manifest) = serde_json::from_slice::<serde_json::Map<_, _>>(manifest) else {
        return said.unwrap_or("application/octet-stream").to_owned();
    };
    if let Some(stated) = stated_type(&manifest) {
        return stated.to_owned();
    }
    let Some(form) = Form::of(&manifest) else { return said.unwrap_or("application/json").to_owned() };
    let [implied, other] = form.types();
    said.filter(|&said| said == other).unwrap_or(implied).to_owned()
}

/// Whether the bytes alone tell their type: then nobody's word for it needs to be kept.
pub fn tells_its_type(manifest: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<_, _>>(manifest)
        .is_ok_and(|manifest| stated_type(&manifest).is_some() || Form::of(&manifest).is_some())
}

fn stated_type(manifest: &serde_json::Map<String, serde_json::Value>) -> Option<&str> {
    manifest.get("mediaType")?.as_str().filter(|stated| is_media_type(stated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_and_an_index() {
        let digest = Digest::sha256_of(b"x");
        let image = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{digest}","size":3}},
               "layers":[{{"mediaType":"l","digest":"{digest}","size":9}},{{"digest":"md5:0","size":1}}]}}"#
        );
        let listing = Listing::parse(image.as_bytes()).unwrap();
        assert_eq!(listing.blobs.iter().map(|d| d.size).collect::<Vec<_>>(), [3, 9]);
        assert_eq!(media_type(image.as_bytes(), None), OCI_MANIFEST);

        let index = format!(
            r#"{{"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"m","digest":"{digest}","size":7,
               "platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#
        );
        let listing = Listing::parse(index.as_bytes()).unwrap();
        assert_eq!(listing.manifests[0].platform.as_ref().unwrap().architecture, "amd64");
        assert_eq!(media_type(index.as_bytes(), None), OCI_INDEX);
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        for bytes in [&b""[..], b"[]", b"nul", b"{\"layers\":3}", b"\xff\xff", &vec![b'['; 100_000]] {
            assert!(Listing::parse(bytes).is_err());
        }
    }

    #[test]
    fn the_bytes_say_their_type_before_anyone_else_does() {
        let vendor = "application/vnd.example.thing.v1+json";
        for (bytes, said, expected) in [
            // Stated.
            (r#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#, Some(OCI_MANIFEST), OCI_INDEX),
            (r#"{"mediaType":"application/vnd.example.thing.v1+json","layers":[]}"#, None, vendor),
            // Said, and possible.
            (r#"{"layers":[],"config":{}}"#, Some(DOCKER_MANIFEST), DOCKER_MANIFEST),
            (r#"{"manifests":[]}"#, Some(DOCKER_LIST), DOCKER_LIST),
            (r#"{"fsLayers":[]}"#, Some(DOCKER_SCHEMA1_UNSIGNED), DOCKER_SCHEMA1_UNSIGNED),
            (r#"{"something":1}"#, Some(vendor), vendor),
            // Said, and not possible or worth nothing.
            (r#"{"layers":[]}"#, Some(OCI_INDEX), OCI_MANIFEST),
            (r#"{"manifests":[]}"#, Some("text/html"), OCI_INDEX),
            (r#"{"fsLayers":[]}"#, Some(OCI_MANIFEST), DOCKER_SCHEMA1_UNSIGNED),
            (r#"{"fsLayers":[],"signatures":[]}"#, None, DOCKER_SCHEMA1),
            (r#"{"something":1}"#, Some("text/plain"), "application/json"),
            ("not JSON", Some("application/octet-stream"), "application/octet-stream"),
            // Implied by the form; a statement that is none does not count.
            (r#"{"manifests":[],"mediaType":7}"#, None, OCI_INDEX),
            (r#"{"config":{},"mediaType":"a b/c\r\nx: y"}"#, None, OCI_MANIFEST),
            (r#"{"manifests":3,"layers":[]}"#, None, OCI_MANIFEST),
            (r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#, None, DOCKER_SCHEMA1_UNSIGNED),
            ("", None, "application/octet-stream"),
        ] {
            assert_eq!(media_type(bytes.as_bytes(), said), expected, "{bytes} {said:?}");
        }
        assert!(tells_its_type(br#"{"manifests":[]}"#) && tells_its_type(br#"{"mediaType":"a/b"}"#));
        assert!(!tells_its_type(br#"{"something":1}"#) && !tells_its_type(b"not JSON"));
    }
}
