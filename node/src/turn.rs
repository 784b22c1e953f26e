//! Taking turns with the fleet: one node asks upstream for a tag, a manifest, a verdict or a proof, the
//! others ask that node.

use std::time::Duration;

use shoal_gateway::error::PullError;
use shoal_proto::digest::Digest;
use shoal_proto::identity::PeerId;
use shoal_proto::name::Registry;
use shoal_proto::swarm::lease::LeaseEnd;
use shoal_proto::swarm::turn::{AskTurn, TurnAnswer, TurnEnded};
use tokio::time::{Instant, timeout};

use crate::fetch::Ports;
use crate::hearsay;

/// How long a home may say nothing: one that waits with the asker says so every three seconds.
const WAIT: Duration = Duration::from_millis(4500);
/// How long others may try, one after the other, before a client is told that nothing came: it has a status in time, and
/// a fleet does not ask a registry all at once that does not answer.
const ALL: Duration = Duration::from_secs(20);
/// So many nodes that send on to another are followed.
const MAX_HOPS: u32 = 4;
/// The most nodes noted as lost.
const MAX_LOST: usize = 8;
/// So many nodes that should have it are tried before upstream is asked again.
const MAX_HOLDERS: usize = 3;

/// Something that one node of the fleet asks upstream for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// What it is found under.
    pub key: Digest,
    /// An answer is good if it is not older than this.
    pub fresh: Duration,
    /// When it was wished for: what upstream was asked for after that is as good as what it would be asked for now.
    pub asked: Instant,
    /// Who is upstream.
    pub registry: &'a Registry,
}

impl Wish<'_> {
    /// Has it from upstream by `fetch` if this node has the turn, or if no home is reached; else by `ask` from the node
    /// that had it, which gives nothing if that node does not have it after all.
    ///
    /// # Errors
    /// Those of `fetch`, or that others tried and failed.
    pub async fn once<T, Fetched, Told>(
        self,
        ports: &Ports,
        fetch: impl Fn() -> Fetched,
        ask: impl Fn(PeerId) -> Told,
    ) -> Result<T, PullError>
    where
        Fetched: Future<Output = Result<T, PullError>>,
        Told: Future<Output = Option<T>>,
    {
        if ports.is_alone {
            return fetch().await;
        }
        let mut lost = Vec::new();
        for _ in 0..MAX_HOLDERS {
            match take(ports, &self, &lost).await {
                Turn::Mine(ticket) => {
                    let paused = ports.upstreams.is_paused(self.registry);
                    let fetched = fetch().await;
                    ticket.end(&fetched, paused);
                    return fetched;
                }
                Turn::Done(by) => match ask(by).await {
                    Some(told) => return Ok(told),
                    None => lost.push(by),
                },
                Turn::Failed(how) => {
                    let error = hearsay::told(self.registry.to_string(), how);
                    ports.upstreams.heard(self.registry, &error);
                    return Err(error);
                }
                Turn::Alone => break,
            }
        }
        fetch().await
    }
}

/// What the fleet says.
#[derive(Debug)]
enum Turn {
    /// This node asks upstream, and tells how it went.
    Mine(Box<Ticket>),
    /// This node has it.
    Done(PeerId),
    /// Others tried and failed.
    Failed(LeaseEnd),
    /// No home was reached.
    Alone,
}

/// A turn that this node has. Dropped before its end was told, it counts as failed.
#[derive(Debug)]
struct Ticket {
    ports: Ports,
    home: PeerId,
    key: Digest,
    number: u64,
    told: bool,
}

impl Ticket {
    /// Tells the home how it went. A pause that ran before is not told on: nobody has asked upstream.
    fn end<T>(mut self, result: &Result<T, PullError>, paused: bool) {
        self.tell(match result.as_ref().map_or_else(hearsay::end_of, |_| LeaseEnd::Done) {
            LeaseEnd::Trouble { status, .. } if paused => LeaseEnd::Trouble { status, retry_after: None },
            how => how,
        });
    }

    fn tell(&mut self, how: LeaseEnd) {
        self.told = true;
        let ended = TurnEnded { key: self.key, number: self.number, how };
        let (ports, home) = (self.ports.clone(), self.home);
        // Nobody waits for it: a home that does not hear it gives the turn to the next after a while.
        tokio::spawn(async move {
            let own = ports.peers.local_peer();
            if home == own {
                ports.homes.turn_ended(own, ended).await;
            } else if let Err(error) = ports.peers.turn_ended(home, ended).await {
                tracing::debug!(%home, %error, "the end of a turn was not heard");
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.told {
            self.tell(LeaseEnd::TROUBLE);
        }
    }
}

/// Asks for a turn at `key`. `lost` are holders that turned out not to have it.
async fn take(ports: &Ports, wish: &Wish<'_>, lost: &[PeerId]) -> Turn {
    let key = wish.key;
    let Some(ranked) = ports.homes.ranked(key).await else { return Turn::Alone };
    let mut lost = lost.to_vec();
    let mut homes = ranked.closest.into_iter();
    let mut next = homes.find(|home| !lost.contains(home));
    let mut hops = 0;
    let began = Instant::now();
    while let Some(home) = next {
        lost.truncate(MAX_LOST);
        let fresh = wish.fresh.saturating_add(wish.asked.elapsed());
        let ask = AskTurn { key, fresh, lost: lost.clone() };
        let answer = if home == ranked.local {
            timeout(WAIT, ports.homes.turn(home, ask)).await.ok()
        } else {
            timeout(WAIT, ports.peers.turn(home, ask)).await.ok().and_then(Result::ok)
        };
        match answer {
            Some(TurnAnswer::Go(number)) => {
                let ticket = Ticket { ports: ports.clone(), home, key, number, told: false };
                return Turn::Mine(Box::new(ticket));
            }
            Some(TurnAnswer::Done(by)) => return Turn::Done(by),
            Some(TurnAnswer::Failed(how)) => return Turn::Failed(how),
            Some(TurnAnswer::Wait) if began.elapsed() < ALL => {}
            Some(TurnAnswer::Wait) => return Turn::Failed(LeaseEnd::TROUBLE),
            Some(TurnAnswer::Elsewhere(other)) if hops < MAX_HOPS && !lost.contains(&other) => {
                hops += 1;
                next = Some(other);
            }
            Some(TurnAnswer::Elsewhere(_)) | None => {
                tracing::info!(%home, %key, "the home of a key does not answer");
                lost.insert(0, home);
                next = homes.find(|home| !lost.contains(home));
            }
        }
    }
    Turn::Alone
}
