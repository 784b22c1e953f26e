//! Who has this blob? Connected peers first, then the DHT, within 300 ms.

use std::collections::HashSet;
use std::time::Duration;

use rand::seq::SliceRandom as _;
use shoal_proto::digest::Digest;
use shoal_proto::identity::PeerId;
use shoal_proto::origin::Origin;
use shoal_proto::transfer::Availability;
use shoal_proto::wire::{AskBlob, Holding};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::Ports;

/// How long finding providers may take before a transfer goes on without.
pub(crate) const LIMIT: Duration = Duration::from_millis(300);
/// How long the connected peers are listened to where a client waits for something small.
const SHORT: Duration = Duration::from_millis(60);
/// How long a peer's late answer is still listened to: it can join a transfer that runs.
const LATE: Duration = Duration::from_secs(2);
/// The most connected peers asked: more know no more, and each is a message.
const MAX_ASKED: usize = 32;
/// How long one that is asked by itself may take.
const ONE_PEER: Duration = Duration::from_secs(1);
/// With so many providers among the connected peers, the DHT is not asked.
const ENOUGH: usize = 4;

/// A peer and what it said it has.
#[derive(Debug)]
pub(crate) struct Found {
    /// Who.
    pub(crate) peer: PeerId,
    /// The blob's size in bytes, as it said.
    pub(crate) size: u64,
    /// What it has.
    pub(crate) availability: Availability,
    /// In which round of the transfer it was asked.
    pub(crate) round: u32,
}

impl Found {
    /// What an answer says, if the peer has anything.
    pub(crate) fn of(peer: PeerId, holding: Holding, round: u32) -> Option<Self> {
        let (size, availability) = match holding {
            Holding::None => return None,
            Holding::Complete { size } => (size, Availability::Complete),
            Holding::Partial { size, chunks } => (size, Availability::Partial(chunks)),
        };
        Some(Self { peer, size, availability, round })
    }

    /// Whether it has all of the blob.
    pub(crate) fn is_complete(&self) -> bool {
        self.availability == Availability::Complete
    }
}

/// All that is found within the limit, for one who is in no transfer.
pub(crate) async fn search(ports: &Ports, digest: Digest, origin: Origin) -> Vec<Found> {
    let mut all = Vec::new();
    Search::begin(ports.clone(), digest, origin, 0).run(|found| all.push(found)).await;
    all
}

/// A peer's word for the size in bytes: a hint until the digest is proven.
pub(crate) async fn size_from_peers(ports: &Ports, digest: Digest, origin: Origin) -> Option<u64> {
    search(ports, digest, origin).await.into_iter().map(|found| found.size).next()
}

/// Whether any peer holds all of it, and may give it for the registry.
pub(crate) async fn is_held_by_any(ports: &Ports, digest: Digest, origin: Origin) -> bool {
    search(ports, digest, origin).await.iter().any(Found::is_complete)
}

/// What this one peer says, if it holds all of it, and may give it for the registry.
pub(crate) async fn all_of_it_at(
    ports: &Ports,
    peer: PeerId,
    digest: Digest,
    origin: Origin,
) -> Option<Found> {
    let ask = AskBlob { digest, following: None, round: 0, origin };
    let answer = timeout(ONE_PEER, ports.peers.ask_blob(peer, ask)).await.ok()?.ok()?;
    Found::of(peer, answer, 0).filter(Found::is_complete)
}

/// One search, which yields what it finds as it comes.
pub(crate) struct Search {
    ports: Ports,
    digest: Digest,
    origin: Origin,
    round: u32,
    asked: HashSet<PeerId>,
    answers: JoinSet<Option<Found>>,
    found: usize,
}

impl Search {
    /// Asks the connected peers, for this registry's sake and a transfer that is in this round.
    pub(crate) fn begin(ports: Ports, digest: Digest, origin: Origin, round: u32) -> Self {
        let mut search =
            Self { ports, digest, origin, round, asked: HashSet::new(), answers: JoinSet::new(), found: 0 };
        let mut connected: Vec<PeerId> =
            search.ports.peers.connected().iter().map(|peer| peer.peer).collect();
        connected.shuffle(&mut rand::rng());
        for peer in connected.into_iter().take(MAX_ASKED) {
            search.ask(peer);
        }
        search
    }

    fn ask(&mut self, peer: PeerId) {
        if self.ports.barred.is_barred(&peer) || !self.asked.insert(peer) {
            return;
        }
        let (peers, round) = (self.ports.peers.clone(), self.round);
        let ask = AskBlob { digest: self.digest, following: None, round, origin: self.origin };
        self.answers.spawn(async move {
            let holding = timeout(LATE, peers.ask_blob(peer, ask)).await.ok()?.ok()?;
            Found::of(peer, holding, round)
        });
    }

    async fn next_answer(&mut self) -> Option<Found> {
        while let Some(answer) = self.answers.join_next().await {
            if let Ok(Some(found)) = answer {
                self.found += 1;
                return Some(found);
            }
        }
        None
    }

    /// Only the connected peers, and not for long: for small things that nobody is thought to have.
    pub(crate) async fn connected(&mut self, mut each: impl FnMut(Found)) {
        let deadline = Instant::now() + SHORT;
        while let Ok(Some(found)) = timeout_at(deadline, self.next_answer()).await {
            each(found);
        }
    }

    /// Runs the search within its limit; `each` gets what is found. The answers that are late can be had from
    /// [`Search::late`].
    pub(crate) async fn run(&mut self, mut each: impl FnMut(Found)) {
        let deadline = Instant::now() + LIMIT;
        if self.asked.is_empty() {
            // Nobody is connected: the DHT's table is as empty.
            return;
        }
        // The connected peers get the first half: most answer within a round trip.
        let half = Instant::now() + LIMIT / 2;
        while let Ok(Some(found)) = timeout_at(half, self.next_answer()).await {
            each(found);
        }
        if self.found >= ENOUGH {
            return;
        }
        let mut providers = self.ports.peers.providers(self.digest, MAX_ASKED).await;
        let mut searching = true;
        while searching || !self.answers.is_empty() {
            let step = async {
                tokio::select! {
                    provider = providers.recv(), if searching => Step::Provider(provider),
                    Some(answer) = self.answers.join_next() => Step::Answer(answer.ok().flatten()),
                }
            };
            match timeout_at(deadline, step).await {
                Ok(Step::Provider(Some(peer))) => self.ask(peer),
                Ok(Step::Provider(None)) => searching = false,
                Ok(Step::Answer(Some(found))) => {
                    self.found += 1;
                    each(found);
                }
                Ok(Step::Answer(None)) => {}
                Err(_) => return,
            }
        }
    }

    /// The next answer that came after the limit.
    pub(crate) async fn late(&mut self) -> Option<Found> {
        self.next_answer().await
    }
}

enum Step {
    Provider(Option<PeerId>),
    Answer(Option<Found>),
}
