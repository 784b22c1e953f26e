//! Turns: one request upstream for the whole fleet, for things too small to be shared in ranges.
//!
//! A tag or a manifest is asked of upstream by one node; others who want the same wait for it, and then ask that
//! node. Who may go is decided by the home of the thing's key, as for blobs. A home that dies takes only its waiting
//! list with it: whoever waited asks the next closest node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use libp2p_identity::PeerId;

use super::home::QuestionId;
use super::lease::LeaseEnd;
use super::ranking::Ranking;
use crate::digest::Digest;

/// How long a turn may last before the next has a try.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many nodes whose turns failed in a row, and those who wait are told.
const MAX_FAILURES: usize = 3;
/// For how long failures are remembered.
const FAILED: Duration = Duration::from_secs(1);
/// A thing that nobody asked for so long is forgotten.
const IDLE: Duration = Duration::from_mins(1);
/// Who may wait for one thing.
const MAX_WAITING: usize = 4096;
/// Things kept; the one asked for longest ago goes first.
const MAX_KEPT: usize = 16_384;

/// A question for a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskTurn {
    /// What the thing is found under.
    pub key: Digest,
    /// A result is good if it is not older than this.
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
    /// Who is known here to have the thing.
    pub known: Option<PeerId>,
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

#[derive(Debug, Default)]
struct Thing {
    going: Option<(PeerId, u64, Duration)>,
    waiting: VecDeque<(QuestionId, PeerId)>,
    done: Option<(PeerId, Duration)>,
    /// Whose turns failed since the last that went well: one node alone may try as often as its clients do.
    failures: BTreeSet<PeerId>,
    failed: Option<(LeaseEnd, Duration)>,
    used: Duration,
}

/// The turns that this node gives.
#[derive(Debug, Default)]
pub struct Turns {
    things: BTreeMap<Digest, Thing>,
    next: u64,
}

/// Answers that are due now, to whoever waited for them.
pub type Answers = Vec<(QuestionId, TurnAnswer)>;

impl Turns {
    /// Somebody wants a turn.
    pub fn ask(&mut self, asked: &Asked, ranking: &Ranking, now: Duration) -> Answers {
        let &Asked { question, from, ref ask, known } = asked;
        let lost: BTreeSet<&PeerId> = ask.lost.iter().collect();
        let closest = ranking.closest(&ask.key, 4);
        let home = closest.into_iter().find(|peer| !lost.contains(peer));
        if !self.things.contains_key(&ask.key)
            && let Some(home) = home
            && home != ranking.local()
        {
            return vec![(question, TurnAnswer::Elsewhere(home))];
        }
        if self.things.len() >= MAX_KEPT
            && !self.things.contains_key(&ask.key)
            && let Some(oldest) = self.things.iter().min_by_key(|(_, thing)| thing.used).map(|(key, _)| *key)
        {
            self.things.remove(&oldest);
        }
        let thing = self.things.entry(ask.key).or_default();
        thing.used = now;
        if thing.done.is_some_and(|(by, _)| lost.contains(&by)) {
            thing.done = None;
        }
        if let Some((by, at)) = thing.done
            && now <= at + ask.fresh
            && by != from
        {
            return vec![(question, TurnAnswer::Done(by))];
        }
        if let Some(by) = known.filter(|by| !lost.contains(by)) {
            return vec![(question, TurnAnswer::Done(by))];
        }
        if let Some((how, at)) = thing.failed
            && thing.failures.len() >= MAX_FAILURES
            && now < at + FAILED
        {
            return vec![(question, TurnAnswer::Failed(how))];
        }
        // One who asks again while it has the turn has forgotten it.
        let repeated = thing.going.is_some_and(|(holder, ..)| holder == from);
        if thing.going.is_none() || repeated {
            vec![(question, TurnAnswer::Go(self.go(ask.key, from, now)))]
        } else if thing.waiting.len() < MAX_WAITING {
            thing.waiting.push_back((question, from));
            Vec::new()
        } else {
            vec![(question, TurnAnswer::Failed(LeaseEnd::Trouble { retry_after: None }))]
        }
    }

    fn go(&mut self, key: Digest, holder: PeerId, now: Duration) -> u64 {
        self.next += 1;
        let number = self.next;
        if let Some(thing) = self.things.get_mut(&key) {
            thing.going = Some((holder, number, now));
        }
        number
    }

    /// A turn ended. One that is not this holder's any more counts only if it went well.
    pub fn ended(&mut self, from: PeerId, ended: TurnEnded, now: Duration) -> Answers {
        let TurnEnded { key, number, how } = ended;
        let Some(thing) = self.things.get_mut(&key) else { return Vec::new() };
        let current = thing.going.is_some_and(|(holder, going, _)| holder == from && going == number);
        thing.used = now;
        if how == LeaseEnd::Done {
            thing.done = Some((from, now));
            thing.failures.clear();
            thing.failed = None;
            if current {
                thing.going = None;
            }
            return thing.waiting.drain(..).map(|(question, _)| (question, TurnAnswer::Done(from))).collect();
        }
        if !current {
            return Vec::new();
        }
        if thing.failed.is_some_and(|(_, at)| now >= at + FAILED + PATIENCE) {
            thing.failures.clear();
        }
        thing.failures.insert(from);
        thing.failed = Some((how, now));
        self.next_turn(key, now)
    }

    /// The next who waits may go, unless enough have failed.
    fn next_turn(&mut self, key: Digest, now: Duration) -> Answers {
        let Some(thing) = self.things.get_mut(&key) else { return Vec::new() };
        thing.going = None;
        if let Some((how, _)) = thing.failed
            && thing.failures.len() >= MAX_FAILURES
        {
            return thing
                .waiting
                .drain(..)
                .map(|(question, _)| (question, TurnAnswer::Failed(how)))
                .collect();
        }
        let Some((question, from)) = thing.waiting.pop_front() else { return Vec::new() };
        vec![(question, TurnAnswer::Go(self.go(key, from, now)))]
    }

    /// A peer is gone: its turns are free, and what it has is lost.
    pub fn down(&mut self, peer: &PeerId, now: Duration) -> Answers {
        let mut freed = Vec::new();
        for (key, thing) in &mut self.things {
            if thing.done.is_some_and(|(by, _)| by == *peer) {
                thing.done = None;
            }
            thing.waiting.retain(|(_, from)| from != peer);
            if thing.going.is_some_and(|(holder, ..)| holder == *peer) {
                freed.push(*key);
            }
        }
        freed.into_iter().flat_map(|key| self.next_turn(key, now)).collect()
    }

    /// Looks at the time: turns that last too long are given to the next, things long unused are forgotten.
    pub fn tick(&mut self, now: Duration) -> Answers {
        self.things.retain(|_, thing| now < thing.used + IDLE || !thing.waiting.is_empty());
        let late = |thing: &Thing| thing.going.is_some_and(|(_, _, since)| now >= since + PATIENCE);
        let late: Vec<Digest> =
            self.things.iter().filter(|(_, thing)| late(thing)).map(|(key, _)| *key).collect();
        late.into_iter().flat_map(|key| self.next_turn(key, now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::test_peer;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    struct Home {
        turns: Turns,
        ranking: Ranking,
        next: u64,
    }

    impl Home {
        fn new() -> Self {
            Self { turns: Turns::default(), ranking: Ranking::new(test_peer(0)), next: 0 }
        }

        fn ask(&mut self, from: u8, lost: Vec<PeerId>, now: u64) -> (QuestionId, Answers) {
            self.next += 1;
            let question = QuestionId(self.next);
            let ask = AskTurn { key: Digest::sha256_of(b"tag"), fresh: ms(5000), lost };
            let asked = Asked { question, from: test_peer(from), ask, known: None };
            (question, self.turns.ask(&asked, &self.ranking, ms(now)))
        }

        fn ended(&mut self, from: u8, number: u64, how: LeaseEnd, now: u64) -> Answers {
            let ended = TurnEnded { key: Digest::sha256_of(b"tag"), number, how };
            self.turns.ended(test_peer(from), ended, ms(now))
        }
    }

    #[test]
    fn one_goes_and_the_others_hear_of_it() {
        let mut home = Home::new();
        let (first, answers) = home.ask(1, vec![], 0);
        assert_eq!(answers, [(first, TurnAnswer::Go(1))]);
        let waiting: Vec<QuestionId> = (2..20)
            .map(|from| {
                let (question, answers) = home.ask(from, vec![], 1);
                assert_eq!(answers, []);
                question
            })
            .collect();
        let done = TurnAnswer::Done(test_peer(1));
        let expected: Answers = waiting.into_iter().map(|question| (question, done)).collect();
        assert_eq!(home.ended(1, 1, LeaseEnd::Done, 50), expected);
        let (late, answers) = home.ask(30, vec![], 5049);
        assert_eq!(answers, [(late, done)]);
        // Too old, or lost: the next goes.
        let (later, answers) = home.ask(31, vec![], 5051);
        assert_eq!(answers, [(later, TurnAnswer::Go(2))]);
        home.ended(31, 2, LeaseEnd::Done, 5060);
        let (lost, answers) = home.ask(32, vec![test_peer(31)], 5070);
        assert_eq!(answers, [(lost, TurnAnswer::Go(3))]);
    }

    #[test]
    fn a_turn_that_ends_badly_or_never_goes_to_the_next() {
        let mut home = Home::new();
        home.ask(1, vec![], 0);
        let (second, _) = home.ask(2, vec![], 0);
        let (third, _) = home.ask(3, vec![], 0);
        let (fourth, _) = home.ask(4, vec![], 0);
        let (fifth, _) = home.ask(5, vec![], 0);
        assert_eq!(home.turns.down(&test_peer(1), ms(10)), [(second, TurnAnswer::Go(2))]);
        assert_eq!(home.turns.tick(ms(3009)), []);
        assert_eq!(home.turns.tick(ms(3010)), [(third, TurnAnswer::Go(3))]);
        assert_eq!(home.ended(3, 3, LeaseEnd::Refused, 3020), [(fourth, TurnAnswer::Go(4))]);
        // The one that was late says at last that it has it.
        assert_eq!(home.ended(2, 2, LeaseEnd::Done, 3030), [(fifth, TurnAnswer::Done(test_peer(2)))]);
    }

    #[test]
    fn enough_failures_are_told_to_all_for_a_moment() {
        let mut home = Home::new();
        let mut questions = Vec::new();
        for from in 1..8 {
            questions.push(home.ask(from, vec![], 0).0);
        }
        for turn in 1..=2_u8 {
            let answers = home.ended(turn, turn.into(), LeaseEnd::Refused, 10 * u64::from(turn));
            assert_eq!(answers, [(questions[usize::from(turn)], TurnAnswer::Go(u64::from(turn) + 1))]);
        }
        let answers = home.ended(3, 3, LeaseEnd::Refused, 30);
        assert_eq!(answers.len(), 4);
        assert!(answers.iter().all(|(_, answer)| *answer == TurnAnswer::Failed(LeaseEnd::Refused)));
        let (question, answers) = home.ask(9, vec![], 100);
        assert_eq!(answers, [(question, TurnAnswer::Failed(LeaseEnd::Refused))]);
        let (question, answers) = home.ask(9, vec![], 1100);
        assert_eq!(answers, [(question, TurnAnswer::Go(4))]);
    }

    #[test]
    fn a_node_that_is_not_the_home_says_who_is() {
        let mut home = Home::new();
        home.ranking = Ranking::new(test_peer(0));
        for seed in 1..30 {
            home.ranking.insert(test_peer(seed));
        }
        let closest = home.ranking.closest(&Digest::sha256_of(b"tag"), 4);
        let expected = if closest[0] == home.ranking.local() {
            TurnAnswer::Go(1)
        } else {
            TurnAnswer::Elsewhere(closest[0])
        };
        let (question, answers) = home.ask(40, vec![], 0);
        assert_eq!(answers, [(question, expected)]);
        // Whoever reaches none of them is taken in.
        let (question, answers) = home.ask(41, closest, 0);
        assert_eq!(answers, [(question, TurnAnswer::Go(1))]);
    }
}
