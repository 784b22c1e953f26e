//! The driver of one blob's transfer: feeds the pure core events, carries out its actions.
//!
//! It owns the core, the waiting readers and every task that the transfer started; all of them end with it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use shoal_gateway::error::PullError;
use shoal_proto::digest::Digest;
use shoal_proto::identity::PeerId;
use shoal_proto::name::Scope;
use shoal_proto::origin::Origin;
use shoal_proto::swarm::message::Standing;
use shoal_proto::transfer::{
    Action, Availability, ChunkFailure, Doubt, Event, FetchId, Homes, Options, ReaderId, ReportId, RequestId,
    Transfer,
};
use shoal_store::{FinishError, Partial};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::discovery::Found;
use super::{Given, Ports, Question, Status};

mod chunk;
mod errands;
mod outcome;
mod upstream;

/// What the driver's tasks may have said and it not yet read.
const EVENTS: usize = 32;
/// The most repositories remembered for one blob.
const MAX_SCOPES: usize = 8;

/// What a task of the transfer says.
enum Said {
    Found(Found),
    HasNothing(PeerId),
    DiscoveryEnded,
    Ranked(Homes),
    Reported {
        id: ReportId,
        standing: Option<Standing>,
    },
    UpstreamWhole(FetchId),
    /// The digest came out: the last byte may be given.
    Proven,
    /// The blob is held, or why not.
    Finished(Result<(), FinishError>),
    Chunk {
        id: RequestId,
        chunk: u32,
        bytes: Bytes,
    },
    Failed {
        id: RequestId,
        failure: ChunkFailure,
    },
    /// This node's own disk failed.
    Disk(PullError),
    UpstreamChunk {
        id: FetchId,
        chunk: u32,
        bytes: Bytes,
    },
    UpstreamEnded {
        id: FetchId,
        result: Result<(), PullError>,
    },
}

pub(super) struct Driver {
    ports: Ports,
    digest: Digest,
    /// All of the registry that is the origin.
    scopes: Vec<Scope>,
    origin: Origin,
    partial: Partial,
    status: watch::Sender<Status>,
    began: Instant,
    tasks: JoinSet<()>,
    said: mpsc::Sender<Said>,
    hears: mpsc::Receiver<Said>,
    requests: HashMap<RequestId, AbortHandle>,
    fetches: HashMap<FetchId, AbortHandle>,
    /// One past the last chunk that the newest of them was begun for.
    fetch_end: u32,
    waiting: BTreeMap<u32, Vec<oneshot::Sender<Given>>>,
    /// Those who wait for the last chunk, and not for the proof.
    waiting_unproven: Vec<oneshot::Sender<Given>>,
    wake: Option<Instant>,
    /// The digest came out.
    proven: bool,
    /// How proving and keeping the blob ended, until the main loop looks at it.
    finished: Option<Result<(), FinishError>>,
    /// Why upstream failed last: what clients are told.
    upstream_error: Option<PullError>,
    /// After a mismatch: who vouched for what in earlier rounds, and whether what comes here is right.
    doubt: Doubt,
}

impl Driver {
    pub(super) fn new(
        ports: Ports,
        digest: Digest,
        scope: Scope,
        partial: Partial,
        status: watch::Sender<Status>,
    ) -> Self {
        let (said, hears) = mpsc::channel(EVENTS);
        Self {
            ports,
            digest,
            origin: Origin::of(&scope.registry),
            scopes: vec![scope],
            partial,
            status,
            began: Instant::now(),
            tasks: JoinSet::new(),
            said,
            hears,
            requests: HashMap::new(),
            fetches: HashMap::new(),
            fetch_end: 0,
            waiting: BTreeMap::new(),
            waiting_unproven: Vec::new(),
            wake: None,
            proven: false,
            finished: None,
            upstream_error: None,
            doubt: Doubt::default(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Runs the transfer to its end.
    pub(super) async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        let layout = self.partial.layout();
        let options = Options { seed: rand::random(), ..Options::default() };
        let Some(homes) = self.ports.homes.ranked(self.digest).await else {
            self.end(Status::Failed(PullError::Unavailable("the node is shutting down".to_owned())));
            return;
        };
        self.rank_again();
        let (mut core, first) = Transfer::start(layout, self.partial.have(), homes, options, self.now());
        let mut actions = first;
        loop {
            if let Some(end) = self.perform(&mut core, actions).await {
                self.farewell(&core, matches!(end, Status::Held { .. }));
                self.end(end);
                return;
            }
            actions = self.next(&mut core, &mut questions).await;
            if let Some(result) = self.finished.take() {
                match self.kept(core.round(), result).await {
                    Ok(status) => {
                        self.farewell(&core, matches!(status, Status::Held { .. }));
                        self.end(status);
                        return;
                    }
                    Err(event) => {
                        actions.extend(core.handle(event, self.now()));
                        self.begun_again(&core);
                    }
                }
            }
        }
    }

    /// Waits for the next thing that happens, and has the core decide.
    ///
    /// Cancel-safe: every branch only receives or sleeps.
    async fn next(&mut self, core: &mut Transfer, questions: &mut mpsc::Receiver<Question>) -> Vec<Action> {
        let wake = self.wake.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
        tokio::select! {
            Some(said) = self.hears.recv() => self.heard(core, said),
            Some(question) = questions.recv() => self.answer(core, question),
            Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.errand_ended(ended),
            () = sleep_until(wake) => {
                self.wake = None;
                let now = self.now();
                core.handle(Event::Timer, now)
            }
        }
    }

    /// An errand that panicked says nothing more, and what it was sent for may be waited for: the transfer fails.
    fn errand_ended(&mut self, ended: Result<(), JoinError>) -> Vec<Action> {
        match ended {
            Err(error) if error.is_panic() => {
                tracing::error!(%error, "a part of a transfer broke; this is a bug");
                self.upstream_error = Some(PullError::Unavailable("the transfer broke".to_owned()));
                vec![Action::Fail(None)]
            }
            _ => Vec::new(),
        }
    }

    fn heard(&mut self, core: &mut Transfer, said: Said) -> Vec<Action> {
        let now = self.now();
        match said {
            Said::Found(found) if found.size != self.partial.layout().size() => {
                tracing::debug!(peer = %found.peer, size = found.size, "a peer holds this digest in another size");
                core.handle(Event::HasNothing(found.peer), now)
            }
            Said::HasNothing(peer) => core.handle(Event::HasNothing(peer), now),
            Said::Ranked(homes) => core.handle(Event::Homes(homes), now),
            Said::Reported { id, standing } => core.handle(Event::Reported(id, standing), now),
            Said::UpstreamWhole(id) => core.handle(Event::UpstreamWhole(id), now),
            Said::Proven => {
                self.proven = true;
                let last = self.partial.layout().count().saturating_sub(1);
                for reader in self.waiting.remove(&last).unwrap_or_default() {
                    drop(reader.send(Given::Stored));
                }
                Vec::new()
            }
            Said::Finished(result) => {
                self.finished = Some(result);
                Vec::new()
            }
            Said::Found(found) => {
                if self.ports.peers.is_near(&found.peer) == Some(true) {
                    core.near(found.peer);
                }
                let outdated = found.round != core.round() && found.availability != Availability::Complete;
                let event = if outdated {
                    Event::Candidate(found.peer)
                } else {
                    Event::Provider(found.peer, found.availability)
                };
                core.handle(event, now)
            }
            Said::DiscoveryEnded => core.handle(Event::DiscoveryEnded, now),
            Said::Chunk { id, chunk, bytes } => {
                self.requests.remove(&id);
                let actions = core.handle(Event::Chunk(id), now);
                self.stored(core, chunk, Some(&bytes));
                actions
            }
            Said::Failed { id, failure } => {
                self.requests.remove(&id);
                core.handle(Event::ChunkFailed(id, failure), now)
            }
            Said::Disk(error) => {
                self.upstream_error = Some(error);
                vec![Action::Fail(None)]
            }
            Said::UpstreamChunk { id, chunk, bytes } if core.round() == 0 => {
                let actions = core.handle(Event::UpstreamChunk(id, chunk), now);
                self.stored(core, chunk, Some(&bytes));
                actions
            }
            Said::UpstreamChunk { id, chunk, bytes } => self.came_again(core, id, chunk, &bytes),
            Said::UpstreamEnded { id, result } => self.upstream_ended(core, id, result),
        }
    }

    /// Tells the world that a chunk is stored.
    fn stored(&mut self, core: &Transfer, chunk: u32, bytes: Option<&Bytes>) {
        let have = u32::try_from(core.have().count_ones(..)).unwrap_or(u32::MAX);
        self.status.send_replace(Status::Running { have, round: core.round() });
        let readers = if chunk + 1 == self.partial.layout().count() {
            // Who reads to the end gets the last byte only after the digest is proven, and learns of that by the status.
            std::mem::take(&mut self.waiting_unproven)
        } else {
            self.waiting.remove(&chunk).unwrap_or_default()
        };
        for reader in readers {
            // A reader that left does not mind.
            drop(reader.send(bytes.map_or(Given::Stored, |bytes| Given::Bytes(bytes.clone()))));
        }
    }

    fn answer(&mut self, core: &mut Transfer, question: Question) -> Vec<Action> {
        let now = self.now();
        match question {
            Question::Have { round, reply } => {
                let have = core.have();
                let nothing = || FixedBitSet::with_capacity(have.len());
                drop(reply.send(if core.round() < round { nothing() } else { have.clone() }));
            }
            Question::AlsoIn(scope) => {
                if !self.scopes.contains(&scope) && self.scopes.len() < MAX_SCOPES {
                    self.scopes.push(scope);
                }
            }
            Question::Follower(peer) if !self.ports.barred.is_barred(&peer) => {
                return core.handle(Event::Candidate(peer), now);
            }
            Question::Follower(_) => {}
            Question::Gone { reader } => return core.handle(Event::ReaderGone(ReaderId(reader)), now),
            Question::Want { reader, chunk, of_a_part, reply } => {
                let is_last = chunk + 1 >= self.partial.layout().count();
                if core.have().contains(chunk as usize) && (!is_last || of_a_part || self.proven) {
                    drop(reply.send(Given::Stored));
                } else {
                    let waiting = if is_last && of_a_part {
                        &mut self.waiting_unproven
                    } else {
                        self.waiting.entry(chunk).or_default()
                    };
                    // Those of clients that left are of no use any more.
                    waiting.retain(|reply| !reply.is_closed());
                    waiting.push(reply);
                }
                return core.handle(Event::ReaderAt(ReaderId(reader), chunk), now);
            }
        }
        Vec::new()
    }

    /// Carries out actions; says how it ended, if it did.
    async fn perform(&mut self, core: &mut Transfer, actions: Vec<Action>) -> Option<Status> {
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Discover => self.discover(core.round()),
                Action::Report { id, to, report } => self.report(id, to, core.round(), report),
                Action::Ask { peer, known } => self.follow(peer, known, core.round()),
                Action::Request { id, peer, chunk } => {
                    self.request(id, peer, chunk, core.disbelieved());
                }
                Action::Cancel(id) => abort(self.requests.remove(&id)),
                Action::FetchUpstream { id, chunks } => self.fetch_upstream(id, chunks),
                Action::StopUpstream(id) => {
                    tracing::debug!(?id, "others have the rest of the range");
                    abort(self.fetches.remove(&id));
                    // What was kept back is not known to be right, and who has it right may bring it.
                    let mut withheld = self.doubt.rest();
                    withheld.retain(|&chunk| !core.have().contains(chunk as usize));
                    if !withheld.is_empty() {
                        actions.push_front(Action::Forget(withheld));
                    }
                }
                Action::SetTimer(at) => self.wake = Some(self.began + at),
                Action::Blame(peer, failure) => self.blame(peer, failure),
                Action::Forget(chunks) => {
                    if let Err(error) = self.partial.forget(&chunks).await {
                        return Some(Status::Failed(PullError::Unavailable(error.to_string())));
                    }
                }
                Action::Fail(failure) => return Some(self.failed(failure).await),
                Action::Finish => self.finish(),
            }
        }
        None
    }

    fn blame(&self, peer: PeerId, failure: ChunkFailure) {
        if failure == ChunkFailure::Corrupt {
            let time = self.ports.barred.bar(peer);
            self.ports.metrics.corrupt_chunk();
            tracing::warn!(%peer, seconds = time.as_secs(), "a peer sent wrong bytes and is not asked for a while");
        } else {
            tracing::info!(%peer, ?failure, "a peer failed a chunk");
        }
    }

    fn end(mut self, status: Status) {
        let seconds = self.began.elapsed().as_secs_f64();
        if let Status::Failed(error) = &status {
            tracing::info!(%error, seconds, "not fetched");
        } else {
            let size = self.partial.layout().size();
            let from_peers = self.bytes_of_peers();
            self.ports.history.fetched(self.digest, from_peers, size - from_peers);
            tracing::info!(
                size,
                from_peers,
                from_upstream = size - from_peers,
                seconds,
                "fetched and proven"
            );
        }
        self.tasks.abort_all();
        // Readers see the status once their question is dropped unanswered.
        self.status.send_replace(status);
    }
}

fn abort(task: Option<AbortHandle>) {
    if let Some(task) = task {
        task.abort();
    }
}
