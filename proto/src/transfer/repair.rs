//! What a transfer does when all chunks are there and the digest is another: it begins a round.
//!
//! Every chunk came on somebody's word, and which word was false is not known yet. So the blob is fetched once more, in a
//! swarm of its own ([`SwarmKey::round`]): its home sends one member upstream for the whole of it, and from then on a
//! signer of the rounds before is believed only if it is that member. That is one copy more for the fleet, however
//! many members take part. Once the digest has come out, the driver holds every earlier signature against the proven
//! bytes, and whoever signed for others is barred.
//!
//! [`SwarmKey::round`]: crate::swarm::message::SwarmKey::round

use std::collections::BTreeSet;

use libp2p_identity::PeerId;

use super::{Action, Discovery, Phase, Transfer, UpstreamFailure};
use crate::swarm::message::MAX_ROUND;

/// Whom a transfer believes.
#[derive(Debug, Default)]
pub(super) struct Repair {
    round: u32,
    /// Who vouched for chunks in earlier rounds.
    suspects: BTreeSet<PeerId>,
    /// Who, by the home's word, fetches from upstream in this round.
    fetchers: BTreeSet<PeerId>,
}

impl Repair {
    /// 0 until a digest does not come out.
    pub(super) fn round(&self) -> u32 {
        self.round
    }

    pub(super) fn is_believed(&self, signer: &PeerId) -> bool {
        self.fetchers.contains(signer) || !self.suspects.contains(signer)
    }

    /// The home says who fetches from upstream; in a first round nobody need know.
    pub(super) fn sent(&mut self, fetchers: impl IntoIterator<Item = PeerId>) {
        if self.round > 0 {
            self.fetchers.extend(fetchers);
        }
    }
}

impl Transfer {
    /// Which time it is that the blob is fetched, counted from 0.
    pub fn round(&self) -> u32 {
        self.repair.round()
    }

    /// Whose word on a chunk is not taken now.
    pub fn disbelieved(&self) -> Vec<PeerId> {
        let Repair { suspects, fetchers, .. } = &self.repair;
        suspects.difference(fetchers).copied().collect()
    }

    /// The digest is another. `signers` are those who vouched for what came from peers.
    pub(super) fn mismatch(&mut self, signers: Vec<PeerId>, actions: &mut Vec<Action>) {
        if signers.is_empty() || self.repair.round >= MAX_ROUND {
            // Upstream itself sent other bytes than the digest promises, or there are more liars than rounds.
            self.phase = Phase::Failed;
            actions.push(Action::Fail(Some(UpstreamFailure::WrongBytes)));
            return;
        }
        self.repair.round += 1;
        self.repair.suspects.extend(signers);
        self.repair.fetchers.clear();
        self.phase = Phase::Fetching;
        self.discovery = Discovery::Idle;
        self.providers.clear();
        self.asking.clear();
        self.upstream.revive();
        self.member.begin_round();
        self.first_missing = 0;
        self.have.clear();
        self.taken.clear();
        actions.push(Action::Forget((0..self.layout.count()).collect()));
    }
}
