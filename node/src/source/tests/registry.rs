//! A registry on loopback that holds what a test gives it, and says what it was asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::{Method, StatusCode, header};
use shoal_proto::digest::Digest;

pub(super) struct Registry {
    pub(super) address: SocketAddr,
    held: Arc<Held>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Held {
    by_path: Mutex<HashMap<String, (String, Bytes)>>,
    asked: Mutex<Vec<String>>,
    /// Never says how large anything is.
    silent: bool,
}

impl Registry {
    pub(super) async fn start() -> Self {
        Self::serving(Held::default()).await
    }

    pub(super) async fn without_sizes() -> Self {
        Self::serving(Held { silent: true, ..Held::default() }).await
    }

    async fn serving(held: Held) -> Self {
        let held = Arc::new(held);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(held.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, held, server }
    }

    pub(super) fn hold_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        self.hold(repository, "blobs", "application/octet-stream", bytes)
    }

    pub(super) fn hold_manifest(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Digest {
        self.hold(repository, "manifests", media_type, bytes)
    }

    fn hold(&self, repository: &str, kind: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256_of(bytes);
        let path = format!("/v2/{repository}/{kind}/{digest}");
        let what = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        self.held.by_path.lock().unwrap().insert(path, what);
        digest
    }

    /// Every request for a blob since this was last asked: its method and its range.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.held.asked.lock().unwrap())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(held): State<Arc<Held>>, request: Request) -> Response {
    let path = request.uri().path();
    let range = request.headers().get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
    if path.contains("/blobs/") {
        let range = range.as_deref().unwrap_or("all");
        held.asked.lock().unwrap().push(format!("{} {range}", request.method()));
    }
    let Some((media_type, bytes)) = held.by_path.lock().unwrap().get(path).cloned() else {
        return status(StatusCode::NOT_FOUND, Body::empty());
    };
    if held.silent && path.contains("/blobs/") {
        // A stream: neither a length nor a range. HEAD has no stream to tell of, and is answered with a length of 0.
        let pieces = stream::iter([Ok::<_, std::io::Error>(bytes)]);
        let body = if request.method() == Method::HEAD { Body::empty() } else { Body::from_stream(pieces) };
        return status(StatusCode::OK, body);
    }
    let size = bytes.len();
    let mut response = match range.as_deref().map(|range| part(range, size)) {
        None => status(StatusCode::OK, Body::from(bytes)),
        Some(None) => {
            let mut response = status(StatusCode::RANGE_NOT_SATISFIABLE, Body::empty());
            response.headers_mut().insert(header::CONTENT_RANGE, format!("bytes */{size}").parse().unwrap());
            return response;
        }
        Some(Some((start, end))) => {
            let mut response = status(StatusCode::PARTIAL_CONTENT, Body::from(bytes.slice(start..end)));
            let text = format!("bytes {start}-{}/{size}", end - 1);
            response.headers_mut().insert(header::CONTENT_RANGE, text.parse().unwrap());
            response
        }
    };
    response.headers_mut().insert(header::CONTENT_TYPE, media_type.parse().unwrap());
    response
}

fn part(range: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    (first < size).then(|| (first, (last + 1).min(size)))
}

fn status(status: StatusCode, body: Body) -> Response {
    Response::builder().status(status).body(body).unwrap()
}
