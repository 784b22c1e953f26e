//! HTTP/1.1 connections and their limits.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Incoming};
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client_io::ClientIo;
use super::failure::Failure;

/// How many connections above the limit are told so at a time; more are closed without a word.
const MAX_TURNED_AWAY: usize = 64;

/// The pause after a failed accept: out of file descriptors, mostly, and they come back as connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most bytes of a request's head, and of what is gathered for one write.
const MAX_BUFFER: usize = 64 * 1024;

/// What connections may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many clients may be connected. The next ones are answered 503.
    pub connections: usize,
    /// How long a request's head may take, and how long a connection may be idle.
    pub head: Duration,
    /// How long a client may take no byte of its answer.
    pub client_stall: Duration,
    /// How long answers on their way may go on after the signal to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            head: Duration::from_secs(30),
            client_stall: Duration::from_mins(1),
            drain: Duration::from_secs(8),
        }
    }
}

/// Serves HTTP/1.1 with the default [`Limits`] until `shutdown`.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    serve_within(listener, router, shutdown, Limits::default()).await;
}

/// Serves HTTP/1.1 until `shutdown`; then takes no more connections, lets answers on their way end for
/// [`Limits::drain`], and cuts the rest.
pub async fn serve_within(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    limits: Limits,
) {
    let acceptor = Acceptor {
        router: TowerToHyperService::new(router),
        places: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
        turned_away: Arc::new(Semaphore::new(MAX_TURNED_AWAY)),
        tasks: TaskTracker::new(),
        shutdown,
        cut: CancellationToken::new(),
        limits,
    };
    acceptor.run(listener).await;
}

struct Acceptor {
    router: TowerToHyperService<Router>,
    places: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Ends what is still running when the time to drain is over.
    cut: CancellationToken,
    limits: Limits,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.take(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        self.tasks.close();
        if tokio::time::timeout(self.limits.drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "answers were still on their way and are cut off");
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }

    fn take(&self, stream: TcpStream) {
        // Without it the last part of an answer may wait for an acknowledgement; failing to set it only costs time.
        stream.set_nodelay(true).ok();
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            self.spawn(stream, self.router.clone(), place);
        } else if let Ok(place) = self.turned_away.clone().try_acquire_owned() {
            tracing::warn!(limit = self.limits.connections, "too many connections, one is turned away");
            self.spawn(stream, service_fn(turn_away), place);
        }
    }

    fn spawn<T, B>(&self, stream: TcpStream, service: T, place: OwnedSemaphorePermit)
    where
        T: HttpService<Incoming, ResBody = B, Error = Infallible> + Unpin + Send + 'static,
        T::Future: Send,
        B: HttpBody<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let io = ClientIo::new(stream, self.limits.client_stall);
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.limits.head).max_buf_size(MAX_BUFFER);
        let (shutdown, cut) = (self.shutdown.clone(), self.cut.clone());
        self.tasks.spawn(async move {
            let _place = place;
            let mut connection = builder.serve_connection(io, service);
            let ended = cut
                .run_until_cancelled(async {
                    let mut stop = pin!(shutdown.cancelled());
                    tokio::select! {
                        ended = &mut connection => return ended,
                        () = &mut stop => Pin::new(&mut connection).graceful_shutdown(),
                    }
                    (&mut connection).await
                })
                .await;
            match ended {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "a client's connection ended early"),
                None => return,
            }
            connection.into_parts().io.close().await;
        });
    }
}

/// Answers a connection above the limit.
async fn turn_away(_request: http::Request<Incoming>) -> Result<Response, Infallible> {
    let reply = Failure::crowded().into_reply();
    let mut response = Response::new(Body::new(Full::new(reply.content.into_bytes())));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    Ok(response)
}
