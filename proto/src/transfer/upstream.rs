//! What a transfer knows of its upstream: the one fetch that runs, and how often fetching failed.

use std::ops::Range;
use std::time::Duration;

use super::FetchId;

/// The pause after a first failure without progress; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Why an upstream fetch ended early, as far as the next decision depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// It may go better the next time: the connection broke, the body ended early, a 5xx.
    Retry,
    /// It will not: not found, denied, refused by policy, throttled.
    Final,
    /// The bytes are not those the digest promises.
    WrongBytes,
}

#[derive(Debug)]
pub(super) struct Upstream {
    running: Option<Running>,
    next_fetch: u64,
    tries: u32,
    failures_in_a_row: u32,
    paused_until: Duration,
    last_failure: Option<UpstreamFailure>,
    dead: bool,
}

#[derive(Debug)]
struct Running {
    id: FetchId,
    /// The chunk that comes next.
    next: u32,
    /// One past the last chunk that is still wanted of it.
    end: u32,
}

impl Upstream {
    pub(super) fn new(tries: u32) -> Self {
        Self {
            running: None,
            next_fetch: 0,
            tries,
            failures_in_a_row: 0,
            paused_until: Duration::ZERO,
            last_failure: None,
            dead: false,
        }
    }

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

    /// The next fetch's id, unless upstream is given up or pausing.
    pub(super) fn next_fetch(&self, now: Duration) -> Option<FetchId> {
        (!self.dead && now >= self.paused_until).then_some(FetchId(self.next_fetch))
    }

    pub(super) fn begin(&mut self, id: FetchId, chunks: Range<u32>) {
        self.next_fetch = id.0 + 1;
        self.running = Some(Running { id, next: chunks.start, end: chunks.end });
    }

    /// Notes a chunk; says whether the rest of the fetch is not wanted any more.
    pub(super) fn arrived(&mut self, fetch: FetchId, chunk: u32) -> bool {
        self.failures_in_a_row = 0;
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

    pub(super) fn ended(&mut self, fetch: FetchId, result: Result<(), UpstreamFailure>, now: Duration) {
        if !self.is_running(fetch) {
            return;
        }
        self.running = None;
        // An end without failure but short of the range counts as one, or it would be asked for ever.
        let failure = result.err().unwrap_or(UpstreamFailure::Retry);
        self.last_failure = Some(failure);
        self.failures_in_a_row += 1;
        self.dead = failure != UpstreamFailure::Retry || self.failures_in_a_row >= self.tries;
        self.paused_until = now + FIRST_PAUSE * 2_u32.pow(self.failures_in_a_row.min(6) - 1);
    }

    /// Tries again after it was given up.
    pub(super) fn revive(&mut self) {
        self.dead = false;
        self.failures_in_a_row = 0;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    pub(super) fn last_failure(&self) -> Option<UpstreamFailure> {
        self.last_failure
    }

    pub(super) fn paused_until(&self, now: Duration) -> Option<Duration> {
        (!self.dead && self.paused_until > now).then_some(self.paused_until)
    }
}
