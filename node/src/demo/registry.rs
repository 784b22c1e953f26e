//! The upstream registry of the demo: what a registry needs to be pulled from, and a count of what it sends.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use shoal_proto::digest::Digest;
use shoal_proto::manifest::OCI_MANIFEST;
use shoal_proto::range::{ByteRange, RangeRequest};
use tokio::task::AbortHandle;

use super::image::Image;
use super::{REPOSITORY, TAG};

/// A running registry. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Registry {
    address: SocketAddr,
    served: Served,
    task: AbortHandle,
}

#[derive(Debug, Clone)]
struct Served {
    image: Arc<Image>,
    sent: Arc<AtomicU64>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    /// Serves the image on a free port of this machine.
    pub(super) async fn start(image: Arc<Image>) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("no port is free on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let served = Served { image, sent: Arc::default() };
        let router = Router::new().fallback(answer).with_state(served.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the demo's registry ended");
            }
        });
        Ok(Self { address, served, task: task.abort_handle() })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Content bytes sent so far, manifests included.
    pub(super) fn sent(&self) -> u64 {
        self.served.sent.load(Ordering::Relaxed)
    }
}

async fn answer(State(served): State<Served>, request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return failure(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED");
    }
    let path = request.uri().path();
    if matches!(path, "/v2/" | "/v2") {
        return axum::Json(serde_json::json!({})).into_response();
    }
    let Some(rest) = path.strip_prefix("/v2/").and_then(|path| path.strip_prefix(REPOSITORY)) else {
        return failure(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
    };
    let head = request.method() == Method::HEAD;
    if let Some(reference) = rest.strip_prefix("/manifests/") {
        return served.manifest(reference, head);
    }
    match rest.strip_prefix("/blobs/").map(str::parse) {
        Some(Ok(digest)) => served.blob(&digest, request.headers(), head),
        _ => failure(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
    }
}

impl Served {
    fn manifest(self, reference: &str, head: bool) -> Response {
        let bytes = self.image.manifest().clone();
        let digest = Digest::sha256_of(&bytes);
        if reference != TAG && reference != digest.to_string() {
            return failure(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        }
        self.send(
            Content { digest, media_type: OCI_MANIFEST, size: bytes.len() as u64 },
            None,
            head,
            move |range| cut(&bytes, range),
        )
    }

    fn blob(self, digest: &Digest, headers: &HeaderMap, head: bool) -> Response {
        let image = self.image.clone();
        let digest = *digest;
        let asked = headers.get(header::RANGE).and_then(|value| RangeRequest::parse(value.to_str().ok()?));
        let octets = |size| Content { digest, media_type: "application/octet-stream", size };
        if Digest::sha256_of(image.config()) == digest {
            let bytes = image.config().clone();
            return self.send(octets(bytes.len() as u64), asked, head, move |range| cut(&bytes, range));
        }
        let Some(number) = image.layers().iter().position(|layer| layer.digest() == digest) else {
            return failure(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
        };
        let size = image.layers()[number].size();
        self.send(octets(size), asked, head, move |range| {
            image.layers()[number].piece(range.start, range.end)
        })
    }

    fn send(
        self,
        content: Content,
        asked: Option<RangeRequest>,
        head: bool,
        piece: impl Fn(ByteRange) -> Bytes + Send + 'static,
    ) -> Response {
        let whole = ByteRange::new(0, content.size);
        let range = match asked.map(|asked| asked.resolve(content.size)) {
            None => whole,
            Some(Ok(range)) => Some(range),
            Some(Err(_)) => return failure(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
        };
        let length = range.map_or(0, ByteRange::len);
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, content.media_type)
            .header(header::CONTENT_LENGTH, length)
            .header(header::ACCEPT_RANGES, "bytes")
            .header("docker-content-digest", content.digest.to_string());
        if let (Some(_), Some(range)) = (asked, range) {
            let said = format!("bytes {}-{}/{}", range.start, range.end - 1, content.size);
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, said);
        }
        let body = match range {
            Some(range) if !head => Body::from_stream(self.pieces(range, piece)),
            _ => Body::empty(),
        };
        response.body(body).unwrap_or_else(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"))
    }

    fn pieces(
        self,
        range: ByteRange,
        piece: impl Fn(ByteRange) -> Bytes + Send + 'static,
    ) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(range.start, move |offset| {
            let piece = ByteRange::new(offset, range.end).map(&piece);
            if let Some(piece) = &piece {
                self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            async move { piece.map(|piece| (Ok(piece.clone()), offset + piece.len() as u64)) }
        })
        .boxed()
    }
}

#[derive(Clone, Copy)]
struct Content {
    digest: Digest,
    media_type: &'static str,
    size: u64,
}

fn cut(bytes: &Bytes, range: ByteRange) -> Bytes {
    // Both lie within what is in memory.
    let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(range.start)..index(range.end))
}

fn failure(status: StatusCode, code: &str) -> Response {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": "the demo's registry" }] });
    (status, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_answers_as_registries_do_and_counts() {
        let image = Arc::new(Image::new(4 << 20).unwrap());
        let registry = Registry::start(image.clone()).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let base = format!("http://{}/v2/{REPOSITORY}", registry.address());
        let head = client.head(format!("{base}/manifests/{TAG}")).send().await.unwrap();
        assert_eq!(head.headers()["content-type"], OCI_MANIFEST);
        assert_eq!(registry.sent(), 0);
        let manifest =
            client.get(format!("{base}/manifests/{TAG}")).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(manifest, *image.manifest());
        let layer = &image.layers()[1];
        let url = format!("{base}/blobs/{}", layer.digest());
        let part = client.get(&url).header("range", "bytes=1000-300999").send().await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.headers()["content-range"], format!("bytes 1000-300999/{}", layer.size()));
        assert_eq!(part.bytes().await.unwrap().len(), 300_000);
        assert_eq!(registry.sent(), manifest.len() as u64 + 300_000);
        let whole = client.get(&url).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(Digest::sha256_of(&whole), layer.digest());
        let beyond = client.get(&url).header("range", "bytes=99999999-").send().await.unwrap();
        assert_eq!(beyond.status(), 416);
        let missing = format!("{base}/blobs/{}", Digest::sha256_of(b"nothing"));
        assert_eq!(client.get(missing).send().await.unwrap().status(), 404);
    }
}
