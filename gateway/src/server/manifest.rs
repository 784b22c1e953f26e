//! `manifests/<tag or digest>`.

use http::StatusCode;
use shoal_proto::digest::Digest;
use shoal_proto::name::Reference;

use super::answer::{Ask, Shared};
use super::failure::{Failure, Sought};
use super::headers;
use super::reply::Reply;
use crate::source::{ManifestInfo, Source};

impl<S: Source> Shared<S> {
    /// A manifest as its registry has it. One of a type that the client did not name is sent all the same, as
    /// registries do: the client says best what it cannot read.
    pub(super) async fn manifest(&self, ask: &Ask<'_>, reference: &Reference) -> Result<Reply, Failure> {
        let accept = headers::accept(&ask.request.headers);
        let failed = |error| Failure::pull(Sought::Manifest, &error);
        let mut warning = None;
        let digest: Digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                let resolved = self.source.resolve(&ask.scope, tag, &accept).await.map_err(failed)?;
                let info = resolved.info;
                warning = resolved.warning;
                if headers::client_has(&ask.request.headers, &info.digest) {
                    return Ok(described(StatusCode::NOT_MODIFIED, &info).warned(warning));
                }
                if ask.head {
                    return Ok(described(StatusCode::OK, &info).warned(warning));
                }
                info.digest
            }
        };
        let manifest = self.source.manifest(&ask.scope, &digest, &accept).await.map_err(failed)?;
        if headers::client_has(&ask.request.headers, &digest) {
            return Ok(described(StatusCode::NOT_MODIFIED, &manifest.info).warned(warning));
        }
        let reply = Reply::bytes(StatusCode::OK, manifest.bytes);
        Ok(reply.typed(&manifest.info.media_type).identified(&manifest.info.digest).warned(warning))
    }
}

/// All that HEAD says of a manifest.
fn described(status: StatusCode, info: &ManifestInfo) -> Reply {
    Reply::of_length(status, info.size).typed(&info.media_type).identified(&info.digest)
}
