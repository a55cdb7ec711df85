//! Judges whether the history of one key is linearizable: whether all of its operations could have taken
//! effect one after the other, each between its call and its end, with the answers that were given.
//!
//! Of a store with many keys each key is judged by itself, which is enough (Herlihy and Wing,
//! "Linearizability: a correctness condition for concurrent objects", 1990, theorem 1).
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) as Lowe arranged
//! it ("Testing for linearizability", 2017): just in time, with what was tried kept in memory. Ends are
//! walked in their order. A *way* is what the key may hold by now, and which operations that have not
//! ended took effect already; at each end every way goes on by all orders of open operations that lead to
//! the one that ends. A history is in order as long as a way is left.
//!
//! An operation of unknown outcome stays open for good and need never take effect. So a way that used up
//! fewer of them is at least as good as one that used more, and only the best are kept; of several that
//! ask for the same thing the first is used first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;

use crate::history::{End, Instead, Only, Op, Operation, Value};

/// Steps of the search for one key, at most; each costs some microseconds.
pub const STEPS_MAX: u64 = 20_000_000;

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Violation(Violation),
    /// The search reached its bound of steps; whoever judges takes it for a failure.
    Undecided {
        /// The bound.
        steps: u64,
    },
}

/// The first end that no order explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its place in the history.
    pub at: usize,
    /// The operation.
    pub operation: Operation,
    /// What the key could have held before, as far as the answers until then allow.
    pub possible: BTreeSet<Option<Value>>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, op, end, called, ended } = &self.operation;
        let possible: Vec<_> = self.possible.iter().collect();
        write!(f, "client {client} asked for {op:?} and was told {end:?} ({called} to {ended}), ")?;
        write!(f, "but the key could have held only {possible:?} when the last end before it was explained")
    }
}

/// Judges the history of one key, which is in the order of calls, with [`STEPS_MAX`].
#[must_use]
pub fn judge(history: &[Operation]) -> Verdict {
    judge_within(history, STEPS_MAX)
}

/// Judges with another bound of steps.
#[must_use]
pub fn judge_within(history: &[Operation], steps_max: u64) -> Verdict {
    let mut search = Search::new(history, steps_max);
    for moment in moments(history) {
        match moment {
            Moment::Call(at) => search.open.push(at),
            Moment::End(at) => match search.end(at) {
                Ok(()) => {}
                Err(Stop::Undecided) => return Verdict::Undecided { steps: steps_max },
                Err(Stop::Violation(violation)) => return Verdict::Violation(*violation),
            },
        }
    }
    Verdict::Linearizable
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    Call(usize),
    End(usize),
}

/// Returns calls and ends in their order, without what cannot have had an effect or tells nothing.
fn moments(history: &[Operation]) -> Vec<Moment> {
    let mut moments = Vec::with_capacity(history.len() * 2);
    for (at, operation) in history.iter().enumerate() {
        match operation.end {
            End::Failed => {}
            End::Unknown if operation.op == Op::Get => {}
            End::Unknown => moments.push((operation.called, Moment::Call(at))),
            _ => moments.extend([(operation.called, Moment::Call(at)), (operation.ended, Moment::End(at))]),
        }
    }
    // With equal numbers a call comes first: they may have overlapped.
    moments.sort_by_key(|(number, moment)| (*number, matches!(moment, Moment::End(_))));
    moments.into_iter().map(|(_, moment)| moment).collect()
}

/// What the key holds, and which open operations have taken effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    holds: Option<Value>,
    /// Open operations that will end and have taken effect, in order.
    early: Vec<usize>,
    /// Operations of unknown outcome that have taken effect, in order.
    used: Vec<usize>,
}

enum Stop {
    Undecided,
    Violation(Box<Violation>),
}

struct Search<'a> {
    history: &'a [Operation],
    /// Operations that were called and have not ended.
    open: Vec<usize>,
    ways: Vec<Way>,
    steps: u64,
    steps_max: u64,
}

impl<'a> Search<'a> {
    fn new(history: &'a [Operation], steps_max: u64) -> Self {
        let start = Way { holds: None, early: Vec::new(), used: Vec::new() };
        Self { history, open: Vec::new(), ways: vec![start], steps: 0, steps_max }
    }

    /// Goes on with every way in which operation `at` has taken effect by now.
    fn end(&mut self, at: usize) -> Result<(), Stop> {
        let possible = self.ways.iter().map(|way| way.holds).collect();
        let mut tried = Best::default();
        let mut kept = Best::default();
        let mut left: VecDeque<Way> = std::mem::take(&mut self.ways).into();
        // First those that used up least, so that the others are seen to be no better.
        left.make_contiguous().sort_by_key(|way| way.used.len());
        while let Some(mut way) = left.pop_front() {
            self.steps += 1;
            if self.steps > self.steps_max {
                return Err(Stop::Undecided);
            }
            if let Ok(place) = way.early.binary_search(&at) {
                way.early.remove(place);
                kept.add(way);
                continue;
            }
            if !tried.add(way.clone()) {
                continue;
            }
            left.extend(self.steps_from(&way));
        }
        self.open.retain(|open| *open != at);
        self.ways = kept.into_ways();
        self.forget_used();
        if self.ways.is_empty() {
            let Some(operation) = self.history.get(at).cloned() else { return Err(Stop::Undecided) };
            return Err(Stop::Violation(Box::new(Violation { at, operation, possible })));
        }
        Ok(())
    }

    /// Returns the ways that one more open operation leads to.
    fn steps_from(&self, way: &Way) -> Vec<Way> {
        let mut next = Vec::new();
        let mut asked = BTreeSet::new();
        for at in &self.open {
            let Some(operation) = self.history.get(*at) else { continue };
            let unknown = operation.end == End::Unknown;
            let taken = if unknown { &way.used } else { &way.early };
            let Err(place) = taken.binary_search(at) else { continue };
            // Which of several unknown ones that ask for the same is used makes no difference.
            if unknown && !asked.insert(operation.op) {
                continue;
            }
            let Some(holds) = step(way.holds, operation.op, operation.end) else { continue };
            if unknown && holds == way.holds {
                continue;
            }
            let mut way = Way { holds, ..way.clone() };
            if unknown { &mut way.used } else { &mut way.early }.insert(place, *at);
            next.push(way);
        }
        next
    }

    /// Forgets unknown operations that every way has used: they are settled.
    fn forget_used(&mut self) {
        let Some((first, others)) = self.ways.split_first() else { return };
        let mut settled = first.used.clone();
        settled.retain(|at| others.iter().all(|way| way.used.binary_search(at).is_ok()));
        if !settled.is_empty() {
            self.open.retain(|at| settled.binary_search(at).is_err());
            self.ways.iter_mut().for_each(|way| way.used.retain(|at| settled.binary_search(at).is_err()));
        }
    }
}

/// What an operation finds and leaves, or `None` if it cannot have ended so.
///
/// This is the specification: a key that holds a value or nothing.
fn step(holds: Option<Value>, op: Op, end: End) -> Option<Option<Value>> {
    let met = |only| match only {
        Only::Always => true,
        Only::Absent => holds.is_none(),
        Only::Present => holds.is_some(),
        Only::Is(value) => holds == Some(value),
    };
    let said = |instead| match instead {
        Instead::Unsaid => true,
        Instead::Absent => holds.is_none(),
        Instead::Present => holds.is_some(),
        Instead::Holds(value) => holds == Some(value),
    };
    match (op, end) {
        (Op::Get, End::Read(found)) => (found == holds).then_some(holds),
        (Op::Put(value, only), End::Done) => met(only).then_some(Some(value)),
        (Op::Delete(only), End::Done) => met(only).then_some(None),
        (Op::Put(_, only) | Op::Delete(only), End::Refused(instead)) => (!met(only) && said(instead)).then_some(holds),
        (Op::Add(by), End::Sum(sum)) => (holds.unwrap_or(0).checked_add(by) == Some(sum)).then_some(Some(sum)),
        // Whatever it would have done, if it came to it.
        (Op::Put(value, only), End::Unknown) => Some(if met(only) { Some(value) } else { holds }),
        (Op::Delete(only), End::Unknown) => Some(if met(only) { None } else { holds }),
        (Op::Add(by), End::Unknown) => holds.unwrap_or(0).checked_add(by).map(Some),
        _ => None,
    }
}

/// Ways none of which is at least as good as another: of each value and each list of early operations
/// the lists of used ones.
#[derive(Debug, Default)]
struct Best(HashMap<(Option<Value>, Vec<usize>), Lists>);

type Lists = Vec<Vec<usize>>;

impl Best {
    /// Adds a way unless one is there that is as good; says whether it was added.
    fn add(&mut self, way: Way) -> bool {
        let all = self.0.entry((way.holds, way.early)).or_default();
        if all.iter().any(|used| contains(&way.used, used)) {
            return false;
        }
        all.retain(|used| !contains(used, &way.used));
        all.push(way.used);
        true
    }

    fn into_ways(self) -> Vec<Way> {
        let all = self.0.into_iter();
        all.flat_map(|((holds, early), all)| all.into_iter().map(move |used| Way { holds, early: early.clone(), used }))
            .collect()
    }
}

/// Says whether the ordered list `all` has every item of the ordered list `some`.
fn contains(all: &[usize], some: &[usize]) -> bool {
    let mut all = all.iter();
    some.iter().all(|item| all.by_ref().any(|other| other == item))
}

#[cfg(test)]
mod tests;
