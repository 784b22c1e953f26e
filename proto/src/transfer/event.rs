//! What a transfer hears and what it says: the vocabulary between the pure core and its driver.

use std::time::Duration;

use fixedbitset::FixedBitSet;
use libp2p_identity::PeerId;

use super::{Homes, ReportId, UpstreamFailure};
use crate::swarm::message::{Report, Standing};

/// Numbers a chunk request within its transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Numbers an upstream fetch within its transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Numbers a reader within its transfer; chosen by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// What a transfer is tuned by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many chunks ahead of each reader are fetched in order before anything else.
    pub window: u32,
    /// The most bytes asked of peers and not yet arrived. At least two chunks are always allowed, and what starving
    /// readers wait for may come on top.
    pub max_in_flight: u64,
    /// No chunk is asked of a second peer sooner than this; for a reader that starves, than half of it.
    pub hedge_after: Duration,
    /// How long to wait before peers are looked for again.
    pub rediscover_after: Duration,
    /// Breaks ties among equally rare chunks: other nodes should choose otherwise.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            window: 8,
            max_in_flight: 4 * 1024 * 1024,
            hedge_after: Duration::from_secs(1),
            rediscover_after: Duration::from_secs(2),
            seed: 0,
        }
    }
}

/// Which chunks a peer can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// All of them.
    Complete,
    /// Those whose bit is set.
    Partial(FixedBitSet),
}

/// Why a chunk request brought no chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkFailure {
    /// The peer's upload slots are taken: later again.
    Busy,
    /// The peer has just sent this chunk to others and has others still to send: they can be asked, or it, but later.
    Sent,
    /// The peer does not have this chunk after all.
    Missing,
    /// The peer has it only on the word of somebody who is not believed: not its fault.
    Disbelieved,
    /// The peer was silent for too long.
    Stalled,
    /// The connection ended, or no connection was to be had.
    Gone,
    /// The bytes or their attestation were wrong, or the peer broke the protocol.
    Corrupt,
}

impl ChunkFailure {
    /// Whether nobody is to blame for it.
    pub(super) fn is_innocent(self) -> bool {
        matches!(self, Self::Busy | Self::Sent | Self::Missing | Self::Disbelieved)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer said what it has of this blob.
    Provider(PeerId, Availability),
    /// A peer takes part in the swarm, or may hold the blob: it can be asked what it has.
    Candidate(PeerId),
    /// A peer that [`Action::Ask`] named has nothing of this blob, or does not answer.
    HasNothing(PeerId),
    /// The nodes closest to the blob's digest that are live now.
    Homes(Homes),
    /// A home answered a report, or could not be reached (`None`).
    Reported(ReportId, Option<Standing>),
    /// Upstream ignores `Range`: the whole blob is on its way.
    UpstreamWhole(FetchId),
    /// The search for providers that [`Action::Discover`] began is over.
    DiscoveryEnded,
    /// A requested chunk arrived, was checked, and is stored.
    Chunk(RequestId),
    /// A requested chunk did not arrive.
    ChunkFailed(RequestId, ChunkFailure),
    /// Upstream brought this chunk, and it is stored.
    UpstreamChunk(FetchId, u32),
    /// An upstream fetch ended: by itself, by failure, or because it was stopped.
    UpstreamEnded(FetchId, Result<(), UpstreamFailure>),
    /// A reader waits for this chunk next.
    ReaderAt(ReaderId, u32),
    /// A reader left.
    ReaderGone(ReaderId),
    /// Chunks that were stored are there no more: the disk damaged them.
    Lost(Vec<u32>),
    /// All chunks are there but the digest is another: these vouched for what did not come from upstream.
    Mismatch(Vec<PeerId>),
    /// The time that [`Action::SetTimer`] named has come.
    Timer,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look for providers, and say [`Event::DiscoveryEnded`] when done: within 300 ms.
    Discover,
    /// Tell a home how things stand, and say [`Event::Reported`] when it answers: within 2 s.
    Report {
        /// Which report.
        id: ReportId,
        /// Which home; it may be this node itself.
        to: PeerId,
        /// What to say.
        report: Report,
    },
    /// Ask a peer what it has, and say [`Event::Provider`] or [`Event::HasNothing`]. It answers once it has other than
    /// `known` chunks, or after a second.
    Ask {
        /// Whom.
        peer: PeerId,
        /// How many chunks it is known to have.
        known: u32,
    },
    /// Ask a peer for a chunk.
    Request {
        /// Which request.
        id: RequestId,
        /// Of whom.
        peer: PeerId,
        /// Which chunk.
        chunk: u32,
    },
    /// A request's answer is no longer of use.
    Cancel(RequestId),
    /// Fetch these chunks from upstream, in order.
    FetchUpstream {
        /// Which fetch.
        id: FetchId,
        /// Which chunks.
        chunks: std::ops::Range<u32>,
    },
    /// End this upstream fetch: others have brought the rest of its range.
    StopUpstream(FetchId),
    /// Forget that these chunks are held.
    Forget(Vec<u32>),
    /// Wake the core at this time with [`Event::Timer`]. Replaces the time set before.
    SetTimer(Duration),
    /// Count this against a peer, by name.
    Blame(PeerId, ChunkFailure),
    /// Every chunk is stored: prove the digest.
    Finish,
    /// The blob cannot be had now: for the reason upstream gave last.
    Fail(Option<UpstreamFailure>),
}
