//! What members, homes and standbys say to each other about one swarm.

use std::time::Duration;

use libp2p_identity::PeerId;

use super::lease::{Lease, LeaseEnd};
use crate::digest::Digest;
use crate::origin::Origin;
use crate::transfer::Availability;

/// The most members named in one standing.
pub const MAX_NAMED: usize = 16;
/// The most unreachable peers named in one report.
pub const MAX_UNREACHABLE: usize = 8;

/// So often a blob is fetched again after its digest did not come out: more false words than that are upstream's.
pub const MAX_ROUND: u32 = 2;
/// The most members named in one standing as sent upstream.
pub const MAX_FETCHERS: usize = 8;

/// The largest term, and the largest number of a lease, that is taken from another node: nobody counts as far, and whoever
/// counts on from it does not overflow.
pub const MAX_NUMBER: u64 = u64::MAX / 2;

/// Which swarm: a digest alone is not enough, since a wrong size makes other chunks, and what one registry's clients may
/// read another's may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwarmKey {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes, as a proven manifest or upstream said.
    pub size: u64,
    /// How often the blob was fetched before and its digest did not come out, [`MAX_ROUND`] at most: who begins
    /// again has nothing to do with those who still have the wrong bytes.
    pub round: u32,
    /// The registry that its members ask.
    pub origin: Origin,
}

impl SwarmKey {
    /// The swarm of those who fetch it for the first time.
    pub const fn first(digest: Digest, size: u64, origin: Origin) -> Self {
        Self { digest, size, round: 0, origin }
    }
}

/// What a member tells the home: that it takes part, what it has, how its lease goes. Sent when it joins, each second
/// from then on, and at once when a lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it has.
    pub have: Availability,
    /// The chunk that its readers wait for longest and that nobody known to it has: a lease had better begin there.
    pub wants: Option<u32>,
    /// Whether it could fetch from upstream: a route, and no refusal so far.
    pub can_fetch: bool,
    /// The lease it works on.
    pub lease: Option<Lease>,
    /// A lease that ended since its last report.
    pub ended: Option<Ended>,
    /// Upstream ignores `Range`: the whole blob is on its way under this lease.
    pub whole: bool,
    /// Homes and providers it could not reach, at most [`MAX_UNREACHABLE`].
    pub unreachable: Vec<PeerId>,
    /// It does not want the blob any more.
    pub leaving: bool,
}

/// The end of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Of which term.
    pub epoch: u64,
    /// Which lease.
    pub id: u64,
    /// How.
    pub how: LeaseEnd,
}

/// The home's answer to a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The member takes part.
    Member(Membership),
    /// Another node is this swarm's home.
    Elsewhere(PeerId),
    /// Not now: ask again after this time.
    Wait(Duration),
}

/// A member's place in the swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The home's term.
    pub epoch: u64,
    /// Others who take part or hold all, at most [`MAX_NAMED`].
    pub members: Vec<PeerId>,
    /// What this member may fetch from upstream. Without one it waits for what others bring.
    pub lease: Option<Lease>,
    /// In a round after the first: who brought something from upstream in it, at most [`MAX_FETCHERS`]. Of those who
    /// vouched for chunks in earlier rounds, only they are believed.
    pub fetchers: Vec<PeerId>,
    /// Nobody can fetch the blob: how the last who tried fared.
    pub hopeless: Option<LeaseEnd>,
    /// When to report again; `None` if the home has members enough and keeps no track of this one.
    pub again: Option<Duration>,
}

/// What a home tells its standbys: before its first grant, and from then on as long as it has members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The home's term.
    pub epoch: u64,
    /// The leases that run, so that a standby can go on with them.
    pub leases: Vec<(PeerId, Lease)>,
}

/// A standby's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimAnswer {
    /// Nobody else is the home, as far as it knows.
    Granted {
        /// The newest term it knew of.
        epoch: u64,
        /// Who is known to hold the whole blob.
        providers: Vec<PeerId>,
    },
    /// Another node is.
    HeldBy {
        /// Which.
        home: PeerId,
        /// That home's term.
        epoch: u64,
    },
}
