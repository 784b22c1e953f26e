//! A registry that answers as a test says, and notes what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// On which connection it came, from 0.
    pub(super) connection: usize,
    /// Whether a certificate was shown on it.
    pub(super) certified: bool,
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
}

impl Asked {
    /// A header's text, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Answer = dyn Fn(&Asked) -> Response<Body> + Send + Sync;

pub(super) struct Fake {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Fake {
    /// Without TLS.
    pub(super) async fn start(answer: impl Fn(&Asked) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::listening("127.0.0.1:0", None, answer).await
    }

    /// On that address; with TLS, if there is an acceptor.
    pub(super) async fn listening(
        address: &str,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let server = tokio::spawn(serve(listener, tls, Arc::new(answer), asked.clone()));
        Self { address, asked, server }
    }

    pub(super) fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn https(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Every request so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Their paths.
    pub(super) fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.path).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    answer: Arc<Answer>,
    asked: Arc<Mutex<Vec<Asked>>>,
) {
    let mut connections = JoinSet::new();
    for connection in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, answer, asked) = (tls.clone(), answer.clone(), asked.clone());
        connections.spawn(async move {
            match tls {
                None => talk(stream, (connection, false), answer, asked).await,
                // A client that does not trust the certificate ends here.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let certified = stream.get_ref().1.peer_certificates().is_some();
                        talk(stream, (connection, certified), answer, asked).await;
                    }
                }
            }
        });
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    (connection, certified): (usize, bool),
    answer: Arc<Answer>,
    asked: Arc<Mutex<Vec<Asked>>>,
) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (request, _) = request.into_parts();
        let path = request.uri.path_and_query().unwrap().to_string();
        let this = Asked { connection, certified, method: request.method, path, headers: request.headers };
        asked.lock().unwrap().push(this.clone());
        let response = answer(&this);
        async move { Ok::<_, Infallible>(response) }
    });
    // A client that leaves in the middle is none of the server's business.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

/// An answer with these headers.
pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        response.headers_mut().append(name, value.parse().unwrap());
    }
    response
}

/// What most tests ask for.
pub(super) fn hello() -> Response<Body> {
    answer(200, &[], "hello")
}
