//! An upstream registry that lies, refuses or stalls, on demand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::image::{Image, OCI_INDEX, digest};

/// Pieces in which bodies are sent.
const PIECE: usize = 64 << 10;

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: a registry as it should be.
    None,
    /// Promises all bytes, sends half, and closes the connection.
    Short,
    /// Sends as many bytes as promised, one of them wrong.
    Other,
    /// Answers with this status.
    Status(u16),
    /// Answers 429, and wants no requests for so many seconds.
    Throttle(u64),
    /// Takes the request and answers nothing.
    Silent,
    /// Promises all bytes, sends half, and then nothing more, with the connection open.
    Stall,
    /// Answers range requests with the whole blob and 200.
    NoRange,
    /// Sends each 64 KiB only after 20 ms (3 MiB/s a connection).
    Slow,
    /// Sends half, and the rest once [`Faulty::let_go`] was called.
    Held,
}

/// What a [`Fault`] concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Manifests and indexes.
    Manifest,
    /// Blobs.
    Blob,
    /// Tag lists and referrers.
    List,
}

/// One request that it took.
#[derive(Debug, Clone)]
pub struct Seen {
    /// GET or HEAD.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// When its answer was ready to be sent.
    pub answered: Instant,
}

#[derive(Debug, Default)]
struct Content {
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    /// None where it does not know the question.
    referrers: Option<HashMap<String, Bytes>>,
    faults: HashMap<Kind, Fault>,
    seen: Vec<Seen>,
    /// Where it sends those who bring no token, if it wants one.
    realm: Option<String>,
    /// What ends [`Fault::Held`].
    gate: watch::Sender<bool>,
}

/// The registry. It ends when dropped.
#[derive(Debug)]
pub struct Faulty {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
    task: JoinHandle<()>,
}

impl Faulty {
    /// Starts it, empty and without fault.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let content = Arc::new(Mutex::new(Content::default()));
        let router = axum::Router::new().fallback(answer).with_state(content.clone());
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        Ok(Self { address, content, task })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds an image under a tag, in whatever repository is asked for.
    ///
    /// # Errors
    /// If the image's files cannot be read.
    pub fn hold(&self, tag: &str, image: &Image) -> Result<()> {
        for blob in image.blobs() {
            self.hold_blob(blob.bytes()?.into());
        }
        let manifest = (image.manifest.media_type.to_owned(), image.manifest.bytes.clone());
        let mut content = lock(&self.content);
        content.manifests.insert(image.manifest.digest.clone(), manifest.clone());
        content.manifests.insert(tag.to_owned(), manifest);
        Ok(())
    }

    /// Holds a blob and gives its digest.
    pub fn hold_blob(&self, bytes: Bytes) -> String {
        let digest = digest(&bytes);
        self.hold_blob_as(&digest, bytes);
        digest
    }

    /// Holds a blob under this digest, of whatever algorithm.
    pub fn hold_blob_as(&self, digest: &str, bytes: Bytes) {
        lock(&self.content).blobs.insert(digest.to_owned(), bytes);
    }

    /// Holds a manifest of this media type under a tag or digest.
    pub fn hold_manifest(&self, reference: &str, media_type: &str, bytes: Bytes) {
        lock(&self.content).manifests.insert(reference.to_owned(), (media_type.to_owned(), bytes));
    }

    /// Knows the referrers API, and holds this index for a digest.
    pub fn hold_referrers(&self, digest: &str, index: Bytes) {
        lock(&self.content).referrers.get_or_insert_default().insert(digest.to_owned(), index);
    }

    /// From now on wants a token of its own token service, `/token`, which gives one to everybody.
    pub fn want_tokens(&self) {
        lock(&self.content).realm = Some(format!("{}/token", self.url()));
    }

    /// From now on does this wrong.
    pub fn fail(&self, kind: Kind, fault: Fault) {
        lock(&self.content).faults.insert(kind, fault);
    }

    /// Sends the other half of what [`Fault::Held`] keeps back.
    pub fn let_go(&self) {
        lock(&self.content).gate.send_replace(true);
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.content).seen.clone()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(content): State<Arc<Mutex<Content>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let (found, fault, gate, stranger) = {
        let mut content = lock(&content);
        content.seen.push(Seen {
            method: request.method().clone(),
            target: request.uri().to_string(),
            headers: request.headers().clone(),
            answered: Instant::now(),
        });
        let (found, fault) = find(&content, &path);
        let has_token = request.headers().contains_key(header::AUTHORIZATION);
        let stranger = content.realm.clone().filter(|_| !has_token);
        (found, fault, content.gate.subscribe(), stranger)
    };
    if path == "/token" {
        return Response::new(Body::from(r#"{"token":"one","expires_in":300}"#));
    }
    if let Some(realm) = stranger {
        return challenge(&realm);
    }
    match fault {
        Fault::Silent => std::future::pending().await,
        Fault::Status(429) => throttle(1),
        Fault::Status(status) => refusal(status),
        Fault::Throttle(seconds) => throttle(seconds),
        _ => match found {
            Some((media_type, bytes)) => send(&request, &media_type, &bytes, fault, gate),
            None if path == "/v2/" => refusal(200),
            None => refusal(404),
        },
    }
}

/// What a path names, and the fault that concerns it.
fn find(content: &Content, path: &str) -> (Option<(String, Bytes)>, Fault) {
    let fault = |kind| content.faults.get(&kind).copied().unwrap_or(Fault::None);
    if let Some((_, reference)) = path.rsplit_once("/manifests/") {
        return (content.manifests.get(reference).cloned(), fault(Kind::Manifest));
    }
    if let Some((_, digest)) = path.rsplit_once("/blobs/") {
        let blob =
            content.blobs.get(digest).map(|bytes| ("application/octet-stream".to_owned(), bytes.clone()));
        return (blob, fault(Kind::Blob));
    }
    if path.ends_with("/tags/list") {
        return (None, fault(Kind::List));
    }
    if let Some((_, digest)) = path.rsplit_once("/referrers/") {
        // A registry that knows the question has an answer for every digest.
        let index = content.referrers.as_ref().map(|known| {
            let none =
                || Bytes::from(format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#));
            (OCI_INDEX.to_owned(), known.get(digest).cloned().unwrap_or_else(none))
        });
        return (index, fault(Kind::List));
    }
    (None, Fault::None)
}

fn refusal(status: u16) -> Response {
    let code = match status {
        200 => return Response::new(Body::from("{}")),
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "BLOB_UNKNOWN",
        429 => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    let mut response =
        Response::new(Body::from(format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn challenge(realm: &str) -> Response {
    let mut response = refusal(401);
    let text = format!(r#"Bearer realm="{realm}",service="registry""#);
    if let Ok(value) = text.parse() {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn throttle(seconds: u64) -> Response {
    let mut response = refusal(429);
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

fn send(
    request: &Request,
    media_type: &str,
    whole: &Bytes,
    fault: Fault,
    gate: watch::Receiver<bool>,
) -> Response {
    let part = if fault == Fault::NoRange { None } else { range(request.headers(), whole.len()) };
    let mut builder = Response::builder().header(header::CONTENT_TYPE, media_type);
    // Registries answer with the digest asked for, by whatever algorithm; a tag says none.
    let asked = request.uri().path().rsplit('/').next().filter(|reference| reference.contains(':'));
    let said = asked.map_or_else(|| digest(whole), ToOwned::to_owned);
    builder = builder.header("docker-content-digest", said);
    let mut bytes = whole.clone();
    if let Some((first, last)) = part {
        bytes = whole.slice(first..=last);
        let of = format!("bytes {first}-{last}/{}", whole.len());
        builder = builder.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, of);
    }
    builder = builder.header(header::CONTENT_LENGTH, bytes.len());
    let body = if request.method() == Method::HEAD { Body::empty() } else { body(bytes, fault, gate) };
    builder.body(body).unwrap_or_else(|_| refusal(500))
}

/// The one range asked for, `first-last` with the last byte in it, if the request has one that fits.
fn range(headers: &HeaderMap, size: usize) -> Option<(usize, usize)> {
    let text = headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    let (first, last) = text.split_once('-')?;
    let first = first.parse().ok()?;
    let last = if last.is_empty() { size.checked_sub(1)? } else { last.parse::<usize>().ok()?.min(size - 1) };
    (first <= last).then_some((first, last))
}

fn body(bytes: Bytes, fault: Fault, mut gate: watch::Receiver<bool>) -> Body {
    let half = bytes.slice(..bytes.len() / 2);
    match fault {
        Fault::Short => {
            let first = futures::stream::iter([Ok(half)]);
            // A moment later, or the server drops what it has not yet written.
            Body::from_stream(first.chain(futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("the connection breaks"))
            })))
        }
        Fault::Stall => {
            let first = futures::stream::iter([Ok::<_, std::io::Error>(half)]);
            Body::from_stream(first.chain(futures::stream::pending()))
        }
        Fault::Held => {
            let rest = bytes.slice(half.len()..);
            let first = futures::stream::iter([Ok::<_, std::io::Error>(half)]);
            Body::from_stream(first.chain(futures::stream::once(async move {
                // It fails only when the registry ends.
                gate.wait_for(|open| *open).await.ok();
                Ok(rest)
            })))
        }
        Fault::Other => {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
            Body::from(bytes)
        }
        Fault::Slow => {
            let pieces: Vec<Bytes> = (0..bytes.len())
                .step_by(PIECE)
                .map(|at| bytes.slice(at..bytes.len().min(at + PIECE)))
                .collect();
            Body::from_stream(futures::stream::iter(pieces).then(|piece| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok::<_, std::io::Error>(piece)
            }))
        }
        _ => Body::from(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    #[tokio::test]
    async fn each_fault_shows() {
        let faulty = Faulty::start().await.unwrap();
        let digest = faulty.hold_blob(Bytes::from(vec![7; 300_000]));
        let client = Client::new(&faulty.url()).unwrap();
        assert_eq!(client.blob("a", &digest).await.unwrap(), 300_000);
        for (fault, text) in [(Fault::Short, "ended after"), (Fault::Other, "got the bytes of")] {
            faulty.fail(Kind::Blob, fault);
            let error = format!("{:#}", client.blob("a", &digest).await.unwrap_err());
            assert!(error.contains(text), "{fault:?}: {error}");
        }
        faulty.fail(Kind::Blob, Fault::Status(403));
        let path = format!("/v2/a/blobs/{digest}");
        assert_eq!(client.get(&path).await.unwrap().error_code().unwrap(), "DENIED");
        for fault in [Fault::Silent, Fault::Stall] {
            faulty.fail(Kind::Blob, fault);
            let waited = tokio::time::timeout(Duration::from_millis(300), client.blob("a", &digest)).await;
            assert!(waited.is_err(), "{fault:?} came to an end");
        }
        faulty.fail(Kind::Blob, Fault::NoRange);
        let ranged = [("range", "bytes=0-9")];
        assert_eq!(client.send(Method::GET, &path, &ranged).await.unwrap().body.len(), 300_000);
        faulty.fail(Kind::Blob, Fault::None);
        let part = client.send(Method::GET, &path, &ranged).await.unwrap();
        assert_eq!((part.status.as_u16(), part.body.len()), (206, 10));
        assert_eq!(faulty.seen().len(), 8);
    }
}
