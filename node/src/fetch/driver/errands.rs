//! What a transfer has done for it beside its main loop: each errand is a task that ends with the driver, and says what
//! came of it.

use std::future::Future;
use std::time::Duration;

use shoal_proto::attestation::Claim;
use shoal_proto::identity::PeerId;
use shoal_proto::swarm::message::{Report, Standing, SwarmKey};
use shoal_proto::transfer::{FetchId, ReportId, RequestId, Transfer};
use shoal_proto::wire::AskBlob;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::Instrument as _;

use super::chunk::{self, RequestError};
use super::{Driver, Said};
use crate::fetch::Ports;
use crate::fetch::discovery::{Found, Search};
use crate::fetch::range::{Arrival, RangeFetch};

/// Chunks that upstream may be ahead of the driver.
const UPSTREAM_AHEAD: usize = 2;
/// How long a home may take to answer a report.
const REPORT: Duration = Duration::from_millis(1500);
/// How long a peer may take to say what it has: one that is followed waits a second for news.
const FOLLOW: Duration = Duration::from_secs(3);
/// A client gets the last byte once the blob is held, so that what it has pulled survives a kill; but of gigabytes
/// that take longer to sync, once they are proven.
const SYNC: Duration = Duration::from_secs(2);
/// How long changes of who is connected are gathered before homes are ranked again.
const SETTLE: Duration = Duration::from_millis(100);

impl Driver {
    /// Starts a task whose log lines name the blob.
    fn run_errand(&mut self, errand: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.tasks.spawn(errand.in_current_span())
    }

    pub(super) fn discover(&mut self, round: u32) {
        let mut search = Search::begin(self.ports.clone(), self.digest, self.origin, round);
        let said = self.said.clone();
        self.run_errand(async move {
            let mut found = Vec::new();
            // What is found is passed on at once where the queue has room, and else at the end.
            search
                .run(|provider| {
                    if let Err(error) = said.try_send(Said::Found(provider))
                        && let Said::Found(provider) = error.into_inner()
                    {
                        found.push(provider);
                    }
                })
                .await;
            for provider in found {
                said.send(Said::Found(provider)).await.ok();
            }
            said.send(Said::DiscoveryEnded).await.ok();
            while let Some(provider) = search.late().await {
                said.send(Said::Found(provider)).await.ok();
            }
        });
    }

    fn key(&self, round: u32) -> SwarmKey {
        SwarmKey { digest: self.digest, size: self.partial.layout().size(), round, origin: self.origin }
    }

    pub(super) fn report(&mut self, id: ReportId, to: PeerId, round: u32, report: Report) {
        let (ports, key, said) = (self.ports.clone(), self.key(round), self.said.clone());
        self.run_errand(async move {
            let standing = tokio::time::timeout(REPORT, tell(&ports, to, key, report)).await;
            let standing = standing.ok().flatten();
            if let Some(Standing::Member(place)) = &standing {
                tracing::debug!(home = %to, lease = ?place.lease, again = ?place.again, "a place in the swarm");
            }
            if standing.is_none() {
                tracing::info!(home = %to, "a swarm's home does not answer");
            }
            said.send(Said::Reported { id, standing }).await.ok();
        });
    }

    /// The last word to the home; nobody waits for it.
    pub(super) fn farewell(&self, core: &Transfer, complete: bool) {
        let Some((home, report)) = core.farewell(complete) else { return };
        let (ports, key) = (self.ports.clone(), self.key(core.round()));
        tokio::spawn(
            async move { drop(tokio::time::timeout(REPORT, tell(&ports, home, key, report)).await) },
        );
    }

    /// Asks a peer what it has, and keeps asking as the core says so.
    pub(super) fn follow(&mut self, peer: PeerId, known: u32, round: u32) {
        let (ports, digest, said) = (self.ports.clone(), self.digest, self.said.clone());
        let origin = self.origin;
        self.run_errand(async move {
            let ask = AskBlob { digest, following: Some(known), round, origin };
            let barred = ports.barred.is_barred(&peer);
            let answer = if barred {
                None
            } else {
                tokio::time::timeout(FOLLOW, ports.peers.ask_blob(peer, ask)).await.ok()
            };
            let holding = answer.and_then(Result::ok);
            let found = holding.and_then(|holding| Found::of(peer, holding, round));
            said.send(found.map_or(Said::HasNothing(peer), Said::Found)).await.ok();
        });
    }

    /// Ranks the homes again whenever somebody comes or goes.
    pub(super) fn rank_again(&mut self) {
        let (ports, digest, said) = (self.ports.clone(), self.digest, self.said.clone());
        self.run_errand(async move {
            let mut versions = ports.peers.connections();
            while versions.changed().await.is_ok() {
                tokio::time::sleep(SETTLE).await;
                versions.mark_unchanged();
                let Some(homes) = ports.homes.ranked(digest).await else { return };
                if said.send(Said::Ranked(homes)).await.is_err() {
                    return;
                }
            }
        });
    }

    pub(super) fn request(&mut self, id: RequestId, peer: PeerId, chunk: u32, disbelieved: Vec<PeerId>) {
        let (ports, partial, said) = (self.ports.clone(), self.partial.clone(), self.said.clone());
        let claim = Claim { digest: self.digest, size: partial.layout().size(), chunk };
        let origin = self.origin;
        let task = self.run_errand(async move {
            let event = match chunk::request(&ports, &partial, peer, (claim, origin), &disbelieved).await {
                Ok(bytes) => Said::Chunk { id, chunk, bytes },
                Err(RequestError::Peer(failure)) => Said::Failed { id, failure },
                Err(RequestError::Disk(error)) => Said::Disk(error),
            };
            said.send(event).await.ok();
        });
        self.requests.insert(id, task);
    }

    pub(super) fn fetch_upstream(&mut self, id: FetchId, chunks: std::ops::Range<u32>) {
        tracing::debug!(?id, ?chunks, "upstream is asked");
        self.fetch_end = chunks.end;
        let (stored, mut arrivals) = mpsc::channel(UPSTREAM_AHEAD);
        let fetch = RangeFetch {
            ports: self.ports.clone(),
            digest: self.digest,
            scopes: self.scopes.clone(),
            partial: self.partial.clone(),
            chunks,
            stored,
        };
        let said = self.said.clone();
        let task = self.run_errand(async move {
            let pass_on = async {
                while let Some(arrival) = arrivals.recv().await {
                    let event = match arrival {
                        Arrival::Whole => Said::UpstreamWhole(id),
                        Arrival::Chunk(chunk, bytes) => Said::UpstreamChunk { id, chunk, bytes },
                    };
                    said.send(event).await.ok();
                }
            };
            // The range drops its sender when it ends, which ends the passing on.
            let (result, ()) = tokio::join!(fetch.run(), pass_on);
            said.send(Said::UpstreamEnded { id, result }).await.ok();
        });
        self.fetches.insert(id, task);
    }

    /// Has the digest proven and the blob kept, beside this task: syncing gigabytes takes seconds, in which readers and
    /// peers are answered.
    pub(super) fn finish(&mut self) {
        let (partial, said) = (self.partial.clone(), self.said.clone());
        self.run_errand(async move {
            let kept = async {
                partial.prove().await?;
                let finish = partial.finish();
                tokio::pin!(finish);
                if let Ok(finished) = tokio::time::timeout(SYNC, &mut finish).await {
                    return finished;
                }
                said.send(Said::Proven).await.ok();
                finish.await
            };
            let kept = kept.await;
            said.send(Said::Finished(kept)).await.ok();
        });
    }
}

/// Reports to a home, which may be this node itself.
async fn tell(ports: &Ports, home: PeerId, key: SwarmKey, report: Report) -> Option<Standing> {
    let own = ports.peers.local_peer();
    if home == own {
        Some(ports.homes.report(own, key, report).await)
    } else {
        ports.peers.report(home, key, report).await.ok()
    }
}
