//! The swarms that a node keeps, as home or standby: the very core that the daemon drives, made when first needed.

use std::collections::HashMap;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use shoal_proto::identity::PeerId;
use shoal_proto::swarm::home::{Action, Event as Happens, Homes, Options, QuestionId};
use shoal_proto::swarm::message::{Claim, ClaimAnswer, Report};
use shoal_proto::swarm::ranking::Ranking;
use shoal_proto::transfer::ReportId;

use crate::clock::{At, Event};
use crate::fleet::{Blob, Fleet};
use crate::letter::Message;
use crate::transfer::number;

#[derive(Debug)]
pub(crate) struct Keeper {
    core: Homes,
    wake: Option<Duration>,
    next: u64,
    /// Whom to answer which question, of which layer; claims have no number.
    questions: HashMap<QuestionId, (At, Option<ReportId>)>,
    /// Who has ever reported here.
    askers: FixedBitSet,
    /// The most members that it kept track of in one swarm.
    members: usize,
}

impl Fleet {
    fn keeper(&mut self, node: u32) -> &mut Keeper {
        if self.nodes[node as usize].keeper.is_none() {
            let mut ranking = Ranking::new(self.membership.peers[node as usize]);
            for other in self.membership.neighbours(node) {
                ranking.insert(self.membership.peers[other as usize]);
            }
            let usual = Options::default();
            let options = Options { leases: self.scenario.core.leases.unwrap_or(usual.leases), ..usual };
            self.nodes[node as usize].keeper = Some(Box::new(Keeper {
                core: Homes::new(ranking, options),
                wake: None,
                next: 0,
                questions: HashMap::new(),
                askers: FixedBitSet::with_capacity(self.scenario.nodes as usize),
                members: 0,
            }));
        }
        match &mut self.nodes[node as usize].keeper {
            Some(keeper) => keeper,
            None => unreachable!("made above"),
        }
    }

    /// Who is known here to hold a whole layer: by its record, and this node itself.
    fn known(&mut self, at: At, asker: u32) -> Vec<PeerId> {
        let mut known = self.layer(at).record.clone();
        if matches!(self.blob(at), Blob::Held) && !known.contains(&at.node) {
            known.push(at.node);
        }
        let others = known.into_iter().filter(|&holder| holder != asker && !self.membership.is_gone(holder));
        others.map(|holder| self.membership.peers[holder as usize]).collect()
    }

    fn question(&mut self, at: At, from: u32, id: Option<ReportId>) -> QuestionId {
        let keeper = self.keeper(at.node);
        keeper.next += 1;
        let question = QuestionId(keeper.next);
        keeper.questions.insert(question, (At { node: from, layer: at.layer }, id));
        question
    }

    pub(crate) fn home_hears_report(&mut self, at: At, from: u32, id: ReportId, report: Report) {
        let question = self.question(at, from, Some(id));
        self.keeper(at.node).askers.insert(from as usize);
        let (known, key) = (self.known(at, from), self.layer(at).key);
        let from = self.membership.peers[from as usize];
        self.home_does(at.node, Happens::Reported { question, from, key, report, known });
    }

    pub(crate) fn home_hears_claim(&mut self, at: At, from: u32, claim: Claim) {
        let question = self.question(at, from, None);
        let (known, key) = (self.known(at, from), self.layer(at).key);
        let from = self.membership.peers[from as usize];
        self.home_does(at.node, Happens::Claimed { question, from, key, claim, known });
    }

    pub(crate) fn home_hears_answer(&mut self, at: At, by: u32, answer: Option<ClaimAnswer>) {
        let (key, by) = (self.layer(at).key, self.membership.peers[by as usize]);
        self.home_does(at.node, Happens::ClaimAnswered { key, by, answer });
    }

    /// A node has a new connection.
    pub(crate) fn home_hears_up(&mut self, node: u32, peer: u32) {
        if self.nodes[node as usize].keeper.is_some() {
            let peer = self.membership.peers[peer as usize];
            self.home_does(node, Happens::Up(peer));
        }
    }

    /// A connection is gone.
    pub(crate) fn home_hears_down(&mut self, node: u32, peer: u32) {
        if self.nodes[node as usize].keeper.is_some() && self.membership.are_connected(node, peer) {
            let peer = self.membership.peers[peer as usize];
            self.home_does(node, Happens::Down(peer));
        }
    }

    pub(crate) fn home_wakes(&mut self, node: u32) {
        let now = self.clock.now;
        if self.nodes[node as usize].alive
            && let Some(keeper) = &mut self.nodes[node as usize].keeper
            && keeper.wake.take_if(|wake| *wake == now).is_some()
        {
            let members = keeper.core.kept().into_iter().map(|kept| kept.members).max();
            keeper.members = keeper.members.max(members.unwrap_or(0));
            self.home_does(node, Happens::Timer);
        }
    }

    fn home_does(&mut self, node: u32, event: Happens) {
        let now = self.clock.now;
        for action in self.keeper(node).core.handle(event, now) {
            match action {
                Action::Answer(question, standing) => {
                    if let Some((asker, Some(id))) = self.keeper(node).questions.remove(&question) {
                        let at = At { node, layer: asker.layer };
                        self.send(at, asker.node, Message::Standing(id, standing));
                    }
                }
                Action::AnswerClaim(question, answer) => {
                    if let Some((asker, None)) = self.keeper(node).questions.remove(&question) {
                        let at = At { node, layer: asker.layer };
                        self.send(at, asker.node, Message::ClaimAnswer(answer));
                    }
                }
                Action::Claim { key, to, claim } => {
                    let layer = self.layers.iter().position(|layer| layer.key == key).unwrap_or(0);
                    let at = At { node, layer: u8::try_from(layer).unwrap_or(u8::MAX) };
                    self.send(at, number(&to), Message::Claim(claim));
                }
                Action::SetTimer(due) => {
                    self.keeper(node).wake = Some(due.max(now));
                    self.clock.at(due, Event::HomeWake(node));
                }
            }
        }
    }

    /// The most nodes that ever reported to one keeper, and the most members that one kept track of.
    pub(crate) fn fullest_home(&self) -> (usize, usize) {
        let keepers = || self.nodes.iter().filter_map(|node| node.keeper.as_ref());
        (
            keepers().map(|keeper| keeper.askers.count_ones(..)).max().unwrap_or(0),
            keepers().map(|keeper| keeper.members).max().unwrap_or(0),
        )
    }
}
