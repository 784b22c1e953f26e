//! What a transfer knows of its upstream: the one fetch that runs, how often fetching failed, and when it is asked.

use std::ops::Range;
use std::time::Duration;

use super::{Action, Discovery, FetchId, Phase, Transfer};
use crate::swarm::lease::LeaseEnd;

/// Why an upstream fetch ended early, as far as the next decision depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// It may go better the next time: the connection broke, the body ended early, a 5xx, too many requests.
    Retry {
        /// Upstream's status, if it answered.
        status: Option<u16>,
        /// For how long it wants no requests, if it says so.
        retry_after: Option<Duration>,
    },
    /// It will not: not found, denied, refused by policy.
    Final {
        /// Upstream's status, if it was upstream that refused.
        status: Option<u16>,
    },
    /// The bytes are not those the digest promises.
    WrongBytes,
}

impl UpstreamFailure {
    /// A failure of which nothing more is known.
    pub const RETRY: Self = Self::Retry { status: None, retry_after: None };
}

/// What a home is told of it. Of wrong bytes upstream itself said nothing.
impl From<UpstreamFailure> for LeaseEnd {
    fn from(failure: UpstreamFailure) -> Self {
        match failure {
            UpstreamFailure::Retry { status, retry_after } => Self::Trouble { status, retry_after },
            UpstreamFailure::Final { status } => Self::Refused { status },
            UpstreamFailure::WrongBytes => Self::Refused { status: None },
        }
    }
}

/// For so long a transfer that has readers and something for them waits for an upstream in trouble: a registry that is
/// restarted must not break every pull of the fleet. Clients wait some seconds longer for a body that they have begun.
const PATIENCE: Duration = Duration::from_secs(6);

#[derive(Debug, Default)]
pub(super) struct Upstream {
    running: Option<Running>,
    next_fetch: u64,
    last_failure: Option<UpstreamFailure>,
    dead: bool,
    /// Since when the home says that nobody can fetch the blob.
    hopeless_since: Option<Duration>,
}

#[derive(Debug)]
struct Running {
    id: FetchId,
    /// The chunk that came first.
    first: u32,
    /// The chunk that comes next.
    next: u32,
    /// One past the last chunk that is still wanted of it.
    end: u32,
    /// Upstream ignores ranges: stopped early, it would have to begin at the first byte for what is missing behind.
    whole: bool,
}

impl Upstream {
    pub(super) fn running(&self) -> Option<FetchId> {
        self.running.as_ref().map(|running| running.id)
    }

    pub(super) fn is_running(&self, fetch: FetchId) -> bool {
        self.running() == Some(fetch)
    }

    /// Whether the running fetch will bring this chunk.
    pub(super) fn will_bring(&self, chunk: u32) -> bool {
        self.running.as_ref().is_some_and(|running| (running.next..running.end).contains(&chunk))
    }

    /// The last chunk that the running fetch would bring, if that is not the one it brings now: what a peer
    /// with nothing else to do may take over.
    pub(super) fn last_to_bring(&self) -> Option<u32> {
        let running = self.running.as_ref()?;
        (running.end > running.next + 1).then(|| running.end - 1)
    }

    /// A peer was asked for this chunk: if the running fetch would bring it, the fetch ends before it.
    pub(super) fn yield_from(&mut self, chunk: u32) {
        if let Some(running) = &mut self.running
            && !running.whole
            && chunk > running.next
            && chunk < running.end
        {
            running.end = chunk;
        }
    }

    /// The running fetch is to end after the chunk that it brings now.
    pub(super) fn yield_rest(&mut self) {
        if let Some(running) = &mut self.running {
            running.end = running.end.min(running.next + 1);
        }
    }

    /// How many chunks the running fetch has brought, and which it brings in a turn of so many, the one among them that
    /// just came: its reader has not asked for the next yet. None where it cannot be ended before the blob's end.
    pub(super) fn turn(&self, chunks: u32) -> Option<(u32, Range<u32>)> {
        let running = self.running.as_ref().filter(|running| !running.whole)?;
        let soon = running.next.saturating_sub(1)..running.next.saturating_add(chunks).min(running.end);
        Some((running.next.saturating_sub(running.first), soon))
    }

    /// Whether a fetch runs that upstream sends from the first byte to the last.
    fn is_whole(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.whole)
    }

    /// The upstream ignores ranges: the running fetch goes on to the end.
    pub(super) fn extend(&mut self, end: u32) {
        if let Some(running) = &mut self.running {
            running.end = end;
            running.whole = true;
        }
    }

    /// The next fetch's id, unless upstream is given up.
    pub(super) fn next_fetch(&self) -> Option<FetchId> {
        (!self.dead).then_some(FetchId(self.next_fetch))
    }

    pub(super) fn begin(&mut self, id: FetchId, chunks: Range<u32>) {
        self.next_fetch = id.0 + 1;
        self.running =
            Some(Running { id, first: chunks.start, next: chunks.start, end: chunks.end, whole: false });
    }

    /// Notes a chunk; says whether the rest of the fetch is not wanted any more.
    pub(super) fn arrived(&mut self, fetch: FetchId, chunk: u32) -> bool {
        match &mut self.running {
            Some(running) if running.id == fetch => {
                running.next = chunk + 1;
                running.next >= running.end
            }
            _ => false,
        }
    }

    pub(super) fn stop(&mut self, fetch: FetchId) {
        if self.is_running(fetch) {
            self.running = None;
        }
    }

    /// Notes the end of a fetch; says how it failed, if it is the one that runs. Nothing more is fetched until
    /// [`Upstream::revive`].
    pub(super) fn ended(
        &mut self,
        fetch: FetchId,
        result: Result<(), UpstreamFailure>,
    ) -> Option<UpstreamFailure> {
        if !self.is_running(fetch) {
            return None;
        }
        self.running = None;
        // An end without failure but short of the range counts as one, or it would be asked for ever.
        let failure = result.err().unwrap_or(UpstreamFailure::RETRY);
        self.last_failure = Some(failure);
        self.dead = true;
        Some(failure)
    }

    /// Tries again after it failed: under a new lease, or in a new round.
    pub(super) fn revive(&mut self) {
        self.dead = false;
    }

    pub(super) fn last_failure(&self) -> Option<UpstreamFailure> {
        self.last_failure
    }
}

impl Transfer {
    pub(super) fn upstream_chunk(&mut self, fetch: FetchId, chunk: u32, actions: &mut Vec<Action>) {
        if chunk >= self.layout.count() {
            return;
        }
        self.store(chunk, actions);
        self.member.progressed();
        // Stop where another has already brought what comes next.
        let next_is_held =
            !self.upstream.is_whole() && chunk + 1 < self.layout.count() && self.has(chunk + 1);
        if self.upstream.arrived(fetch, chunk) || next_is_held && self.upstream.is_running(fetch) {
            self.upstream.stop(fetch);
            actions.push(Action::StopUpstream(fetch));
        }
    }

    /// Asks upstream for what nobody else has, as far as this node may; or gives up.
    pub(super) fn consider_upstream(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.member.hopeless().is_none() {
            self.upstream.hopeless_since = None;
        }
        if self.upstream.running().is_some() {
            if self.is_overtaken() {
                self.upstream.yield_rest();
            }
            return;
        }
        let all = 0..self.layout.count();
        // A home may say anything: only chunks that exist are fetched.
        let leased = self.member.leased().map(|chunks| chunks.start.min(all.end)..chunks.end.min(all.end));
        let Some(within) = leased else {
            self.consider_failing(now, actions);
            return;
        };
        if self.leaves_lease(&within) {
            self.member.lease_done();
            return;
        }
        let Some(start) = self.first_uncovered(&within) else {
            if within.clone().all(|chunk| self.has(chunk)) {
                self.member.lease_done();
            }
            return;
        };
        // Nobody is known to have it. But a record may have been lost: better one more look than a second copy.
        let looked = match self.discovery {
            Discovery::Idle => false,
            Discovery::Running => return,
            Discovery::Ended(at) => !self.providers.is_empty() || now < at + self.options.rediscover_after,
        };
        if !looked {
            self.discover(actions);
            return;
        }
        if let Some(id) = self.upstream.next_fetch() {
            let mut end = start + 1;
            let most = self.end_of_turn(start, &within);
            while end < most && self.uncovered(end) {
                end += 1;
            }
            self.upstream.begin(id, start..end);
            actions.push(Action::FetchUpstream { id, chunks: start..end });
        }
    }

    /// Gives up when the home says that nobody can fetch the blob, and no peer brings it.
    fn consider_failing(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(hopeless) = self.member.hopeless() else { return };
        let since = *self.upstream.hopeless_since.get_or_insert(now);
        let may_pass = match hopeless {
            UpstreamFailure::Retry { retry_after, .. } => retry_after.is_none_or(|after| after < PATIENCE),
            UpstreamFailure::Final { .. } | UpstreamFailure::WrongBytes => false,
        };
        if may_pass && !self.readers.is_empty() && !self.have.is_clear() && now < since + PATIENCE {
            return;
        }
        if self.asked.is_empty() && !self.any_usable_for_missing() {
            self.phase = Phase::Failed;
            actions.push(Action::Fail(self.upstream.last_failure().or(Some(hopeless))));
        }
    }

    /// When this transfer gives up, if it waits for that.
    pub(super) fn gives_up_at(&self) -> Option<Duration> {
        Some(self.upstream.hopeless_since? + PATIENCE)
    }
}
