//! A proxy before a registry that makes of it one which ignores Range: the whole blob, and 200, whatever is asked.
//!
//! The registry behind it still counts every byte in its access log.

use std::net::SocketAddr;

use anyhow::Result;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderName, StatusCode, header};

/// What a proxy does not pass on in either direction, and all that speaks of ranges.
const KEPT_BACK: [HeaderName; 6] = [
    header::HOST,
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::RANGE,
    header::IF_RANGE,
    header::ACCEPT_RANGES,
];

#[derive(Debug, Clone)]
struct Registry {
    http: reqwest::Client,
    url: String,
}

/// Serves until killed.
pub(crate) async fn serve(address: SocketAddr, registry: &str) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let registry = Registry { http, url: registry.to_owned() };
    let router = axum::Router::new().fallback(pass).with_state(registry);
    Ok(axum::serve(tokio::net::TcpListener::bind(address).await?, router).await?)
}

async fn pass(State(registry): State<Registry>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut asked = registry.http.request(head.method, format!("{}{target}", registry.url));
    for (name, value) in head.headers.iter().filter(|(name, _)| !KEPT_BACK.contains(name)) {
        asked = asked.header(name, value);
    }
    let Ok(answer) = asked.send().await else {
        return failed();
    };
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| !KEPT_BACK.contains(name)) {
        response = response.header(name, value);
    }
    response.body(Body::from_stream(answer.bytes_stream())).unwrap_or_else(|_| failed())
}

fn failed() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
