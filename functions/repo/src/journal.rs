//! The journal of changes: one after the other, whichever process makes them.
//!
//! Layout: partition `#changes` of [`Space::Catalog`] in the default namespace, all values JSON:
//! - `head`: how many changes were recorded, and the one that is being made now;
//! - `coming`: code that may be published soon, the [`COMING_MAX`] last ones;
//! - `n/{number}`: the function that a change was about, for [`KEPT`].
//!
//! A change begins by putting itself into the head, where none may be; then the function's own rows are
//! written in one write with the id that the head tells; then the head is cleared and the change recorded.
//! Of a process that dies in between, any other settles that write by [`Store::fate`], after which it took
//! effect or never will, and clears the head. Nobody compares clocks: each counts from when it saw the
//! head first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use faas_model::manifest::RuntimeKind;
use faas_model::{Digest, FunctionName, Name};
use faas_store::{
    Change, Fate, Logged, Page, Partition, Require, Space, Store, StoreError, Version, WallClock, WriteId,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::records::{self, by, decode, encode};
use crate::turn::{Coming, Held, News, Turn};
use crate::{Config, RepoError};

/// `#` occurs in no name, so no function is called like that.
pub(crate) const PARTITION: &[u8] = b"#changes";
const HEAD: &[u8] = b"head";
const COMING: &[u8] = b"coming";
/// Both of these rows lie in this range.
const TOP: (&[u8], &[u8]) = (COMING, b"heae");
/// Most code that is foretold at once; who listens less often makes ready when it is published.
const COMING_MAX: usize = 16;
/// How long a change is told to those who ask later.
const KEPT: Duration = Duration::from_secs(3600);
/// Tries of one change of a row against others.
const TRIES_MAX: usize = 16;
/// Pauses between looks at a head that somebody else holds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(80));

#[derive(Debug)]
pub(crate) struct Journal {
    store: Arc<dyn Store>,
    /// Names this process.
    me: Uuid,
    /// What expiry is judged by.
    clock: WallClock,
    turn_wait: Duration,
    turn_max: Duration,
    /// The open change that was seen last, and since when.
    watched: Mutex<Option<(WriteId, Instant)>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    last: u64,
    open: Option<Open>,
}

/// The head and what is coming, each with what must hold for it to be written over.
#[derive(Debug)]
struct Top {
    head: Head,
    require: Require,
    coming: Vec<Coming>,
    coming_require: Require,
}

impl Default for Top {
    fn default() -> Self {
        Self { head: Head::default(), require: Require::Absent, coming: Vec::new(), coming_require: Require::Absent }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    function: FunctionName,
    write: WriteId,
}

impl Journal {
    pub(crate) fn new(store: Arc<dyn Store>, clock: WallClock, config: &Config) -> Self {
        let (turn_wait, turn_max) = (config.turn_wait.duration(), config.turn_max.duration());
        Self { store, me: Uuid::now_v7(), clock, turn_wait, turn_max, watched: Mutex::default() }
    }

    /// Waits until no change is open, and opens one.
    pub(crate) async fn turn(&self, function: &FunctionName) -> Result<Turn, RepoError> {
        let (until, mut pause) = (Instant::now() + self.turn_wait, PAUSE.0);
        loop {
            let Top { head, require, .. } = self.top().await?;
            if let Some(open) = head.open {
                if Instant::now() + pause > until {
                    return Err(RepoError::Busy { function: open.function, waited: self.turn_wait });
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
                continue;
            }
            let id = WriteId::fresh();
            let mine = Head { last: head.last, open: Some(Open { function: function.clone(), write: id }) };
            if let Some(version) = self.write(vec![put_head(&mine, require)?]).await? {
                let held = Held { id, head: version, last: head.last };
                return Ok(Turn::new(function.clone(), Some(held)));
            }
        }
    }

    /// Records the change of a turn and lets others have theirs.
    pub(crate) async fn done(&self, function: &FunctionName, held: Held) -> Result<(), RepoError> {
        // Where the head is another one by now, somebody else did it.
        self.close(function, held.last, held.head).await.map(drop)
    }

    /// Tells what changed after the first `after` changes.
    pub(crate) async fn news(&self, after: u64) -> Result<News, RepoError> {
        let Top { head, coming, .. } = self.top().await?;
        let coming = coming.into_iter().filter(|coming| coming.by != self.me).collect();
        let mut news = News { upto: head.last, coming, ..News::default() };
        if head.last > after {
            let rows = records::rows(&*self.store, &partition(), number(after + 1)..number(head.last + 1)).await?;
            for row in &rows {
                news.changed.insert(decode(&row.value, "a recorded change")?);
            }
            news.lost = (rows.len() as u64) < head.last - after;
        }
        news.lost |= head.last < after;
        news.open = head.open.map(|open| open.function);
        Ok(news)
    }

    /// Tells others which code may be published soon. Best effort: nothing depends on it.
    pub(crate) async fn foretell(&self, runtime: RuntimeKind, code: Digest) -> Result<(), RepoError> {
        for _ in 0..TRIES_MAX {
            let Top { mut coming, coming_require: require, .. } = self.top().await?;
            let number = coming.last().map_or(0, |last| last.number) + 1;
            coming.push(Coming::new(number, runtime, code, self.me));
            coming.drain(..coming.len().saturating_sub(COMING_MAX));
            let sort = Bytes::from_static(COMING);
            let put = Change::Put { sort, value: encode(&coming)?, expires: None, require };
            if self.write(vec![put]).await?.is_some() {
                return Ok(());
            }
        }
        Err(StoreError::Conflict(None).into())
    }

    /// Counts a change that is not recorded, so that all who listen find that they missed one.
    pub(crate) async fn skip(&self) -> Result<(), RepoError> {
        for _ in 0..TRIES_MAX {
            let Top { head, require, .. } = self.top().await?;
            if self.write(vec![put_head(&Head { last: head.last + 1, ..head }, require)?]).await?.is_some() {
                return Ok(());
            }
        }
        Err(StoreError::Conflict(None).into())
    }

    /// Reads the head and what is coming; ends a change that was open for too long.
    async fn top(&self) -> Result<Top, RepoError> {
        loop {
            let page = Page { after: None, rows_max: 2, bytes_max: 64 << 10 };
            let (from, to) = TOP;
            let range = Bytes::from_static(from)..Bytes::from_static(to);
            let rows = self.store.scan(&partition(), range, page, by()).await?.items;
            let mut top = Top::default();
            let mut open = None;
            for row in rows {
                if row.sort == COMING {
                    top.coming = decode(&row.value, "what is coming")?;
                    top.coming_require = Require::Version(row.version);
                } else {
                    top.head = decode(&row.value, "the head of the journal")?;
                    top.require = Require::Version(row.version);
                    open = top.head.open.clone().map(|open| (open, row.version));
                }
            }
            match open {
                Some((open, version)) if self.overdue(&open) => self.settle(&open, top.head.last, version).await?,
                _ => return Ok(top),
            }
        }
    }

    /// Returns whether this process has seen the change open for too long.
    fn overdue(&self, open: &Open) -> bool {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        match *watched {
            Some((id, since)) if id == open.write => since.elapsed() >= self.turn_max,
            _ => {
                *watched = Some((open.write, Instant::now()));
                false
            }
        }
    }

    /// Ends a change of which nobody knows whether it was made.
    async fn settle(&self, open: &Open, last: u64, head: Version) -> Result<(), RepoError> {
        let fate = match self.store.fate(&records::partition(&open.function), open.write, by()).await {
            // So old that it can no longer take effect.
            Err(StoreError::Gone) => Fate::Never,
            fate => fate?,
        };
        let made = matches!(fate, Fate::Committed(_));
        tracing::warn!(function = %open.function, made, "a process left the change of a function open; it is ended");
        self.close(&open.function, last, head).await.map(drop)
    }

    async fn close(&self, function: &FunctionName, last: u64, head: Version) -> Result<Option<Version>, RepoError> {
        let (last, expires) = (last + 1, Some(self.clock.now().plus(KEPT)));
        let record = encode(function)?;
        let record = Change::Put { sort: number(last), value: record, expires, require: Require::Nothing };
        self.write(vec![put_head(&Head { last, open: None }, Require::Version(head))?, record]).await
    }

    /// Writes; `None` when the head is another one by now.
    async fn write(&self, changes: Vec<Change>) -> Result<Option<Version>, RepoError> {
        records::write(&*self.store, partition(), WriteId::fresh(), changes, Logged::No).await
    }
}

fn put_head(head: &Head, require: Require) -> Result<Change, RepoError> {
    Ok(Change::Put { sort: Bytes::from_static(HEAD), value: encode(head)?, expires: None, require })
}

fn partition() -> Partition {
    Partition { namespace: Name::namespace_default(), space: Space::Catalog, name: Bytes::from_static(PARTITION) }
}

/// Returns the sort of a recorded change; their order is that of the numbers.
fn number(n: u64) -> Bytes {
    format!("n/{n:016x}").into()
}
