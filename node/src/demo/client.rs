//! A pull through a node's gateway, as container engines do it, with every digest checked.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use shoal_proto::digest::{Digest, Hasher};
use shoal_proto::manifest::{Descriptor, Listing, OCI_MANIFEST};

use super::{REGISTRY, REPOSITORY, TAG};

/// Layers at a time: what container engines do.
const AT_A_TIME: usize = 3;

/// A client for this machine: it needs no certificates.
pub(super) fn http() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?)
}

/// Pulls the demo's image; how many digests were proven.
pub(super) async fn pull(gateway: SocketAddr) -> anyhow::Result<usize> {
    let client = http()?;
    let base = format!("http://{gateway}/v2/{REPOSITORY}");
    let manifest = client
        .get(format!("{base}/manifests/{TAG}?ns={REGISTRY}"))
        .header("accept", OCI_MANIFEST)
        .send()
        .await
        .context("the gateway does not answer")?;
    let manifest = good(manifest).await?;
    let said = manifest.headers().get("docker-content-digest").context("no digest of the manifest")?;
    let said: Digest = said.to_str()?.parse()?;
    let bytes = manifest.bytes().await?;
    ensure!(Digest::sha256_of(&bytes) == said, "the manifest does not have the digest {said}");
    let blobs = Listing::parse(&bytes)?.blobs;
    let count = blobs.len();
    stream::iter(blobs.into_iter().map(|blob| fetch(&client, &base, blob)))
        .buffer_unordered(AT_A_TIME)
        .try_collect::<()>()
        .await?;
    Ok(count + 1)
}

async fn fetch(client: &reqwest::Client, base: &str, blob: Descriptor) -> anyhow::Result<()> {
    let answer = client.get(format!("{base}/blobs/{}?ns={REGISTRY}", blob.digest)).send().await?;
    let mut body = good(answer).await?.bytes_stream();
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let mut size = 0;
    while let Some(piece) = body.try_next().await.with_context(|| format!("{} broke off", blob.digest))? {
        size += piece.len() as u64;
        hasher.update(&piece);
    }
    ensure!(size == blob.size, "{} is {size} bytes, not {}", blob.digest, blob.size);
    ensure!(hasher.finish() == blob.digest, "the bytes do not have the digest {}", blob.digest);
    Ok(())
}

async fn good(answer: reqwest::Response) -> anyhow::Result<reqwest::Response> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    bail!(
        "{} answered {}: {}",
        answer.url().clone(),
        answer.status(),
        answer.text().await.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Request;
    use axum::response::IntoResponse as _;

    use super::*;
    use crate::demo::image::Image;

    async fn gateway(corrupt: bool) -> SocketAddr {
        let image = std::sync::Arc::new(Image::new(4 << 20).unwrap());
        let answer = move |request: Request| async move {
            let path = request.uri().path().to_owned();
            if path.contains("/manifests/") {
                let digest = Digest::sha256_of(image.manifest()).to_string();
                return ([("docker-content-digest", digest)], image.manifest().to_vec()).into_response();
            }
            let digest: Digest = path.rsplit('/').next().unwrap().parse().unwrap();
            let Some(layer) = image.layers().iter().find(|layer| layer.digest() == digest) else {
                return image.config().to_vec().into_response();
            };
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < layer.size() {
                bytes.extend_from_slice(&layer.piece(bytes.len() as u64, layer.size()));
            }
            if corrupt {
                bytes[100_000] ^= 1;
            }
            bytes.into_response()
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        address
    }

    #[tokio::test]
    async fn a_wrong_byte_is_found() {
        assert_eq!(pull(gateway(false).await).await.unwrap(), 6);
        let error = pull(gateway(true).await).await.unwrap_err().to_string();
        assert!(error.contains("do not have the digest"), "{error}");
    }
}
