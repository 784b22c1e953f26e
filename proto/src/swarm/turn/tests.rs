//! Turns that end well, badly or never, and what is said of turns that nobody has.

use super::*;
use crate::swarm::test_peer;
use proptest::prelude::*;

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
        let asked = Asked { question, from: test_peer(from), ask };
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
    let (late, answers) = home.ask(30, vec![], 5000);
    assert_eq!(answers, [(late, done)]);
    // Too old (its turn began at 0), or lost: the next goes.
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
    // Who waits hears so, once.
    let wait = |question| (question, TurnAnswer::Wait);
    assert_eq!(home.turns.tick(ms(2999)), []);
    assert_eq!(home.turns.tick(ms(3000)), [wait(third), wait(fourth), wait(fifth)]);
    assert_eq!(home.turns.tick(ms(3009)), []);
    assert_eq!(home.turns.tick(ms(3010)), [(third, TurnAnswer::Go(3))]);
    assert_eq!(home.ended(3, 3, LeaseEnd::Refused { status: None }, 3020), [(fourth, TurnAnswer::Go(4))]);
    // The one that was late says at last that it has it.
    assert_eq!(home.ended(2, 2, LeaseEnd::Done, 3030), [(fifth, TurnAnswer::Done(test_peer(2)))]);
}

#[test]
fn who_asks_again_keeps_its_place_and_a_turn_that_nobody_heard_of_is_free() {
    let mut home = Home::new();
    home.ask(1, vec![], 0);
    home.ask(2, vec![], 0);
    let (third, _) = home.ask(3, vec![], 0);
    let (again, _) = home.ask(2, vec![], 2500);
    assert_eq!(home.turns.tick(ms(3000)), [(again, TurnAnswer::Go(2)), (third, TurnAnswer::Wait)]);
    assert_eq!(home.turns.unheard(1, ms(3001)), [], "that one is over");
    assert_eq!(home.turns.unheard(2, ms(3001)), [(third, TurnAnswer::Go(3))]);
    assert_eq!(home.turns.unheard(3, ms(3002)), []);
    let (question, answers) = home.ask(4, vec![], 3003);
    assert_eq!(answers, [(question, TurnAnswer::Go(4))]);
}

#[test]
fn enough_failures_are_told_to_all_for_a_moment() {
    let mut home = Home::new();
    let mut questions = Vec::new();
    for from in 1..8 {
        questions.push(home.ask(from, vec![], 0).0);
    }
    for turn in 1..=2_u8 {
        let answers = home.ended(turn, turn.into(), LeaseEnd::Refused { status: None }, 10 * u64::from(turn));
        assert_eq!(answers, [(questions[usize::from(turn)], TurnAnswer::Go(u64::from(turn) + 1))]);
    }
    let answers = home.ended(3, 3, LeaseEnd::Refused { status: None }, 30);
    assert_eq!(answers.len(), 4);
    assert!(
        answers.iter().all(|(_, answer)| *answer == TurnAnswer::Failed(LeaseEnd::Refused { status: None }))
    );
    let (question, answers) = home.ask(9, vec![], 100);
    assert_eq!(answers, [(question, TurnAnswer::Failed(LeaseEnd::Refused { status: None }))]);
    let (question, answers) = home.ask(9, vec![], 1100);
    assert_eq!(answers, [(question, TurnAnswer::Go(4))]);
}

#[test]
fn a_pause_that_upstream_asks_for_is_everyones() {
    let mut home = Home::new();
    home.ask(1, vec![], 0);
    let (second, _) = home.ask(2, vec![], 0);
    let (third, _) = home.ask(3, vec![], 0);
    let told = |left| {
        let after = Some(ms(left));
        TurnAnswer::Failed(LeaseEnd::Trouble { status: Some(429), retry_after: after })
    };
    let wish =
        |ms: u64| LeaseEnd::Trouble { status: Some(429), retry_after: Some(Duration::from_millis(ms)) };
    assert_eq!(home.ended(1, 1, wish(8000), 100), [(second, told(8000)), (third, told(8000))]);
    let (later, answers) = home.ask(4, vec![], 5000);
    assert_eq!(answers, [(later, told(3100))]);
    let (after, answers) = home.ask(4, vec![], 8100);
    assert_eq!(answers, [(after, TurnAnswer::Go(2))]);
    // Nobody is kept away for ever, and only who had the turn is believed.
    home.ended(3, 2, wish(u64::MAX), 8200);
    let (waits, answers) = home.ask(5, vec![], 8300);
    assert_eq!(answers, []);
    let most = u64::try_from(MAX_RETRY_AFTER.as_millis()).unwrap();
    assert_eq!(home.ended(4, 2, wish(u64::MAX), 8400), [(waits, told(most))]);
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

/// Whoever never had the turn cannot send others to itself.
#[test]
fn who_had_no_turn_is_not_believed() {
    let mut home = Home::new();
    home.ask(1, vec![], 0);
    let (second, _) = home.ask(2, vec![], 0);
    assert_eq!(home.ended(9, 1, LeaseEnd::Done, 10), []);
    assert_eq!(home.ended(2, 2, LeaseEnd::Done, 10), []);
    assert_eq!(home.ended(1, 7, LeaseEnd::Done, 10), []);
    assert_eq!(home.ended(1, 1, LeaseEnd::Done, 20), [(second, TurnAnswer::Done(test_peer(1)))]);
    // Nor later, when nobody has it.
    assert_eq!(home.ended(9, 1, LeaseEnd::Done, 30), []);
    let (late, answers) = home.ask(3, vec![], 40);
    assert_eq!(answers, [(late, TurnAnswer::Done(test_peer(1)))]);
}

fn asks(turns: &mut Turns, thing: u8, question: u64, now: Duration) -> Answers {
    let ask = AskTurn { key: Digest::sha256_of(&[thing]), fresh: ms(5000), lost: vec![] };
    let from = test_peer(u8::try_from(question).unwrap());
    let asked = Asked { question: QuestionId(question), from, ask };
    turns.ask(&asked, &Ranking::new(test_peer(0)), now)
}

#[test]
fn who_waits_for_a_thing_that_makes_room_is_told() {
    let mut turns = Turns { most: 1, ..Turns::default() };
    asks(&mut turns, 1, 1, ms(0));
    assert_eq!(asks(&mut turns, 1, 2, ms(0)), []);
    let failed = TurnAnswer::Failed(LeaseEnd::TROUBLE);
    let expected = [(QuestionId(2), failed), (QuestionId(3), TurnAnswer::Go(2))];
    assert_eq!(asks(&mut turns, 2, 3, ms(1)), expected);
}

proptest! {
    /// Whatever is asked and said, no question is answered twice but after a "wait", which who asks again need not have
    /// heard, and what is kept stays bounded.
    #[test]
    fn nothing_that_is_said_breaks_the_turns(
        steps in prop::collection::vec((0..5_u8, 1..9_u8, 0..6_u8, any::<bool>(), 0..4000_u64), 1..200),
    ) {
        let mut turns = Turns { most: 3, ..Turns::default() };
        let ranking = Ranking::new(test_peer(0));
        let (mut now, mut answered, mut waits) = (ms(0), BTreeSet::new(), BTreeSet::new());
        for (question, (what, who, thing, odd, wait)) in (0..).zip(steps) {
            now += ms(wait);
            let (from, key) = (test_peer(who), Digest::sha256_of(&[thing]));
            let end = |how| TurnEnded { key, number: if odd { u64::MAX } else { turns.next }, how };
            let answers = match what {
                0 | 1 => {
                    let fresh = if odd { Duration::MAX } else { ms(5000) };
                    let ask = AskTurn { key, fresh, lost: vec![test_peer(thing)] };
                    let asked = Asked { question: QuestionId(question), from, ask };
                    turns.ask(&asked, &ranking, now)
                }
                2 => turns.ended(from, end(LeaseEnd::Done), now),
                3 => turns.ended(from, end(LeaseEnd::Trouble { status: None, retry_after: Some(Duration::MAX) }), now),
                _ if odd => turns.down(&from, now),
                _ => turns.tick(now),
            };
            for (question, answer) in answers {
                let first = if answer == TurnAnswer::Wait { waits.insert(question) } else { answered.insert(question) };
                prop_assert!(first, "answered twice");
            }
            prop_assert!(turns.things.len() <= turns.most);
            prop_assert!(turns.things.values().all(|thing| thing.recent.len() <= MAX_RECENT));
        }
    }
}

#[test]
fn who_wants_it_fresh_shares_the_next_turn_and_not_the_one_that_runs() {
    let mut home = Home::new();
    let fresh = |home: &mut Home, from: u8, now: u64| {
        home.next += 1;
        let question = QuestionId(home.next);
        let ask = AskTurn { key: Digest::sha256_of(b"tag"), fresh: Duration::ZERO, lost: vec![] };
        let asked = Asked { question, from: test_peer(from), ask };
        (question, home.turns.ask(&asked, &home.ranking, ms(now)))
    };
    let (first, answers) = fresh(&mut home, 1, 10);
    assert_eq!(answers, [(first, TurnAnswer::Go(1))]);
    let (same, _) = fresh(&mut home, 2, 10);
    let (second, _) = fresh(&mut home, 3, 20);
    let (third, _) = fresh(&mut home, 4, 30);
    // What upstream was asked for at 10 does for who came then, and for nobody who came later.
    let answers = home.ended(1, 1, LeaseEnd::Done, 40);
    assert_eq!(answers, [(same, TurnAnswer::Done(test_peer(1))), (second, TurnAnswer::Go(2))]);
    assert_eq!(home.ended(3, 2, LeaseEnd::Done, 50), [(third, TurnAnswer::Done(test_peer(3)))]);
    let (question, answers) = fresh(&mut home, 5, 60);
    assert_eq!(answers, [(question, TurnAnswer::Go(3))]);
}

#[test]
fn a_pause_that_is_over_is_not_told_again() {
    let mut home = Home::new();
    let trouble = |status, retry_after| LeaseEnd::Trouble { status: Some(status), retry_after };
    let ends = [trouble(500, None), trouble(500, None), trouble(429, Some(ms(60_000)))];
    for (from, how) in (1..).zip(ends) {
        home.ask(from, vec![], 0);
        assert_eq!(home.ended(from, from.into(), how, 1), []);
    }
    home.ask(4, vec![], 61_000);
    let (fifth, _) = home.ask(5, vec![], 61_000);
    // The fourth is slow.
    assert_eq!(home.turns.tick(ms(64_000)), [(fifth, TurnAnswer::Failed(trouble(429, None)))]);
}
