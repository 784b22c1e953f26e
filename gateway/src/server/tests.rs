//! The routes over real connections, against a source in memory.

mod answers;
mod breaks;
mod connections;
mod http_client;
mod ranges;
mod strange;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_proto::name::{Scope, Tag};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Answered, Ended, Limits, Settings, router, serve_within};
use crate::memory::Memory;
use http_client::Client;

/// What this gateway calls itself in `Via`.
const VIA: &str = "shoal-self";
/// Far above what a busy machine delays, far below what a test may take.
const SOON: Duration = Duration::from_secs(20);

/// A gateway on a port of its own, and what it was seen to do.
struct Gateway {
    memory: Memory,
    address: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<Answered>>>,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Gateway {
    async fn start() -> Self {
        Self::with(|_| {}, Limits::default()).await
    }

    async fn with(change: impl FnOnce(&mut Settings), limits: Limits) -> Self {
        let memory = Memory::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let observe = {
            let seen = seen.clone();
            Arc::new(move |answered: &Answered| {
                super::log(answered);
                seen.lock().unwrap().push(answered.clone());
            })
        };
        let mut settings = Settings::new(VIA, ["corp".parse().unwrap()], observe);
        change(&mut settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let router = router(Arc::new(memory.clone()), settings);
        let served = tokio::spawn(serve_within(listener, router, shutdown.clone(), limits));
        Self { memory, address, seen, shutdown, served }
    }

    async fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// The `n`th record, once it is there.
    async fn record(&self, n: usize) -> Answered {
        let wait = async {
            loop {
                if let Some(answered) = self.seen.lock().unwrap().get(n) {
                    return answered.clone();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("no record came")
    }
}

fn scope(name: &str) -> Scope {
    let (registry, repository) = name.split_once('/').unwrap();
    Scope { registry: registry.parse().unwrap(), repository: repository.parse().unwrap() }
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

/// Bytes of which no two neighbourhoods are alike.
fn content(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}
