//! The swarms that this node keeps, as home or standby: the task around the pure core.
//!
//! ```text
//! a peer's report or claim ─► serve ─► Homes (handle) ─► this task ─► proto: swarm::home (decides)
//! own transfers' reports ────────────┘                     │
//!                                        claims at standbys ┘
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use fixedbitset::FixedBitSet;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::identity::PeerId;
use shoal_proto::swarm::home::{self, Kept, QuestionId};
use shoal_proto::swarm::lease::LeaseEnd;
use shoal_proto::swarm::message::{Claim, ClaimAnswer, Report, Standing, SwarmKey};
use shoal_proto::swarm::ranking::Ranking;
use shoal_proto::swarm::turn::{self, AskTurn, TurnAnswer, TurnEnded, Turns};
use shoal_proto::transfer::{self, Availability};
use shoal_store::Store;
use shoal_swarm::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::fetch::barred::Barred;
use crate::run::{Parts, named};

/// Requests to the task that may wait.
const QUEUE: usize = 1024;
/// How long a standby may take to answer a claim.
const CLAIM: Duration = Duration::from_millis(300);
/// How long a node that starts waits for its first peer before it ranks itself.
const JOIN: Duration = Duration::from_secs(5);
/// Candidates for a blob's home: the closest, and those who follow it.
const CANDIDATES: usize = 4;
/// How often turns that last too long are looked for.
const TICK: Duration = Duration::from_millis(500);
/// What a member is told when this node cannot say.
const LATER: Duration = Duration::from_secs(1);

enum Request {
    Report {
        from: PeerId,
        key: SwarmKey,
        report: Report,
        known: Vec<PeerId>,
        reply: oneshot::Sender<Standing>,
    },
    Claim {
        from: PeerId,
        key: SwarmKey,
        claim: Claim,
        known: Vec<PeerId>,
        reply: oneshot::Sender<ClaimAnswer>,
    },
    Turn {
        from: PeerId,
        ask: AskTurn,
        reply: oneshot::Sender<TurnAnswer>,
    },
    TurnEnded {
        from: PeerId,
        ended: TurnEnded,
    },
    Rank {
        digest: Digest,
        reply: oneshot::Sender<transfer::Homes>,
    },
    List {
        reply: oneshot::Sender<Vec<Kept>>,
    },
}

/// Asks the task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Homes {
    requests: mpsc::Sender<Request>,
    store: Store,
    peers: Handle,
    barred: Barred,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

impl Homes {
    /// Starts the task. It ends with `shutdown`.
    pub fn start(
        store: Store,
        peers: Handle,
        barred: Barred,
        tasks: &mut Parts,
        shutdown: CancellationToken,
    ) -> Self {
        let (requests, inbox) = mpsc::channel(QUEUE);
        tasks.spawn(named("the keeper of swarms", Keeper::new(peers.clone()).run(inbox, shutdown)));
        Self { requests, store, peers, barred }
    }

    /// A member reports to this node.
    pub async fn report(&self, from: PeerId, key: SwarmKey, report: Report) -> Standing {
        let known = self.known(&key, from).await;
        let report = if self.barred.is_barred(&from) { of_no_use(&key, report) } else { report };
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Report { from, key, report, known, reply }).await.ok();
        answer.await.unwrap_or(Standing::Wait(LATER))
    }

    /// Another node claims to be a swarm's home.
    pub async fn claim(&self, from: PeerId, key: SwarmKey, claim: Claim) -> ClaimAnswer {
        let known = self.known(&key, from).await;
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Claim { from, key, claim, known, reply }).await.ok();
        // A node that shuts down keeps no swarm.
        answer.await.unwrap_or(ClaimAnswer::Granted { epoch: 0, providers: Vec::new() })
    }

    /// A node wants a turn at something small.
    pub async fn turn(&self, from: PeerId, ask: AskTurn) -> TurnAnswer {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Turn { from, ask, reply }).await.ok();
        answer.await.unwrap_or(TurnAnswer::Failed(LeaseEnd::TROUBLE))
    }

    /// A turn that this node gave ended.
    pub async fn turn_ended(&self, from: PeerId, ended: TurnEnded) {
        self.requests.send(Request::TurnEnded { from, ended }).await.ok();
    }

    /// The nodes that could be a blob's home. A node that has just started waits for its first peer: it must not think
    /// itself alone.
    pub async fn ranked(&self, digest: Digest) -> Option<transfer::Homes> {
        let mut joined = self.peers.joined();
        // Late or never: then it is alone.
        drop(timeout(JOIN, joined.wait_for(|joined| joined.joined || joined.tried)).await);
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Rank { digest, reply }).await.ok()?;
        answer.await.ok()
    }

    /// The swarms kept, for people.
    pub async fn kept(&self) -> Vec<Kept> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::List { reply }).await.ok();
        answer.await.unwrap_or_default()
    }

    /// Who is known here to hold the whole blob.
    async fn known(&self, key: &SwarmKey, asker: PeerId) -> Vec<PeerId> {
        let mut known = self.peers.local_providers(key.digest).await;
        match self.store.held_of(&key.digest, key.origin).await {
            Ok(Some(held)) if held.size == key.size => known.push(self.peers.local_peer()),
            // This node's own record says more than others' of it.
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the store does not say whether a blob is held"),
        }
        known.retain(|&peer| peer != asker);
        known
    }
}

/// The report of one who sent wrong bytes: nobody here takes anything from it, so it is neither sent upstream nor
/// counted on. It may take part.
fn of_no_use(key: &SwarmKey, report: Report) -> Report {
    let chunks = ChunkLayout::of(key.size).map_or(0, |layout| layout.count() as usize);
    let have = Availability::Partial(FixedBitSet::with_capacity(chunks));
    Report { have, can_fetch: false, lease: None, whole: false, ..report }
}

/// The actor.
struct Keeper {
    core: home::Homes,
    peers: Handle,
    connected: HashSet<PeerId>,
    began: Instant,
    wake: Option<Instant>,
    next: u64,
    reports: HashMap<QuestionId, oneshot::Sender<Standing>>,
    turns: Turns,
    waiting: HashMap<QuestionId, oneshot::Sender<TurnAnswer>>,
    claims: JoinSet<(SwarmKey, PeerId, Option<ClaimAnswer>)>,
}

impl Keeper {
    fn new(peers: Handle) -> Self {
        let core = home::Homes::new(Ranking::new(peers.local_peer()), home::Options::default());
        Self {
            core,
            peers,
            connected: HashSet::new(),
            began: Instant::now(),
            wake: None,
            next: 0,
            reports: HashMap::new(),
            turns: Turns::default(),
            waiting: HashMap::new(),
            claims: JoinSet::new(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, shutdown: CancellationToken) {
        let mut versions = self.peers.connections();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look();
        loop {
            let wake = self.wake.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            // Cancel-safe: every branch only receives or sleeps.
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = versions.changed() => match changed {
                    Ok(()) => self.look(),
                    Err(_) => return,
                },
                request = inbox.recv() => match request {
                    Some(request) => self.request(request),
                    None => return,
                },
                Some(answered) = self.claims.join_next(), if !self.claims.is_empty() => {
                    if let Ok((key, by, answer)) = answered {
                        self.feed(home::Event::ClaimAnswered { key, by, answer });
                    }
                }
                () = sleep_until(wake) => {
                    self.wake = None;
                    self.feed(home::Event::Timer);
                }
                _ = tick.tick() => {
                    let answers = self.turns.tick(self.began.elapsed());
                    self.answer_turns(answers);
                }
            }
        }
    }

    /// Looks who is connected.
    fn look(&mut self) {
        let now: HashSet<PeerId> = self.peers.connected().into_iter().map(|peer| peer.peer).collect();
        let before = std::mem::replace(&mut self.connected, now.clone());
        for &peer in now.difference(&before) {
            self.feed(home::Event::Up(peer));
        }
        for &peer in before.difference(&now) {
            self.feed(home::Event::Down(peer));
            let answers = self.turns.down(&peer, self.began.elapsed());
            self.answer_turns(answers);
        }
    }

    fn answer_turns(&mut self, answers: turn::Answers) {
        let mut answers = VecDeque::from(answers);
        while let Some((question, answer)) = answers.pop_front() {
            let unheard = match self.waiting.remove(&question) {
                Some(reply) => reply.send(answer).err(),
                None => Some(answer),
            };
            // Who asked is gone: the next may go.
            if let Some(TurnAnswer::Go(number)) = unheard {
                answers.extend(self.turns.unheard(number, self.began.elapsed()));
            }
        }
    }

    fn request(&mut self, request: Request) {
        self.next += 1;
        let question = QuestionId(self.next);
        match request {
            Request::Report { from, key, report, known, reply } => {
                // Those who gave up make room.
                self.reports.retain(|_, reply| !reply.is_closed());
                self.reports.insert(question, reply);
                self.feed(home::Event::Reported { question, from, key, report, known });
            }
            Request::Claim { from, key, claim, known, reply } => {
                let event = home::Event::Claimed { question, from, key, claim, known };
                if let Some(answer) = self.feed(event) {
                    // Who asked may be gone.
                    drop(reply.send(answer));
                }
            }
            Request::Turn { from, ask, reply } => {
                self.waiting.retain(|_, reply| !reply.is_closed());
                self.waiting.insert(question, reply);
                let now = self.began.elapsed();
                let asked = turn::Asked { question, from, ask };
                let answers = self.turns.ask(&asked, self.core.ranking(), now);
                self.answer_turns(answers);
            }
            Request::TurnEnded { from, ended } => {
                let answers = self.turns.ended(from, ended, self.began.elapsed());
                self.answer_turns(answers);
            }
            Request::Rank { digest, reply } => {
                let ranking = self.core.ranking();
                let homes = transfer::Homes {
                    local: ranking.local(),
                    closest: ranking.closest(&digest, CANDIDATES),
                    fleet: ranking.len(),
                };
                drop(reply.send(homes));
            }
            Request::List { reply } => drop(reply.send(self.core.kept())),
        }
    }

    /// Has the core decide, and carries it out; gives the answer to a claim, which is always decided at once.
    fn feed(&mut self, event: home::Event) -> Option<ClaimAnswer> {
        let mut answered = None;
        for action in self.core.handle(event, self.began.elapsed()) {
            match action {
                home::Action::Answer(question, standing) => {
                    if let Some(reply) = self.reports.remove(&question) {
                        drop(reply.send(standing));
                    }
                }
                home::Action::AnswerClaim(_, answer) => answered = Some(answer),
                home::Action::Claim { key, to, claim } => {
                    let peers = self.peers.clone();
                    self.claims.spawn(async move {
                        let answer = timeout(CLAIM, peers.claim(to, key, claim)).await;
                        (key, to, answer.ok().and_then(Result::ok))
                    });
                }
                home::Action::SetTimer(at) => self.wake = Some(self.began + at),
            }
        }
        answered
    }
}
