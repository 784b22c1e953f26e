//! Turns: one request upstream for the whole fleet, for things too small to be shared in ranges.
//!
//! A tag, a manifest, a verdict or a proof is asked of upstream by one node; others who want the same wait for it, and then ask that
//! node. Who may go is decided by the home of the thing's key, as for blobs. A home that dies takes only its waiting
//! list with it: whoever waited asks the next closest node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use libp2p_identity::PeerId;

use super::home::QuestionId;
use super::lease::{LeaseEnd, MAX_RETRY_AFTER};
use super::ranking::Ranking;
use crate::digest::Digest;

/// How long a turn may last before the next has a try.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long one who waits hears nothing: it is to know a home that waits too from one that is frozen.
const SILENCE: Duration = Duration::from_secs(3);
/// So many nodes whose turns failed in a row, and those who wait are told.
const MAX_FAILURES: usize = 3;
/// For how long failures are remembered.
const FAILED: Duration = Duration::from_secs(1);
/// A thing that nobody asked for so long is forgotten.
const IDLE: Duration = Duration::from_mins(1);
/// Who may wait for one thing.
const MAX_WAITING: usize = 4096;
/// The last holders of a turn that are remembered: one that was late may say all the same that it has the thing.
const MAX_RECENT: usize = 8;
/// Things kept; the one asked for longest ago goes first.
const MAX_KEPT: usize = 16_384;

/// A question for a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskTurn {
    /// What the thing is found under.
    pub key: Digest,
    /// A result is good if its turn began no longer ago than this when it was asked for. With 0 it is one that began
    /// afterwards: all who ask meanwhile wait for the next, and share that.
    pub fresh: Duration,
    /// Nodes that were said to have it, or to be its home, and could not be reached or do not have it.
    pub lost: Vec<PeerId>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnAnswer {
    /// Ask upstream, and say how it went under this number.
    Go(u64),
    /// This node has it.
    Done(PeerId),
    /// Another node is the key's home.
    Elsewhere(PeerId),
    /// Others tried and failed, like this.
    Failed(LeaseEnd),
    /// Another still tries: ask again, at once. The place in the line is kept.
    Wait,
}

/// A question that is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which question this is.
    pub question: QuestionId,
    /// Who asks.
    pub from: PeerId,
    /// For what.
    pub ask: AskTurn,
}

/// The end of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnEnded {
    /// What it was for.
    pub key: Digest,
    /// Its number.
    pub number: u64,
    /// How it went.
    pub how: LeaseEnd,
}

/// One who waits for another's turn to end.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    question: QuestionId,
    from: PeerId,
    /// A turn that began at this time or later does for it.
    from_then: Duration,
    /// When it asked last; `None` once that was answered with [`TurnAnswer::Wait`].
    since: Option<Duration>,
}

#[derive(Debug, Default)]
struct Thing {
    going: Option<(PeerId, u64, Duration)>,
    /// Who had the last turns, under which number, and since when: only they have something to say.
    recent: VecDeque<(PeerId, u64, Duration)>,
    waiting: VecDeque<Waiting>,
    /// Whose turn went well, and when it began.
    done: Option<(PeerId, Duration)>,
    /// Whose turns failed since the last that went well: one node alone may try as often as its clients do.
    failures: BTreeSet<PeerId>,
    failed: Option<(LeaseEnd, Duration)>,
    /// Until then upstream wants to be left alone, by the word of one whose turn failed.
    paused_until: Duration,
    used: Duration,
}

impl Thing {
    /// Why nobody is to go, if that is so: enough have failed, or upstream wants no more questions.
    fn hopeless(&self, now: Duration) -> Option<LeaseEnd> {
        let (mut how, _) = self.failed?;
        let left = self.paused_until.saturating_sub(now);
        if let LeaseEnd::Trouble { retry_after, .. } = &mut how {
            // What is left of it: one that is over is not told again.
            *retry_after = retry_after.map(|_| left).filter(|left| !left.is_zero());
        }
        Some(how).filter(|_| !left.is_zero() || self.failures.len() >= MAX_FAILURES)
    }
}

/// The turns that this node gives.
#[derive(Debug)]
pub struct Turns {
    things: BTreeMap<Digest, Thing>,
    next: u64,
    most: usize,
}

impl Default for Turns {
    fn default() -> Self {
        Self { things: BTreeMap::new(), next: 0, most: MAX_KEPT }
    }
}

/// Answers that are due now, to whoever waited for them.
pub type Answers = Vec<(QuestionId, TurnAnswer)>;

impl Turns {
    /// Somebody wants a turn.
    pub fn ask(&mut self, asked: &Asked, ranking: &Ranking, now: Duration) -> Answers {
        let Asked { question, ask, .. } = asked;
        let lost: BTreeSet<&PeerId> = ask.lost.iter().collect();
        let closest = ranking.closest(&ask.key, 4);
        let home = closest.into_iter().find(|peer| !lost.contains(peer));
        if !self.things.contains_key(&ask.key)
            && let Some(home) = home
            && home != ranking.local()
        {
            return vec![(*question, TurnAnswer::Elsewhere(home))];
        }
        let mut answers = self.make_room(&ask.key);
        answers.extend(self.place(asked, &lost, now));
        answers
    }

    /// The thing asked for longest ago goes, where there are too many. Whoever waits for it is told: it would wait in vain.
    fn make_room(&mut self, key: &Digest) -> Answers {
        if self.things.len() < self.most || self.things.contains_key(key) {
            return Vec::new();
        }
        let oldest = self.things.iter().min_by_key(|(_, thing)| thing.used).map(|(key, _)| *key);
        let gone = oldest.and_then(|key| self.things.remove(&key)).unwrap_or_default();
        let failed = TurnAnswer::Failed(LeaseEnd::TROUBLE);
        gone.waiting.into_iter().map(|waiting| (waiting.question, failed)).collect()
    }

    fn place(&mut self, asked: &Asked, lost: &BTreeSet<&PeerId>, now: Duration) -> Answers {
        let &Asked { question, from, ref ask } = asked;
        let thing = self.things.entry(ask.key).or_default();
        thing.used = now;
        if thing.done.is_some_and(|(by, _)| lost.contains(&by)) {
            thing.done = None;
        }
        if let Some((by, at)) = thing.done
            && now <= at.saturating_add(ask.fresh)
            && by != from
        {
            return vec![(question, TurnAnswer::Done(by))];
        }
        if let Some(how) = thing.hopeless(now)
            && thing.failed.is_some_and(|(_, at)| now < thing.paused_until.max(at + FAILED))
        {
            return vec![(question, TurnAnswer::Failed(how))];
        }
        // One who asks again while it has the turn has forgotten it.
        let repeated = thing.going.is_some_and(|(holder, ..)| holder == from);
        if thing.going.is_none() || repeated {
            vec![(question, TurnAnswer::Go(self.go(ask.key, from, now)))]
        } else if let Some(waiting) = thing.waiting.iter_mut().find(|waiting| waiting.from == from) {
            // One who asks again has given up its first question, not its place.
            (waiting.question, waiting.since) = (question, Some(now));
            Vec::new()
        } else if thing.waiting.len() < MAX_WAITING {
            let from_then = now.saturating_sub(ask.fresh);
            thing.waiting.push_back(Waiting { question, from, from_then, since: Some(now) });
            Vec::new()
        } else {
            vec![(question, TurnAnswer::Failed(LeaseEnd::TROUBLE))]
        }
    }

    fn go(&mut self, key: Digest, holder: PeerId, now: Duration) -> u64 {
        self.next += 1;
        let number = self.next;
        if let Some(thing) = self.things.get_mut(&key) {
            thing.going = Some((holder, number, now));
            thing.recent.push_back((holder, number, now));
            if thing.recent.len() > MAX_RECENT {
                thing.recent.pop_front();
            }
        }
        number
    }

    /// A turn ended. One that is not this holder's any more counts only if it went well, and one that was never given not
    /// at all: or any member could say of any tag that it is the one to ask.
    pub fn ended(&mut self, from: PeerId, ended: TurnEnded, now: Duration) -> Answers {
        let TurnEnded { key, number, how } = ended;
        let Some(thing) = self.things.get_mut(&key) else { return Vec::new() };
        let turn = thing.recent.iter().find(|(holder, given, _)| *holder == from && *given == number);
        let Some(&(.., began)) = turn else { return Vec::new() };
        let current = thing.going.is_some_and(|(holder, going, _)| holder == from && going == number);
        thing.used = now;
        if how == LeaseEnd::Done {
            thing.done = Some((from, began));
            thing.failures.clear();
            thing.failed = None;
            let (told, rest): (Vec<Waiting>, Vec<Waiting>) =
                thing.waiting.drain(..).partition(|waiting| waiting.from_then <= began);
            thing.waiting = rest.into();
            let done = TurnAnswer::Done(from);
            let mut answers: Answers = told.into_iter().map(|waiting| (waiting.question, done)).collect();
            if current {
                // Those who want what upstream says from now on.
                answers.extend(self.next_turn(key, now));
            }
            return answers;
        }
        if !current {
            return Vec::new();
        }
        if thing.failed.is_some_and(|(_, at)| now >= at + FAILED + PATIENCE) {
            thing.failures.clear();
        }
        thing.failures.insert(from);
        thing.failed = Some((how, now));
        if let LeaseEnd::Trouble { retry_after: Some(after), .. } = how {
            thing.paused_until = now + after.min(MAX_RETRY_AFTER);
        }
        self.next_turn(key, now)
    }

    /// Whoever was told to go under this number had left before: the next may.
    pub fn unheard(&mut self, number: u64, now: Duration) -> Answers {
        let is_it = |thing: &Thing| thing.going.is_some_and(|(_, going, _)| going == number);
        let key = self.things.iter().find(|(_, thing)| is_it(thing)).map(|(key, _)| *key);
        key.map(|key| self.next_turn(key, now)).unwrap_or_default()
    }

    /// The next who waits may go, unless enough have failed.
    fn next_turn(&mut self, key: Digest, now: Duration) -> Answers {
        let Some(thing) = self.things.get_mut(&key) else { return Vec::new() };
        thing.going = None;
        if let Some(how) = thing.hopeless(now) {
            return thing
                .waiting
                .drain(..)
                .map(|waiting| (waiting.question, TurnAnswer::Failed(how)))
                .collect();
        }
        let Some(Waiting { question, from, .. }) = thing.waiting.pop_front() else { return Vec::new() };
        vec![(question, TurnAnswer::Go(self.go(key, from, now)))]
    }

    /// A peer is gone: its turns are free, and what it has is lost.
    pub fn down(&mut self, peer: &PeerId, now: Duration) -> Answers {
        let mut freed = Vec::new();
        for (key, thing) in &mut self.things {
            if thing.done.is_some_and(|(by, _)| by == *peer) {
                thing.done = None;
            }
            thing.waiting.retain(|waiting| waiting.from != *peer);
            if thing.going.is_some_and(|(holder, ..)| holder == *peer) {
                freed.push(*key);
            }
        }
        freed.into_iter().flat_map(|key| self.next_turn(key, now)).collect()
    }

    /// Looks at the time: turns that last too long are given to the next, who waits long hears that it is to wait, things
    /// long unused are forgotten.
    pub fn tick(&mut self, now: Duration) -> Answers {
        self.things.retain(|_, thing| now < thing.used + IDLE || !thing.waiting.is_empty());
        let late = |thing: &Thing| thing.going.is_some_and(|(_, _, since)| now >= since + PATIENCE);
        let late: Vec<Digest> =
            self.things.iter().filter(|(_, thing)| late(thing)).map(|(key, _)| *key).collect();
        let mut answers: Answers = late.into_iter().flat_map(|key| self.next_turn(key, now)).collect();
        for waiting in self.things.values_mut().flat_map(|thing| &mut thing.waiting) {
            if waiting.since.is_some_and(|since| now >= since + SILENCE) {
                waiting.since = None;
                answers.push((waiting.question, TurnAnswer::Wait));
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests;
