//! Leases: which of several processes does a piece of background work.
//!
//! No clocks are compared. Who holds a lease writes its row anew at each [`Lease::tick`]; who does not takes it
//! over when it saw the same row for the whole term, by its own clock. So a holder that is held still may go on
//! for a moment beside the next one: work that must not be done twice names its [`Token`] in what it writes, or
//! makes each change depend on the version it read (M. Kleppmann, "How to do distributed locking", 2016).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    Change, Key, Logged, PATIENCE, Partition, Read, Require, Row, Space, Store, StoreError, Version, Write, WriteId,
};

/// Says which holding of a lease something was done in; each holder's is larger than those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token(pub u64);

/// One process's part in a lease.
///
/// Layout: partition `lease/NAME` of [`Space::Control`] in the default namespace; one row, JSON.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn Store>,
    key: Key,
    holder: Uuid,
    term: Duration,
    /// The row of another that was seen last, and since when.
    watched: Mutex<Option<(Version, Instant)>>,
}

#[derive(Serialize, Deserialize)]
struct Holding {
    holder: Uuid,
    token: Token,
}

impl Lease {
    /// Returns this process's part in the lease of that name. A holder that is silent for `term` loses it.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, name: &str, term: Duration) -> Self {
        let partition = Partition {
            namespace: Name::namespace_default(),
            space: Space::Control,
            name: Bytes::from(format!("lease/{name}")),
        };
        let key = Key { partition, sort: Bytes::new() };
        Self { store, key, holder: Uuid::now_v7(), term, watched: Mutex::default() }
    }

    /// Takes the lease where it is free, or keeps it; `None` when another has it.
    ///
    /// # Errors
    /// What the store failed with; the lease is then not held.
    pub async fn tick(&self) -> Result<Option<Token>, StoreError> {
        let by = Instant::now() + PATIENCE;
        let row = self.store.get(&self.key, Read::Linearizable, by).await?;
        let (token, require) = match &row {
            None => (Token(1), Require::Absent),
            Some(row) => match self.next(row)? {
                Some(token) => (token, Require::Version(row.version)),
                None => return Ok(None),
            },
        };
        let value = serde_json::to_vec(&Holding { holder: self.holder, token });
        let value = value.map_err(|e| StoreError::Corrupt(e.to_string()))?.into();
        let put = Change::Put { sort: Bytes::new(), value, expires: None, require };
        let write =
            Write { partition: self.key.partition.clone(), id: WriteId::fresh(), changes: vec![put], log: Logged::No };
        match self.store.write(write, by).await {
            Ok(_) => Ok(Some(token)),
            Err(StoreError::Conflict(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the token to write over a row, if it may be written over.
    fn next(&self, row: &Row) -> Result<Option<Token>, StoreError> {
        let held: Holding = serde_json::from_slice(&row.value)
            .map_err(|e| StoreError::Corrupt(format!("a lease does not read back: {e}")))?;
        if held.holder == self.holder {
            return Ok(Some(held.token));
        }
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        match *watched {
            Some((version, since)) if version == row.version => {
                Ok((since.elapsed() >= self.term).then_some(Token(held.token.0 + 1)))
            }
            _ => {
                *watched = Some((row.version, Instant::now()));
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    const TERM: Duration = Duration::from_secs(10);

    fn two() -> [Lease; 2] {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        [(); 2].map(|()| Lease::new(store.clone(), "work", TERM))
    }

    #[tokio::test(start_paused = true)]
    async fn one_holds_it_as_long_as_it_says_so() {
        let [one, two] = two();
        for _ in 0..5 {
            assert_eq!(one.tick().await, Ok(Some(Token(1))));
            assert_eq!(two.tick().await, Ok(None));
            tokio::time::advance(TERM - Duration::from_millis(1)).await;
            assert_eq!(two.tick().await, Ok(None), "just before the term is over");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_holder_loses_it_at_the_end_of_the_term_and_learns_so() {
        let [one, two] = two();
        assert_eq!((one.tick().await, two.tick().await), (Ok(Some(Token(1))), Ok(None)));
        tokio::time::advance(TERM).await;
        assert_eq!(two.tick().await, Ok(Some(Token(2))));
        assert_eq!((one.tick().await, two.tick().await), (Ok(None), Ok(Some(Token(2)))));
        tokio::time::advance(TERM).await;
        assert_eq!(one.tick().await, Ok(None), "the other one spoke since");
        tokio::time::advance(TERM).await;
        assert_eq!(one.tick().await, Ok(Some(Token(3))));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_want_it_at_once_one_gets_it() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let mut all: Vec<_> = (0..20).map(|_| Lease::new(store.clone(), "work", TERM)).collect();
        for round in 1..=3 {
            let held = futures_util::future::join_all(all.iter().map(Lease::tick)).await;
            let held: Vec<_> = held.into_iter().map(Result::unwrap).collect();
            assert_eq!(held.iter().flatten().collect::<Vec<_>>(), [&Token(round)]);
            // The holder dies; the others have seen its row when the term begins.
            all.remove(held.iter().position(Option::is_some).unwrap());
            for lease in &all {
                assert_eq!(lease.tick().await, Ok(None));
            }
            tokio::time::advance(TERM).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leases_of_other_names_do_not_meet() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let (one, two) = (Lease::new(store.clone(), "a", TERM), Lease::new(store, "b", TERM));
        assert_eq!((one.tick().await, two.tick().await), (Ok(Some(Token(1))), Ok(Some(Token(1)))));
    }
}
