//! What comes from upstream, and how a fetch from there ends.

use bytes::Bytes;
use shoal_gateway::error::PullError;
use shoal_proto::attestation::ChunkHash;
use shoal_proto::transfer::{Action, Event, FetchId, Transfer, UpstreamFailure, Verdict};

use super::{Driver, abort};

impl Driver {
    /// A chunk came: the core hears of it once nothing speaks against this node's own way to upstream.
    pub(super) fn came_again(
        &mut self,
        core: &mut Transfer,
        id: FetchId,
        chunk: u32,
        bytes: &Bytes,
    ) -> Vec<Action> {
        match self.doubt.came(chunk, ChunkHash::of(bytes), self.now()) {
            // The last one tells that the rest is there.
            Verdict::Tell(chunks) if chunk + 1 == self.fetch_end => {
                let all = self.doubt.rest().into_iter().chain(chunks).collect();
                self.tell(core, id, all)
            }
            Verdict::Tell(chunks) => self.tell(core, id, chunks),
            Verdict::Withhold => Vec::new(),
            Verdict::Wrong(chunks) => {
                tracing::warn!("what upstream sends here is not what it sent to others");
                self.upstream_error = Some(PullError::Content(format!(
                    "what upstream sends to this node for {} is not what it sends to others: check the way there",
                    self.digest
                )));
                abort(self.fetches.remove(&id));
                let mut actions = vec![Action::Forget(chunks)];
                let ended = Event::UpstreamEnded(id, Err(UpstreamFailure::WrongBytes));
                actions.extend(core.handle(ended, self.now()));
                actions
            }
        }
    }

    /// These chunks are stored.
    pub(super) fn tell(&mut self, core: &mut Transfer, id: FetchId, chunks: Vec<u32>) -> Vec<Action> {
        let mut actions = Vec::new();
        for chunk in chunks {
            actions.extend(core.handle(Event::UpstreamChunk(id, chunk), self.now()));
            self.stored(core, chunk, None);
        }
        actions
    }

    /// A fetch is over, by itself or by failure.
    pub(super) fn upstream_ended(
        &mut self,
        core: &mut Transfer,
        id: FetchId,
        result: Result<(), PullError>,
    ) -> Vec<Action> {
        tracing::debug!(?id, ok = result.is_ok(), "a fetch from upstream ended");
        self.fetches.remove(&id);
        let withheld = self.doubt.rest();
        let mut actions = match &result {
            Ok(()) => self.tell(core, id, withheld),
            Err(_) => vec![Action::Forget(withheld)],
        };
        let result = result.map_err(|error| self.upstream_failed(error));
        actions.extend(core.handle(Event::UpstreamEnded(id, result), self.now()));
        actions
    }

    fn upstream_failed(&mut self, error: PullError) -> UpstreamFailure {
        tracing::info!(%error, "upstream failed");
        let status = error.status();
        let failure = match &error {
            PullError::Upstream { .. } => UpstreamFailure::Retry { status, retry_after: None },
            PullError::Throttled { retry_after, .. } => {
                UpstreamFailure::Retry { status, retry_after: *retry_after }
            }
            _ => UpstreamFailure::Final { status },
        };
        self.upstream_error = Some(error);
        failure
    }
}
