//! What clients asked of single keys and what they were told, in an order that real time allows.
//!
//! Every call and every end takes a number from one counter: the call before anything is sent, the end
//! after the answer is there. So an operation that ended before another was called has the smaller
//! numbers, on any thread and without a clock.
//!
//! A store tells versions apart by tags that it chooses. Here a version is told apart by its value:
//! whoever records gives each put a value that no other put of the key has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What a key holds.
pub type Value = i64;

/// What is asked of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Reads it.
    Get,
    /// Writes a value if the condition holds.
    Put(Value, Only),
    /// Removes it if the condition holds; removing what is not there is done, too.
    Delete(Only),
    /// Adds to it; what is not there is 0.
    Add(Value),
}

/// When a write is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Only {
    /// In any case.
    Always,
    /// If the key is not there.
    Absent,
    /// If it is there.
    Present,
    /// If it holds this value.
    Is(Value),
}

/// How an operation ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A put or a removal was acknowledged.
    Done,
    /// What a read found.
    Read(Option<Value>),
    /// What an addition came to.
    Sum(Value),
    /// The condition did not hold.
    Refused(Instead),
    /// It may take effect at any time from its call on, or never.
    Unknown,
    /// It had no effect and will have none.
    Failed,
}

/// What a refusal said of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instead {
    /// Nothing.
    Unsaid,
    /// That it is not there.
    Absent,
    /// That it is there, with a version whose value nobody learnt.
    Present,
    /// That it holds this value.
    Holds(Value),
}

/// One operation on one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked, for people who read it.
    pub client: u64,
    /// What was asked.
    pub op: Op,
    /// How it ended.
    pub end: End,
    /// The number of its call.
    pub called: u64,
    /// The number of its end.
    pub ended: u64,
}

/// The operations of each key.
pub type Histories = BTreeMap<String, Vec<Operation>>;

/// Records operations; shared by all clients.
#[derive(Debug, Default)]
pub struct Recorder {
    counter: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    histories: Histories,
    /// The value that each tag of a key was seen with.
    tags: BTreeMap<(String, String), Value>,
    /// The tag that each value of a key was seen with.
    values: BTreeMap<(String, Value), String>,
    /// Refusals that named a tag: key, place in its history, tag.
    refusals: Vec<(String, usize, String)>,
    contradictions: Vec<String>,
}

/// An operation that was called; dropped without an end its outcome is unknown.
#[derive(Debug)]
pub struct Called<'a> {
    recorder: &'a Recorder,
    key: String,
    client: u64,
    op: Op,
    called: u64,
    open: bool,
}

impl Recorder {
    /// Notes that `client` asks for `op` from now on.
    pub fn call(&self, key: &str, client: u64, op: Op) -> Called<'_> {
        Called { recorder: self, key: key.to_owned(), client, op, called: self.next(), open: true }
    }

    /// Notes that `key` was seen with `value` under the store's `tag`.
    ///
    /// A tag that had two values, and a value that had two tags, are contradictions: each put has a value
    /// of its own and takes effect once.
    pub fn seen(&self, key: &str, tag: &str, value: Value) {
        let mut state = self.state();
        let before = state.tags.insert((key.to_owned(), tag.to_owned()), value);
        if let Some(before) = before.filter(|before| *before != value) {
            state.contradictions.push(format!("{key}: version {tag} was {before} and is {value}"));
        }
        let before = state.values.insert((key.to_owned(), value), tag.to_owned());
        if let Some(before) = before.filter(|before| before != tag) {
            state.contradictions.push(format!("{key}: {value} was written twice, as versions {before} and {tag}"));
        }
    }

    /// Ends the recording; returns the histories in the order of calls, and the contradictions of tags.
    #[must_use]
    pub fn end(self) -> (Histories, Vec<String>) {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (key, at, tag) in std::mem::take(&mut state.refusals) {
            let value = state.tags.get(&(key.clone(), tag)).copied();
            if let Some(operation) = state.histories.get_mut(&key).and_then(|history| history.get_mut(at)) {
                operation.end = End::Refused(value.map_or(Instead::Present, Instead::Holds));
            }
        }
        state.histories.values_mut().for_each(|history| history.sort_by_key(|operation| operation.called));
        (state.histories, state.contradictions)
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Called<'_> {
    /// Notes how it ended.
    pub fn end(mut self, end: End) {
        self.note(end, None);
    }

    /// Notes that it was refused, and which tag the store named.
    pub fn refused_by(mut self, tag: &str) {
        self.note(End::Refused(Instead::Present), Some(tag));
    }

    fn note(&mut self, end: End, tag: Option<&str>) {
        self.open = false;
        let ended = self.recorder.next();
        let mut state = self.recorder.state();
        let history = state.histories.entry(self.key.clone()).or_default();
        let at = history.len();
        history.push(Operation { client: self.client, op: self.op, end, called: self.called, ended });
        if let Some(tag) = tag {
            state.refusals.push((self.key.clone(), at, tag.to_owned()));
        }
    }
}

impl Drop for Called<'_> {
    fn drop(&mut self) {
        if self.open {
            self.note(End::Unknown, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_tell_what_was_over_before_another_began() {
        let recorder = Recorder::default();
        let first = recorder.call("k", 1, Op::Put(1, Only::Always));
        let second = recorder.call("k", 2, Op::Get);
        first.end(End::Done);
        recorder.call("k", 1, Op::Get).end(End::Read(Some(1)));
        second.end(End::Read(None));
        let (histories, contradictions) = recorder.end();
        let numbers: Vec<_> = histories["k"].iter().map(|o| (o.client, o.called, o.ended)).collect();
        assert_eq!(numbers, [(1, 0, 2), (2, 1, 5), (1, 3, 4)], "in the order of calls");
        assert!(contradictions.is_empty());
    }

    #[test]
    fn a_client_that_goes_away_leaves_an_unknown_outcome() {
        let recorder = Recorder::default();
        drop(recorder.call("k", 1, Op::Delete(Only::Always)));
        assert_eq!(recorder.end().0["k"][0].end, End::Unknown);
    }

    #[test]
    fn a_refusal_names_the_value_of_its_tag_even_if_that_was_learnt_later() {
        let recorder = Recorder::default();
        recorder.call("k", 1, Op::Put(2, Only::Absent)).refused_by("\"a\"");
        recorder.call("k", 1, Op::Put(3, Only::Absent)).refused_by("\"b\"");
        recorder.seen("k", "\"a\"", 7);
        recorder.seen("other", "\"b\"", 8);
        let ends: Vec<_> = recorder.end().0["k"].iter().map(|o| o.end).collect();
        assert_eq!(ends, [End::Refused(Instead::Holds(7)), End::Refused(Instead::Present)]);
    }

    #[test]
    fn a_tag_of_two_values_and_a_value_of_two_tags_are_told() {
        let recorder = Recorder::default();
        recorder.seen("k", "a", 1);
        recorder.seen("k", "a", 1);
        recorder.seen("k", "b", 2);
        recorder.seen("l", "c", 1);
        assert!(recorder.state().contradictions.is_empty());
        recorder.seen("k", "a", 2);
        let (_, told) = recorder.end();
        assert!(told[0].contains("version a was 1 and is 2"), "{told:?}");
        assert!(told[1].contains("2 was written twice, as versions b and a"), "{told:?}");
    }
}
