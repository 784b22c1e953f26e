//! Who is the home: claims made, answered, and settled.

use std::collections::BTreeSet;
use std::time::Duration;

use libp2p_identity::PeerId;

use super::swarm::{Role, Waiting};
use super::{Action, Homes, STALE, STANDBYS};
use crate::chunk::ChunkLayout;
use crate::swarm::message::{Claim, ClaimAnswer, MAX_NAMED, Standing, SwarmKey};
use crate::swarm::ranking::Ranking;

/// A claim that is to be answered.
pub(super) struct Claimed {
    pub(super) from: PeerId,
    pub(super) key: SwarmKey,
    pub(super) claim: Claim,
    pub(super) known: Vec<PeerId>,
}

impl Homes {
    /// Who else is closest: the standbys of a home here.
    pub(super) fn standbys(&self, key: &SwarmKey) -> Vec<PeerId> {
        let local = self.ranking.local();
        let closest = self.ranking.closest(&key.digest, STANDBYS + 1);
        closest.into_iter().filter(|&peer| peer != local).take(STANDBYS).collect()
    }

    /// Begins to claim a swarm; a node without standbys is its home at once.
    pub(super) fn claim(&mut self, key: SwarmKey, now: Duration, actions: &mut Vec<Action>) {
        let standbys = self.standbys(&key);
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if standbys.is_empty() {
            swarm.role = Role::Home { confirmed: now, renewed: now, pending: BTreeSet::new() };
            return;
        }
        let claim = swarm.as_claim();
        swarm.role =
            Role::Claiming { since: now, pending: standbys.iter().copied().collect(), waiting: Vec::new() };
        actions.extend(standbys.into_iter().map(|to| Action::Claim { key, to, claim: claim.clone() }));
    }

    pub(super) fn claimed(
        &mut self,
        Claimed { from, key, claim, known }: Claimed,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> ClaimAnswer {
        let local = self.ranking.local();
        let granted = |epoch: u64| ClaimAnswer::Granted {
            epoch,
            providers: known.into_iter().take(MAX_NAMED).collect(),
        };
        let Ok(layout) = ChunkLayout::of(key.size) else { return granted(0) };
        let Some(swarm) = self.swarms.get_mut(&key) else {
            // New here. A node that sees fewer others may not know of a closer one.
            let closest = self.ranking.closest(&key.digest, 1);
            if let Some(&closer) = closest.first()
                && closer != from
                && closer != local
                && Ranking::is_closer(&key.digest, &closer, &from)
            {
                return ClaimAnswer::HeldBy { home: closer, epoch: 0 };
            }
            self.make_room(actions);
            let mut swarm = self.fresh(&key, layout, now);
            swarm.follow(from, claim, now);
            self.swarms.insert(key, swarm);
            return granted(0);
        };
        let rival = match &swarm.role {
            Role::Home { .. } => Some((local, true)),
            Role::Claiming { .. } => Some((local, !Ranking::is_closer(&key.digest, &from, &local))),
            Role::Standby { home, heard } if *home != from => {
                let live = self.ranking.contains(home) && now < *heard + STALE;
                live.then_some((*home, true))
            }
            Role::Standby { .. } | Role::Ceded { .. } => None,
        };
        if let Some((home, stays)) = rival
            && claim.epoch <= swarm.epoch
            && (stays || claim.epoch < swarm.epoch)
        {
            return ClaimAnswer::HeldBy { home, epoch: swarm.epoch };
        }
        let before = swarm.epoch;
        if let Role::Claiming { waiting, .. } = &mut swarm.role {
            for waiting in waiting.drain(..) {
                actions.push(Action::Answer(waiting.question, Standing::Elsewhere(from)));
            }
        }
        swarm.used = now;
        swarm.follow(from, claim, now);
        granted(before)
    }

    pub(super) fn claim_answered(
        &mut self,
        key: SwarmKey,
        by: PeerId,
        answer: Option<ClaimAnswer>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let local = self.ranking.local();
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let (Role::Claiming { pending, .. } | Role::Home { pending, .. }) = &mut swarm.role else { return };
        if !pending.remove(&by) {
            return;
        }
        let done = pending.is_empty();
        match answer {
            // It knows no term of that home and only ranks it closer, and whoever asks has lost it.
            Some(ClaimAnswer::HeldBy { home, epoch: 0 }) if swarm.is_lost(&home) => {}
            Some(ClaimAnswer::HeldBy { home, epoch })
                if home != local && (epoch >= swarm.epoch || matches!(swarm.role, Role::Claiming { .. })) =>
            {
                swarm.cede(home, now, actions);
                return;
            }
            Some(ClaimAnswer::Granted { epoch, providers }) => {
                swarm.epoch = swarm.epoch.max(epoch);
                swarm.note_providers(providers.into_iter().filter(|&peer| peer != local));
                if let Role::Home { confirmed, .. } = &mut swarm.role {
                    *confirmed = now;
                }
            }
            Some(ClaimAnswer::HeldBy { .. }) | None => {}
        }
        if done {
            self.open(key, now, actions);
        }
    }

    /// The claim is settled: whoever waited is answered.
    pub(super) fn open(&mut self, key: SwarmKey, now: Duration, actions: &mut Vec<Action>) {
        let options = self.options;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let fresh = Role::Home { confirmed: now, renewed: now, pending: BTreeSet::new() };
        if let Role::Home { confirmed, .. } = &mut swarm.role {
            // Standbys that do not answer do not object.
            *confirmed = now;
            return;
        }
        let Role::Claiming { waiting, .. } = std::mem::replace(&mut swarm.role, fresh) else { return };
        // What members bring is noted before anything is granted.
        for waiting in &waiting {
            swarm.note(waiting.from, &waiting.report, options, now);
        }
        for Waiting { question, from, report } in waiting {
            let standing = swarm.serve(from, &report, options, now);
            actions.push(Action::Answer(question, Standing::Member(standing)));
        }
    }
}
