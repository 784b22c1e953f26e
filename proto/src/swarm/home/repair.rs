//! Who is sent upstream when a blob is fetched once more, because its digest did not come out.

use std::collections::BTreeSet;
use std::time::Duration;

use libp2p_identity::PeerId;

/// For so long a member that fetched in the first round waits for one that did not.
const DEFERENCE: Duration = Duration::from_secs(1);
/// For so long one that was believed in vain waits for one that was not.
const DISTRUST: Duration = Duration::from_secs(4);

/// Who brought something from upstream in the rounds before.
#[derive(Debug, Clone, Default)]
pub(super) struct Former {
    /// In the first round: some of them brought wrong bytes.
    pub(super) first: BTreeSet<PeerId>,
    /// In a repair: only they were believed, and the digest was another all the same.
    pub(super) repairs: BTreeSet<PeerId>,
}

/// What the home of a repair goes by.
#[derive(Debug)]
pub(super) struct Repair {
    former: Former,
    local: PeerId,
    since: Duration,
}

impl Repair {
    /// Begins now. `local` is the home.
    pub(super) fn new(former: Former, local: PeerId, since: Duration) -> Self {
        Self { former, local, since }
    }

    pub(super) fn former(&self) -> &Former {
        &self.former
    }

    /// Whether this member may be sent. Those who fetched nothing so far brought nothing wrong, and a home knows of
    /// itself that it does not lie.
    pub(super) fn admits(&self, member: &PeerId, now: Duration) -> bool {
        let wait = if self.former.repairs.contains(member) {
            DISTRUST
        } else if self.former.first.contains(member) && *member != self.local {
            DEFERENCE
        } else {
            Duration::ZERO
        };
        now >= self.since + wait
    }
}
