//! Clients that contend for a few keys with conditional writes, and record what they asked and were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::history::{Called, End, Instead, Only, Op, Recorder, Value};

/// What a store tells versions apart by.
pub type Tag = String;

/// A condition as a store takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum If {
    /// In any case.
    Always,
    /// If the key is not there.
    Absent,
    /// If it is there.
    Present,
    /// If it has this version.
    Tag(Tag),
}

/// What is asked of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Reads the key.
    Get,
    /// Writes it.
    Put(Value, If),
    /// Removes it.
    Delete(If),
    /// Adds to it.
    Add(Value),
}

/// What a store answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What a read found.
    Found(Option<(Value, Tag)>),
    /// A value was written and is this version.
    Written(Tag),
    /// The key was removed.
    Removed,
    /// What an addition came to.
    Sum(Value),
    /// The condition did not hold; the version that is there, if any is.
    Refused(Option<Tag>),
    /// It may take effect later, or never.
    Unknown,
    /// It had no effect and will have none.
    Failed,
}

/// A store as contenders see it.
pub trait Door {
    /// Asks once; nothing is repeated, since a repeat would be another operation.
    fn ask(&self, key: &str, ask: Ask) -> impl Future<Output = Answer> + Send;
}

/// What contenders do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Game {
    /// Values, each another, with conditions.
    Values,
    /// Additions of 1 to a number.
    Counter,
}

/// A client.
#[derive(Debug)]
pub struct Contender {
    client: u64,
    random: ChaCha8Rng,
    /// The last value that any contender has put.
    fresh: Arc<AtomicI64>,
    /// What the key was when this client last saw it.
    seen: Option<(Value, Tag)>,
}

impl Contender {
    /// Returns client number `client` of those who share `fresh`, with choices from `seed`.
    #[must_use]
    pub fn new(client: u64, seed: u64, fresh: Arc<AtomicI64>) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(client);
        Self { client, random, fresh, seen: None }
    }

    /// Forgets what it saw: it goes on with another key.
    pub fn turn_away(&mut self) {
        self.seen = None;
    }

    /// Asks something of `key`, waits for the answer and records both.
    ///
    /// # Cancel safety
    /// Dropping the future records an unknown outcome.
    pub async fn ask(&mut self, door: &impl Door, recorder: &Recorder, key: &str, game: Game) {
        let (op, ask) = self.choose(game);
        let called = recorder.call(key, self.client, op);
        let answer = door.ask(key, ask).await;
        self.note(called, recorder, key, (op, game), answer);
    }

    fn choose(&mut self, game: Game) -> (Op, Ask) {
        let chance = self.random.random_range(0..100);
        if game == Game::Counter {
            return if chance < 30 { (Op::Get, Ask::Get) } else { (Op::Add(1), Ask::Add(1)) };
        }
        let (only, condition) = match (self.random.random_range(0..10), &self.seen) {
            (0..6, Some((value, tag))) => (Only::Is(*value), If::Tag(tag.clone())),
            (0..8, _) => (Only::Absent, If::Absent),
            (8, _) => (Only::Present, If::Present),
            _ => (Only::Always, If::Always),
        };
        match chance {
            0..35 => (Op::Get, Ask::Get),
            35..90 => {
                let value = self.fresh.fetch_add(1, Ordering::SeqCst) + 1;
                (Op::Put(value, only), Ask::Put(value, condition))
            }
            _ => (Op::Delete(only), Ask::Delete(condition)),
        }
    }

    fn note(&mut self, called: Called<'_>, recorder: &Recorder, key: &str, (op, game): (Op, Game), answer: Answer) {
        match (op, answer) {
            (Op::Get, Answer::Found(found)) => {
                // Numbers come again: their versions tell nothing.
                if let Some((value, tag)) = found.as_ref().filter(|_| game == Game::Values) {
                    recorder.seen(key, tag, *value);
                }
                called.end(End::Read(found.as_ref().map(|(value, _)| *value)));
                self.seen = found;
            }
            (Op::Put(value, _), Answer::Written(tag)) => {
                recorder.seen(key, &tag, value);
                called.end(End::Done);
                self.seen = Some((value, tag));
            }
            (Op::Delete(_), Answer::Removed) => {
                called.end(End::Done);
                self.seen = None;
            }
            (Op::Add(_), Answer::Sum(sum)) => called.end(End::Sum(sum)),
            (Op::Put(..) | Op::Delete(_), Answer::Refused(Some(tag))) => called.refused_by(&tag),
            (Op::Put(..) | Op::Delete(_), Answer::Refused(None)) => called.end(End::Refused(Instead::Absent)),
            (_, Answer::Failed) => called.end(End::Failed),
            // What answers another question says nothing.
            (_, _) => called.end(End::Unknown),
        }
    }
}
