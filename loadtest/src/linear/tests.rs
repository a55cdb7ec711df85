#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn operation(op: Op, end: End, called: u64, ended: u64) -> Operation {
    Operation { client: 0, op, end, called, ended }
}

/// Appends operations one after the other.
fn one_by_one(history: &mut Vec<Operation>, operations: &[(Op, End)]) {
    let mut number = history.iter().map(|o| o.ended.max(o.called)).max().map_or(0, |last| last + 1);
    for (op, end) in operations {
        history.push(operation(*op, *end, number, number + 1));
        number += 2;
    }
}

fn verdict(operations: &[(Op, End)]) -> Verdict {
    let mut history = Vec::new();
    one_by_one(&mut history, operations);
    judge(&history)
}

const SURE: Only = Only::Always;

#[test]
fn one_after_the_other_each_answer_must_be_the_specified_one() {
    use {End::*, Op::*};
    let fine = [
        (Get, Read(None)),
        (Put(1, Only::Present), Refused(Instead::Absent)),
        (Put(1, Only::Absent), Done),
        (Put(2, Only::Absent), Refused(Instead::Holds(1))),
        (Put(2, Only::Is(1)), Done),
        (Put(3, Only::Is(1)), Refused(Instead::Present)),
        (Delete(Only::Is(1)), Refused(Instead::Unsaid)),
        (Get, Read(Some(2))),
        (Delete(SURE), Done),
        (Delete(SURE), Done),
        (Add(5), Sum(5)),
        (Add(-2), Sum(3)),
        (Get, Read(Some(3))),
    ];
    assert_eq!(verdict(&fine), Verdict::Linearizable);
    let said = Refused(Instead::Unsaid);
    let wrong = [Read(Some(9)), Done, said, Done, said, Done, Done, Read(None)];
    for (at, end) in wrong.into_iter().enumerate() {
        let mut told = fine;
        told[at].1 = end;
        let Verdict::Violation(violation) = verdict(&told[..=at]) else { panic!("{:?} told {end:?}", fine[at]) };
        assert_eq!(violation.at, at);
    }
}

#[test]
fn a_violation_says_what_was_asked_told_and_possible() {
    let told = verdict(&[(Op::Put(7, SURE), End::Done), (Op::Get, End::Read(None))]);
    let Verdict::Violation(violation) = told else { panic!("{told:?}") };
    let text = violation.to_string();
    assert!(text.contains("Get") && text.contains("Read(None)") && text.contains("[Some(7)]"), "{text}");
}

#[test]
fn overlapping_operations_may_take_effect_in_either_order() {
    let puts = |first: u64| {
        vec![
            operation(Op::Put(1, SURE), End::Done, 0, 10),
            operation(Op::Put(2, SURE), End::Done, first, 11),
            operation(Op::Get, End::Read(Some(1)), 12, 13),
        ]
    };
    assert_eq!(judge(&puts(9)), Verdict::Linearizable);
    assert_eq!(judge(&puts(10)), Verdict::Linearizable, "equal numbers may overlap");
    assert!(matches!(judge(&puts(11)), Verdict::Violation(_)), "1 ended before 2 was called");
}

#[test]
fn an_unknown_outcome_takes_effect_late_or_never_but_once_and_not_before_its_call() {
    let unknown = operation(Op::Put(1, SURE), End::Unknown, 4, 5);
    let with = |reads: &[Option<Value>]| {
        let mut history = vec![operation(Op::Put(9, SURE), End::Done, 0, 1), unknown.clone()];
        one_by_one(&mut history, &reads.iter().map(|read| (Op::Get, End::Read(*read))).collect::<Vec<_>>());
        judge(&history)
    };
    assert_eq!(with(&[Some(9), Some(9)]), Verdict::Linearizable, "never");
    assert_eq!(with(&[Some(9), Some(1), Some(1)]), Verdict::Linearizable, "late");
    assert!(matches!(with(&[Some(1), Some(9)]), Verdict::Violation(_)), "it cannot be undone");
    let early = [operation(Op::Get, End::Read(Some(1)), 2, 3), unknown.clone()];
    assert!(matches!(judge(&early), Verdict::Violation(_)), "read before it was asked for");
    let failed = [operation(Op::Put(1, SURE), End::Failed, 0, 1), operation(Op::Get, End::Read(Some(1)), 2, 3)];
    assert!(matches!(judge(&failed), Verdict::Violation(_)), "what failed for sure has no effect");
}

/// What a key does when it is asked, apart from [`step`].
fn obey(holds: &mut Option<Value>, op: Op) -> End {
    let refused = |only: Only, holds: Option<Value>| {
        let met = match only {
            Only::Always => true,
            Only::Absent => holds.is_none(),
            Only::Present => holds.is_some(),
            Only::Is(value) => holds == Some(value),
        };
        (!met).then_some(End::Refused(holds.map_or(Instead::Absent, Instead::Holds)))
    };
    match op {
        Op::Get => End::Read(*holds),
        Op::Put(value, only) => refused(only, *holds).unwrap_or_else(|| {
            *holds = Some(value);
            End::Done
        }),
        Op::Delete(only) => refused(only, *holds).unwrap_or_else(|| {
            *holds = None;
            End::Done
        }),
        Op::Add(by) => {
            *holds = Some(holds.unwrap_or(0) + by);
            End::Sum(holds.unwrap())
        }
    }
}

/// Says whether what was told agrees with what is true.
fn agrees(told: End, truth: End) -> bool {
    match (told, truth) {
        (End::Unknown, _) | (End::Refused(Instead::Unsaid), End::Refused(_)) => true,
        (End::Refused(Instead::Present), End::Refused(instead)) => instead != Instead::Absent,
        _ => told == truth,
    }
}

/// The definition, by trying every order: all that ended, and any of the unknown ones.
fn by_definition(history: &[Operation], holds: Option<Value>) -> bool {
    let over = |o: &Operation| if o.end == End::Unknown { u64::MAX } else { o.ended };
    if history.iter().all(|o| o.end == End::Unknown) {
        return true;
    }
    (0..history.len()).any(|first| {
        let one = &history[first];
        // Nothing that was over before it was called comes after it.
        if history.iter().any(|other| over(other) < one.called) {
            return false;
        }
        let mut after = holds;
        let rest: Vec<_> = history.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, o)| o.clone()).collect();
        agrees(one.end, obey(&mut after, one.op)) && by_definition(&rest, after)
    })
}

fn small_operation() -> impl Strategy<Value = Operation> {
    let only = prop_oneof![
        3 => Just(Only::Always),
        1 => Just(Only::Absent),
        1 => Just(Only::Present),
        1 => (1..3_i64).prop_map(Only::Is),
    ];
    let put = (1..3_i64, only.clone()).prop_map(|(value, only)| Op::Put(value, only));
    let op = prop_oneof![Just(Op::Get), put, only.prop_map(Op::Delete), Just(Op::Add(1))];
    (op, any::<u8>(), 0..3_i64, 0..12_u64, 0..8_u64).prop_map(|(op, how, found, called, lasts)| {
        let found = Some(found).filter(|found| *found > 0);
        let answer = match op {
            Op::Get => End::Read(found),
            Op::Add(_) => End::Sum(found.unwrap_or(3)),
            Op::Put(_, Only::Always) | Op::Delete(Only::Always) => End::Done,
            _ if how % 3 == 0 => End::Refused(found.map_or(Instead::Absent, Instead::Holds)),
            _ => End::Done,
        };
        let end = match how % 10 {
            0 | 1 => End::Unknown,
            2 => match answer {
                End::Refused(Instead::Holds(_)) => End::Refused(Instead::Present),
                End::Refused(_) => End::Refused(Instead::Unsaid),
                other => other,
            },
            _ => answer,
        };
        operation(op, end, called, called + lasts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn it_agrees_with_the_definition_on_every_small_history(
        mut history in prop::collection::vec(small_operation(), 1..7)
    ) {
        history.sort_by_key(|o| o.called);
        let fine = by_definition(&history, None);
        prop_assert_eq!(judge(&history) == Verdict::Linearizable, fine, "{:#?}", history);
    }
}

/// Clients of a key that is linearizable indeed: each operation takes effect at one moment between its call
/// and its end; some answers get lost, and then the effect may come later or never.
struct World {
    random: ChaCha8Rng,
    number: u64,
    holds: Option<Value>,
    /// Whether clients only add and read.
    counts: bool,
    fresh: Value,
    late: Vec<Op>,
    history: Vec<Operation>,
}

#[derive(Clone, Copy)]
enum Client {
    Idle,
    Called(Op, u64),
    Answered(Op, u64, End),
}

impl World {
    fn new(seed: u64, counts: bool) -> Self {
        let random = ChaCha8Rng::seed_from_u64(seed);
        Self { random, number: 0, holds: None, counts, fresh: 100, late: Vec::new(), history: Vec::new() }
    }

    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn fresh(&mut self) -> Value {
        self.fresh += 1;
        self.fresh
    }

    fn op(&mut self) -> Op {
        if self.counts {
            return if self.random.random_bool(0.3) { Op::Get } else { Op::Add(1) };
        }
        // What a client believes may be old, or right by chance.
        let believed = self.random.random_range(0..3);
        let only = match self.random.random_range(0..4) {
            0 => Only::Always,
            1 => Only::Absent,
            2 => Only::Present,
            _ => Only::Is(self.holds.unwrap_or(self.fresh) - believed),
        };
        match self.random.random_range(0..10) {
            0..4 => Op::Get,
            4..9 => Op::Put(self.fresh(), only),
            _ => Op::Delete(only),
        }
    }

    fn turn(&mut self, client: Client) -> Client {
        match client {
            Client::Idle => {
                let op = self.op();
                Client::Called(op, self.number())
            }
            Client::Called(op, called) => match self.random.random_range(0..40) {
                0 => self.over(op, called, End::Failed),
                1 => self.over(op, called, End::Unknown),
                2 => {
                    self.late.push(op);
                    self.over(op, called, End::Unknown)
                }
                3 => {
                    obey(&mut self.holds, op);
                    self.over(op, called, End::Unknown)
                }
                _ => {
                    let end = obey(&mut self.holds, op);
                    Client::Answered(op, called, end)
                }
            },
            Client::Answered(op, called, end) => self.over(op, called, end),
        }
    }

    fn over(&mut self, op: Op, called: u64, end: End) -> Client {
        let ended = self.number();
        self.history.push(operation(op, end, called, ended));
        Client::Idle
    }

    /// Lets `clients` take `turns` turns, then end what they began; returns the history and what the key holds.
    fn run(mut self, clients: usize, turns: usize) -> (Vec<Operation>, Option<Value>) {
        let mut all = vec![Client::Idle; clients];
        for _ in 0..turns {
            let one = self.random.random_range(0..clients);
            all[one] = self.turn(all[one]);
            if !self.late.is_empty() && self.random.random_bool(0.05) {
                let late = self.random.random_range(0..self.late.len());
                let op = self.late.swap_remove(late);
                obey(&mut self.holds, op);
            }
        }
        for mut client in all {
            while !matches!(client, Client::Idle) {
                client = self.turn(client);
            }
        }
        self.history.sort_by_key(|o| o.called);
        (self.history, self.holds)
    }
}

/// Violations, as operations after a history that is in order.
fn planted(which: usize, sum: Value) -> (&'static str, Vec<(Op, End)>) {
    use {End::*, Op::*};
    let before = [(Put(1, SURE), Done), (Put(2, SURE), Done)];
    let with = |more: &[(Op, End)]| [&before[..], more].concat();
    match which {
        0 => ("a stale read", with(&[(Get, Read(Some(1)))])),
        1 => ("a lost update", with(&[(Put(3, Only::Is(2)), Done), (Put(4, Only::Is(2)), Done)])),
        2 => ("a write that takes effect twice", with(&[(Get, Read(Some(2))), (Get, Read(Some(1)))])),
        3 => (
            "an acknowledged write that vanishes",
            [&before[..1], &[(Get, Read(Some(1))), before[1], (Get, Read(Some(1)))]].concat(),
        ),
        4 => (
            "a refused write that took effect",
            with(&[(Put(3, Only::Absent), Refused(Instead::Holds(2))), (Get, Read(Some(3)))]),
        ),
        5 => ("a condition that held and was refused", with(&[(Put(3, Only::Is(2)), Refused(Instead::Holds(2)))])),
        6 => ("a sum told twice", vec![(Add(1), Sum(sum)), (Add(1), Sum(sum))]),
        _ => ("a sum that is read back smaller", vec![(Add(1), Sum(sum)), (Get, Read(Some(sum - 1)))]),
    }
}

const PLANTED: usize = 8;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_linearizable_key_answers_is_found_in_order(seed: u64, clients in 1..9_usize, counts: bool) {
        let (history, _) = World::new(seed, counts).run(clients, 400);
        prop_assert_eq!(judge(&history), Verdict::Linearizable, "{:#?}", history);
    }

    #[test]
    fn every_planted_violation_is_caught(seed: u64, clients in 1..6_usize, which in 0..PLANTED) {
        let counts = which >= 6;
        let (mut history, holds) = World::new(seed, counts).run(clients, 300);
        prop_assert_eq!(judge(&history), Verdict::Linearizable);
        let (name, operations) = planted(which, holds.unwrap_or(0) + 1);
        one_by_one(&mut history, &operations);
        let Verdict::Violation(violation) = judge(&history) else { panic!("{name} was not caught") };
        prop_assert!(violation.at + 1 == history.len(), "{} was seen at {} of {}", name, violation.at, history.len());
    }
}

#[test]
fn the_search_ends_at_its_bound_and_says_so() {
    let (history, _) = World::new(7, false).run(6, 400);
    let mut search = Search::new(&history, u64::MAX);
    for moment in moments(&history) {
        match moment {
            Moment::Call(at) => search.open.push(at),
            Moment::End(at) => assert!(search.end(at).is_ok()),
        }
    }
    let steps = search.steps;
    assert_eq!(judge_within(&history, steps), Verdict::Linearizable);
    assert_eq!(judge_within(&history, steps - 1), Verdict::Undecided { steps: steps - 1 });
}

/// Faults leave many unknown outcomes; they must not make the search explode.
#[test]
fn over_a_hundred_unknown_outcomes_stay_within_the_bound() {
    let mut history = Vec::new();
    for n in 0..120 {
        let op = match n % 4 {
            0 => Op::Put(10_000 + n, SURE),
            1 => Op::Put(20_000 + n, Only::Absent),
            2 => Op::Delete(SURE),
            _ => Op::Put(30_000 + n, Only::Is(20_000 + n - 2)),
        };
        one_by_one(&mut history, &[(op, End::Unknown), (Op::Put(n, SURE), End::Done), (Op::Get, End::Read(Some(n)))]);
    }
    assert_eq!(judge(&history), Verdict::Linearizable);
    one_by_one(&mut history, &[(Op::Get, End::Read(Some(0)))]);
    assert!(matches!(judge(&history), Verdict::Violation(_)), "0 was overwritten long ago");
}
