//! Control messages: what they cost, how they get there, and what happens when they do not.
//!
//! A message costs both ends CPU and their links its bytes. The first between two nodes that are not connected costs a
//! handshake of 1.5 round trips more, and is refused where a node has as many connections as it takes.

use std::time::Duration;

use shoal_proto::swarm::message::{Claim, ClaimAnswer, Report, Standing};
use shoal_proto::transfer::{Availability, Event as Happens, ReportId};

use crate::clock::{At, Event};
use crate::fleet::Fleet;
use crate::scenario::Scenario;

/// How long a daemon waits for an answer to a report, a claim, a question what a peer has.
pub(crate) const REPORT: Duration = Duration::from_millis(1500);
const CLAIM: Duration = Duration::from_millis(300);
const FOLLOW: Duration = Duration::from_secs(3);

/// What is around a message, in bytes: its frame, yamux, TLS; and a peer named in one, with an address.
const ENVELOPE: usize = 60;
const NAMED: usize = 70;

/// What is said of one layer.
#[derive(Debug)]
pub(crate) enum Message {
    Report(ReportId, Report),
    Standing(ReportId, Standing),
    Claim(Claim),
    ClaimAnswer(ClaimAnswer),
    /// What do you have? One who follows says how many chunks it knows of.
    Ask(Option<u32>),
    /// The answer, to one who follows or to one who searches.
    Holding(Option<Availability>, bool),
}

#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) layer: u8,
    pub(crate) sent: Duration,
    pub(crate) message: Message,
}

/// Letters under way, by number.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    letters: Vec<Option<Letter>>,
    free: Vec<u32>,
}

impl Letters {
    fn put(&mut self, letter: Letter) -> u32 {
        if let Some(number) = self.free.pop() {
            self.letters[number as usize] = Some(letter);
            return number;
        }
        self.letters.push(Some(letter));
        u32::try_from(self.letters.len() - 1).unwrap_or(u32::MAX)
    }

    fn take(&mut self, number: u32) -> Option<Letter> {
        let letter = self.letters.get_mut(number as usize)?.take();
        self.free.extend(letter.is_some().then_some(number));
        letter
    }
}

impl Message {
    /// Which end of it is a home at work.
    fn home(&self, from: u32, to: u32) -> Option<u32> {
        match self {
            Self::Report(..) | Self::ClaimAnswer(_) => Some(to),
            Self::Standing(..) | Self::Claim(_) => Some(from),
            Self::Ask(_) | Self::Holding(..) => None,
        }
    }

    /// Its length on the wire, about.
    fn bytes(&self) -> usize {
        let have = |have: &Availability| match have {
            Availability::Complete => 0,
            Availability::Partial(chunks) => chunks.len().div_ceil(8),
        };
        let digest = 34;
        ENVELOPE
            + match self {
                Self::Report(_, report) => digest + 20 + have(&report.have) + report.unreachable.len() * 38,
                Self::Standing(_, Standing::Member(place)) => 20 + place.members.len() * NAMED,
                Self::Standing(..) | Self::ClaimAnswer(_) => NAMED,
                Self::Claim(claim) => digest + claim.leases.len() * 60,
                Self::Ask(_) => digest,
                Self::Holding(holding, _) => holding.as_ref().map_or(0, have),
            }
    }
}

impl Fleet {
    pub(crate) fn send(&mut self, at: At, to: u32, message: Message) {
        let (now, from) = (self.clock.now, at.node);
        let bytes = message.bytes();
        let home = message.home(from, to);
        let letter = self.letters.put(Letter { from, to, layer: at.layer, sent: now, message });
        if from == to {
            self.clock.at(now, Event::Letter(letter));
            return;
        }
        self.figures.sent(from, to, bytes);
        if let Some(home) = home {
            self.figures.home_works(home, self.scenario.control.message_cpu_us, now);
        }
        let message_cpu = self.scenario.control.message_cpu_us;
        match self.route(from, to, message_cpu) {
            Ok(there) => {
                #[expect(clippy::cast_precision_loss, reason = "a message's length")]
                self.node(from).uploads.also(bytes as f64);
                self.clock.at(there, Event::Letter(letter));
            }
            Err(found_out) => self.clock.at(found_out, Event::Undelivered(letter)),
        }
    }

    /// When something sent now is there, connecting first if need be; or when it turns out that it cannot be sent.
    pub(crate) fn route(&mut self, from: u32, to: u32, cpu: f64) -> Result<Duration, Duration> {
        let now = self.clock.now;
        let latency = self.membership.latency(from, to);
        let leaves = self.works(from, cpu);
        if self.membership.is_gone(to) {
            // A dial, refused or in vain.
            return Err(now + if self.scenario.failures.silent { REPORT } else { latency * 2 });
        }
        if self.membership.are_connected(from, to) {
            return Ok(leaves + latency);
        }
        if !self.membership.connect(from, to) {
            self.figures.refused_connections += 1;
            return Err(now + latency * 2);
        }
        let shaken = self.shake_hands(from, to).max(leaves);
        Ok(shaken + latency * 4)
    }

    fn shake_hands(&mut self, from: u32, to: u32) -> Duration {
        let cpu = self.scenario.control.handshake_cpu_us;
        self.figures.handshakes += 1;
        self.works(from, cpu);
        let done = self.works(to, cpu);
        if self.nodes[to as usize].keeper.is_some() {
            self.figures.home_works(to, cpu, self.clock.now);
        }
        self.home_hears_up(from, to);
        self.home_hears_up(to, from);
        done
    }

    pub(crate) fn arrives(&mut self, number: u32) {
        let Some(letter) = self.letters.take(number) else { return };
        let (now, to) = (self.clock.now, letter.to);
        if !self.node(to).alive {
            self.is_lost(letter);
            return;
        }
        if letter.from != to {
            let takes = message_seconds(&self.scenario, letter.message.bytes());
            let node = self.node(to);
            node.down_free = node.down_free.max(now) + takes;
            self.works(to, self.scenario.control.message_cpu_us);
        }
        let (at, there) =
            (At { node: to, layer: letter.layer }, At { node: letter.from, layer: letter.layer });
        let late = now > letter.sent + CLAIM;
        match letter.message {
            Message::Report(id, report) => self.home_hears_report(at, letter.from, id, report),
            Message::Standing(id, standing) => self.feed(at, Happens::Reported(id, Some(standing))),
            Message::Claim(claim) => self.home_hears_claim(at, letter.from, claim),
            Message::ClaimAnswer(answer) => {
                self.home_hears_answer(at, letter.from, (!late).then_some(answer));
            }
            Message::Ask(known) => self.asked_what(at, letter.from, known),
            Message::Holding(holding, true) => self.told_what(at, letter.from, holding),
            Message::Holding(holding, false) => self.search_found(at, there.node, holding),
        }
    }

    /// A dead node does not answer: whoever wrote learns that at once, from a reset, or when it has waited.
    fn is_lost(&mut self, letter: Letter) {
        let now = self.clock.now;
        let latency = self.membership.latency(letter.from, letter.to);
        let patience = match &letter.message {
            Message::Report(..) => REPORT,
            Message::Claim(_) => CLAIM,
            Message::Ask(_) => FOLLOW,
            _ => return,
        };
        let at = if self.scenario.failures.silent { letter.sent + patience } else { now + latency };
        let number = self.letters.put(letter);
        self.clock.at(at, Event::Undelivered(number));
    }

    pub(crate) fn undelivered(&mut self, number: u32) {
        let Some(letter) = self.letters.take(number) else { return };
        let at = At { node: letter.from, layer: letter.layer };
        if !self.node(at.node).alive {
            return;
        }
        match letter.message {
            Message::Report(id, _) => self.feed(at, Happens::Reported(id, None)),
            Message::Claim(_) => self.home_hears_answer(at, letter.to, None),
            Message::Ask(Some(_)) => self.told_what(at, letter.to, None),
            Message::Ask(None) => self.search_found(at, letter.to, None),
            // Nobody waits for news that an answer was lost.
            Message::Standing(..) | Message::ClaimAnswer(_) | Message::Holding(..) => {}
        }
    }

    pub(crate) fn report_due(&mut self, at: At, id: ReportId) {
        self.feed(at, Happens::Reported(id, None));
    }

    /// One who follows a node that died is answered by nobody.
    pub(crate) fn follower_of_dead(&mut self, follower: At, dead: u32, asked: Duration) {
        let message = Message::Ask(Some(0));
        self.is_lost(Letter { from: follower.node, to: dead, layer: follower.layer, sent: asked, message });
    }
}

fn message_seconds(scenario: &Scenario, bytes: usize) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a message's length")]
    let bytes = bytes as f64;
    Duration::from_secs_f64(bytes / Scenario::carries(scenario.links.down_mbit))
}
