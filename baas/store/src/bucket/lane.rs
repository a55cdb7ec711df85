//! Lanes: increments of one key that meet in this process share one write.
//!
//! Without them N clients that read, add and compare-and-set would retry
//! against each other. In a lane one of them leads: it takes every waiting
//! delta, reads once, writes the sum once, and gives each its own partial sum.
//! A leader that leaves (its future is dropped) hands over: before its write
//! the deltas go back into line, after it each follower asks `fate`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::layout::Place;
use super::{Buckets, Change};
use crate::{Fate, Key, Require, StoreError, WriteId};

/// What a follower is told.
type Told = Result<i64, Trouble>;

/// Why a follower got no sum.
#[derive(Debug, Clone)]
enum Trouble {
    /// The outcome.
    Failed(StoreError),
    /// The write that would have made the sum, of which the leader knows no outcome.
    Ask { id: WriteId, sum: i64 },
}

/// A waiting delta.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    delta: i64,
    told: oneshot::Sender<Told>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: Vec<Waiting>,
    tickets: u64,
    /// The write under way for deltas that wait no more.
    writing: Option<WriteId>,
}

/// The line of one key.
#[derive(Debug, Default)]
struct Lane {
    line: Mutex<Line>,
    lead: tokio::sync::Mutex<()>,
}

impl Lane {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, delta: i64) -> (u64, oneshot::Receiver<Told>) {
        let (told, heard) = oneshot::channel();
        let mut line = self.line();
        line.tickets += 1;
        let ticket = line.tickets;
        line.waiting.push(Waiting { ticket, delta, told });
        (ticket, heard)
    }

    /// Takes a delta out of line if it is still there.
    fn leave(&self, ticket: u64) {
        self.line().waiting.retain(|waiting| waiting.ticket != ticket);
    }

    /// Ends the wait of a delta whose time is over.
    ///
    /// The leader looks under the same lock who still listens before it begins to write, so without
    /// a write under way the delta never takes effect.
    fn give_up(&self, ticket: u64, mut heard: oneshot::Receiver<Told>) -> Told {
        let mut line = self.line();
        if let Ok(told) = heard.try_recv() {
            return told;
        }
        let before = line.waiting.len();
        line.waiting.retain(|waiting| waiting.ticket != ticket);
        let waited = line.waiting.len() < before;
        heard.close();
        Err(Trouble::Failed(match line.writing {
            Some(id) if !waited => StoreError::Unknown(id),
            _ => StoreError::Deadline,
        }))
    }
}

/// The lanes in use and how many are in each; the last to leave removes it.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<Key, (Arc<Lane>, usize)>>);

impl Lanes {
    pub(super) async fn increment(
        &self,
        buckets: &Buckets,
        place: Place,
        delta: i64,
        by: Instant,
    ) -> Result<i64, StoreError> {
        loop {
            let hold = Hold::new(self, place.row.clone());
            match hold.add(buckets, &place, delta, by).await {
                Err(Trouble::Failed(error)) => return Err(error),
                Ok(sum) => return Ok(sum),
                // A leader left while it was writing: did it take effect?
                Err(Trouble::Ask { id, sum }) => match buckets.store.fate(&place.row.partition, id, by).await {
                    Ok(Fate::Committed(_)) => return Ok(sum),
                    Ok(Fate::Never) => {}
                    Err(_) => return Err(StoreError::Unknown(id)),
                },
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lanes().is_empty()
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Key, (Arc<Lane>, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a lane; the last to leave removes it.
struct Hold<'a> {
    lanes: &'a Lanes,
    key: Key,
    lane: Arc<Lane>,
}

impl<'a> Hold<'a> {
    fn new(lanes: &'a Lanes, key: Key) -> Self {
        let mut map = lanes.lanes();
        let (lane, holds) = map.entry(key.clone()).or_default();
        *holds += 1;
        let lane = Arc::clone(lane);
        drop(map);
        Self { lanes, key, lane }
    }

    async fn add(&self, buckets: &Buckets, place: &Place, delta: i64, by: Instant) -> Told {
        let (ticket, mut heard) = self.lane.join(delta);
        // A future that is dropped while it waits takes its delta along.
        let _out = Leave(&self.lane, ticket);
        let lead = async {
            tokio::select! {
                biased;
                told = &mut heard => Led::Told(told),
                lead = self.lane.lead.lock() => Led::Lead(lead),
            }
        };
        match timeout_at(by, lead).await {
            Err(_) => {}
            Ok(Led::Told(Ok(told))) => return told,
            Ok(Led::Told(Err(_))) => return Err(Trouble::Failed(StoreError::Deadline)),
            Ok(Led::Lead(lead)) => {
                lead_group(buckets, place, &self.lane, by).await;
                drop(lead);
            }
        }
        self.lane.give_up(ticket, heard)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut lanes = self.lanes.lanes();
        if let Some((_, holds)) = lanes.get_mut(&self.key) {
            *holds -= 1;
            if *holds == 0 {
                lanes.remove(&self.key);
            }
        }
    }
}

enum Led<L> {
    Told(Result<Told, oneshot::error::RecvError>),
    Lead(L),
}

struct Leave<'a>(&'a Lane, u64);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

/// The deltas a leader took, and what becomes of them when it leaves early.
struct Group<'a> {
    lane: &'a Lane,
    members: Vec<Waiting>,
    /// The write under way and the sum of each member.
    writing: Option<(WriteId, Vec<i64>)>,
}

impl Group<'_> {
    fn tell_all(&mut self, error: &StoreError) {
        for member in self.members.drain(..) {
            // Who left needs no word.
            member.told.send(Err(Trouble::Failed(error.clone()))).ok();
        }
    }

    fn tell_sums(&mut self, sums: &[i64]) {
        for (member, sum) in self.members.drain(..).zip(sums) {
            member.told.send(Ok(*sum)).ok();
        }
    }

    /// Adds the delta of each who still listens and begins the write `id`; one that would overflow
    /// is refused and left out.
    fn begin(&mut self, id: WriteId, from: i64) -> Vec<i64> {
        let mut sum = from;
        let mut sums = Vec::with_capacity(self.members.len());
        let mut line = self.lane.line();
        for member in std::mem::take(&mut self.members) {
            if member.told.is_closed() {
                continue;
            }
            if let Some(next) = sum.checked_add(member.delta) {
                sum = next;
                sums.push(sum);
                self.members.push(member);
            } else {
                member.told.send(Err(Trouble::Failed(StoreError::Invalid("the counter would overflow")))).ok();
            }
        }
        line.writing = Some(id);
        drop(line);
        self.writing = Some((id, sums.clone()));
        sums
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        let mut line = self.lane.line();
        line.writing = None;
        match self.writing.take() {
            Some((id, sums)) => {
                for (member, sum) in self.members.drain(..).zip(sums) {
                    member.told.send(Err(Trouble::Ask { id, sum })).ok();
                }
            }
            None => {
                self.members.append(&mut line.waiting);
                std::mem::swap(&mut line.waiting, &mut self.members);
            }
        }
    }
}

/// Reads, adds and writes for everybody in line, until it is settled or the leader's time is over.
async fn lead_group(buckets: &Buckets, place: &Place, lane: &Lane, by: Instant) {
    loop {
        let members = std::mem::take(&mut lane.line().waiting);
        let mut group = Group { lane, members, writing: None };
        let row = match buckets.read(&place.row, by).await {
            Ok(row) => row,
            // Only the leader's time is over: the others go back into line.
            Err(StoreError::Deadline) => return,
            Err(error) => return group.tell_all(&error),
        };
        let Some(from) = row.as_ref().map_or(Some(0), |row| number(&row.value)) else {
            return group.tell_all(&StoreError::Invalid("the value is not a decimal number"));
        };
        let id = WriteId::fresh();
        let sums = group.begin(id, from);
        let Some(total) = sums.last() else {
            group.writing = None;
            return;
        };
        let change = Change::Put {
            sort: place.row.sort.clone(),
            value: Bytes::from(total.to_string()),
            expires: row.as_ref().and_then(|row| row.expires),
            require: row.map_or(Require::Absent, |row| Require::Version(row.version)),
        };
        let result = buckets.change(place.clone(), change, id, by).await;
        if !matches!(result, Err(StoreError::Unknown(_))) {
            group.writing = None;
        }
        match result {
            Ok(_) => return group.tell_sums(&sums),
            // Somebody outside the lane was faster: the group goes back into line and again.
            Err(StoreError::Conflict(_)) => {}
            // Unknown: each member asks for the fate itself. Deadline: the leader's own.
            Err(StoreError::Unknown(_) | StoreError::Deadline) => return,
            Err(error) => return group.tell_all(&error),
        }
    }
}

/// Reads a counter: an ASCII decimal of the range of `i64`.
fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
