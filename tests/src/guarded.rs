//! A guard before a registry: who may read which repository, changed while it runs, and what was asked in whose name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One request that it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// GET or HEAD.
    pub method: String,
    /// Its path.
    pub path: String,
    /// The `Authorization` that came with it.
    pub authorization: Option<String>,
    /// What it was answered.
    pub status: u16,
}

#[derive(Debug, Default)]
struct Rules {
    public: BTreeSet<String>,
    /// The values of `Authorization` that may read a repository.
    readers: BTreeMap<String, BTreeSet<String>>,
    down: bool,
    delay: Duration,
    asked: Vec<Asked>,
}

/// The guard. It ends when dropped.
#[derive(Debug)]
pub struct Guarded {
    address: SocketAddr,
    rules: Arc<Mutex<Rules>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Gate {
    rules: Arc<Mutex<Rules>>,
    registry: String,
    http: reqwest::Client,
}

/// The `Authorization` of a user.
pub fn basic(user: &str, password: &str) -> String {
    http_auth::basic::encode_credentials(user, password)
}

impl Guarded {
    /// Starts a guard before the registry at this URL. It lets nobody read anything.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(registry: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let rules: Arc<Mutex<Rules>> = Arc::default();
        let http =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        let gate = Gate { rules: rules.clone(), registry: registry.trim_end_matches('/').to_owned(), http };
        let router = axum::Router::new().fallback(answer).with_state(gate);
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        Ok(Self { address, rules, task })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everyone may read this repository.
    pub fn publish(&self, repository: &str) {
        self.rules().public.insert(repository.to_owned());
    }

    /// Not everyone may any more.
    pub fn withdraw(&self, repository: &str) {
        self.rules().public.remove(repository);
    }

    /// Who comes with this `Authorization` may read this repository.
    pub fn allow(&self, repository: &str, authorization: &str) {
        self.rules().readers.entry(repository.to_owned()).or_default().insert(authorization.to_owned());
    }

    /// And no more.
    pub fn revoke(&self, repository: &str, authorization: &str) {
        if let Some(readers) = self.rules().readers.get_mut(repository) {
            readers.remove(authorization);
        }
    }

    /// Whether it answers everything with 503.
    pub fn set_down(&self, down: bool) {
        self.rules().down = down;
    }

    /// How long it thinks before it answers.
    pub fn set_delay(&self, delay: Duration) {
        self.rules().delay = delay;
    }

    /// What it was asked since this was last called.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.rules().asked)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rules {
    fn judge(&self, path: &str, authorization: Option<&str>) -> StatusCode {
        if self.down {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        let name = ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
            .iter()
            .find_map(|part| rest.split_once(part).map(|(name, _)| name))
            .unwrap_or_default();
        let reads = |authorization| self.readers.get(name).is_some_and(|all| all.contains(authorization));
        if self.public.contains(name) || authorization.is_some_and(reads) {
            StatusCode::OK
        } else {
            StatusCode::UNAUTHORIZED
        }
    }
}

async fn answer(State(gate): State<Gate>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (judged, delay) = {
        let rules = gate.rules.lock().unwrap_or_else(PoisonError::into_inner);
        (rules.judge(&path, authorization.as_deref()), rules.delay)
    };
    tokio::time::sleep(delay).await;
    let method = request.method().to_string();
    let response = match judged {
        StatusCode::OK => forward(&gate, request).await.unwrap_or_else(|_| empty(StatusCode::BAD_GATEWAY)),
        refused => empty(refused),
    };
    let asked = Asked { method, path, authorization, status: response.status().as_u16() };
    gate.rules.lock().unwrap_or_else(PoisonError::into_inner).asked.push(asked);
    response
}

async fn forward(gate: &Gate, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut ask = gate.http.request(parts.method, format!("{}{target}", gate.registry));
    for name in [header::ACCEPT, header::RANGE] {
        for value in parts.headers.get_all(&name) {
            ask = ask.header(&name, value);
        }
    }
    let answered = ask.send().await?;
    let (status, headers) = (answered.status(), answered.headers().clone());
    let mut response = Response::new(Body::from_stream(answered.bytes_stream()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    Ok(response)
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"guarded\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
