//! Bringing everything in.

use std::pin::Pin;
use std::str::FromStr;

use bytes::Bytes;
use faas_model::{Digest, Hasher};
use faas_repo::{CodeRepo, Kept, Upload};
use faas_store::{Change, Fate, Logged, PATIENCE, Partition, Require, Store, StoreError, WallTime, Write, WriteId};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};
use tokio::time::{Instant, sleep};

use crate::line::{FORMAT, Line, Row};
use crate::{Tally, TransferError};

/// Longest line, in bytes: a row of the largest value and names.
pub const LINE_BYTES_MAX: u64 = 2 << 20;
/// Writes on their way at once.
const AT_ONCE: usize = 64;
/// Most rows and bytes of one write; only rows of one partition go together.
const WRITE_ROWS: usize = 100;
const WRITE_BYTES: usize = 512 << 10;
/// Tries of one write while the store is away, and the pause between.
const TRIES_MAX: u32 = 10;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// What is done about a row that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// The import ends and names it.
    #[default]
    Refuse,
    /// It is left as it is.
    Keep,
    /// It is overwritten.
    Replace,
}

impl FromStr for Existing {
    type Err = UnknownExisting;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "keep" => Ok(Self::Keep),
            "replace" => Ok(Self::Replace),
            _ => Err(UnknownExisting),
        }
    }
}

/// Says that a text is none of `refuse`, `keep` and `replace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected refuse, keep or replace")]
pub struct UnknownExisting;

/// Reads an export and brings in what it says.
///
/// # Errors
/// [`TransferError`]; what was brought in before stays. The same import with [`Existing::Keep`] completes it.
pub async fn import(
    store: &dyn Store,
    repo: &dyn CodeRepo,
    existing: Existing,
    input: &mut (dyn AsyncBufRead + Unpin + Send),
) -> Result<Tally, TransferError> {
    let mut desk =
        Desk { store, existing, tally: Tally::default(), batch: Vec::new(), writes: FuturesUnordered::new() };
    let (mut reader, mut code): (_, Option<Incoming>) = (Reader { input, line: 0, hasher: Hasher::default() }, None);
    // Code that no revision uses yet must not be collected before the revisions are in.
    let mut kept: Vec<Kept> = Vec::new();
    loop {
        let (line, before) = reader.next().await?;
        match (&line, &mut code) {
            (Line::Piece { data }, Some(code)) => {
                code.upload.write(&data.0).await?;
                continue;
            }
            (Line::Piece { .. }, None) => return Err(reader.wrong("a piece of no code".into())),
            (_, code) => {
                if let Some(code) = code.take() {
                    kept.push(code.keep(repo, &reader).await?);
                    desk.tally.codes += 1;
                }
            }
        }
        match line {
            Line::Head { format: FORMAT } if reader.line == 1 => {}
            Line::Head { format } if reader.line == 1 => {
                return Err(reader.wrong(format!("format {format}, this program reads {FORMAT}")));
            }
            _ if reader.line == 1 => {
                return Err(reader.wrong("this is no export: its first line must be a head".into()));
            }
            Line::Head { .. } => return Err(reader.wrong("a second head".into())),
            Line::Code { digest, bytes } => {
                code = Some(Incoming { digest, bytes, upload: repo.begin().await? });
            }
            Line::Row(row) => desk.take(row).await?,
            Line::End { lines, digest } => {
                if lines + 1 != reader.line || digest != before {
                    return Err(reader.wrong("the export was changed: count or digest of its lines differ".into()));
                }
                break;
            }
            Line::Piece { .. } => {}
        }
    }
    desk.finish().await
}

/// Code on its way in.
struct Incoming {
    digest: Digest,
    bytes: u64,
    upload: Upload,
}

impl Incoming {
    async fn keep(self, repo: &dyn CodeRepo, reader: &Reader<'_>) -> Result<Kept, TransferError> {
        let blob = self.upload.finish().await?;
        if blob.digest() != self.digest || blob.bytes() != self.bytes {
            return Err(reader.wrong(format!("the pieces before are not code {}", self.digest)));
        }
        Ok(repo.keep(blob).await?)
    }
}

/// Where lines are read, and what was.
struct Reader<'a> {
    input: &'a mut (dyn AsyncBufRead + Unpin + Send),
    line: u64,
    hasher: Hasher,
}

impl Reader<'_> {
    /// Returns the next line, and the digest of all before it.
    async fn next(&mut self) -> Result<(Line, Digest), TransferError> {
        self.line += 1;
        let mut text = Vec::new();
        let mut bounded = Pin::new(&mut *self.input).take(LINE_BYTES_MAX + 1);
        bounded.read_until(b'\n', &mut text).await?;
        if text.len() as u64 > LINE_BYTES_MAX {
            return Err(self.wrong(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        if text.last() != Some(&b'\n') {
            return Err(self.wrong("the export is cut off: its last line is missing".into()));
        }
        let line = serde_json::from_slice(&text).map_err(|e| self.wrong(e.to_string()))?;
        let before = self.hasher.clone().finish();
        self.hasher.update(&text);
        Ok((line, before))
    }

    fn wrong(&self, problem: String) -> TransferError {
        TransferError::Line { line: self.line, problem }
    }
}

/// Where rows are gathered and written.
struct Desk<'a> {
    store: &'a dyn Store,
    existing: Existing,
    tally: Tally,
    /// Rows of one partition.
    batch: Vec<Row>,
    writes: FuturesUnordered<BoxFuture<'a, Result<Tally, TransferError>>>,
}

impl<'a> Desk<'a> {
    async fn take(&mut self, row: Row) -> Result<(), TransferError> {
        let bytes: usize = self.batch.iter().map(|row| row.value.0.len() + row.sort.0.len()).sum();
        let other = self.batch.last().is_some_and(|last| {
            (&last.namespace, last.space, &last.partition) != (&row.namespace, row.space, &row.partition)
        });
        if other || self.batch.len() >= WRITE_ROWS || bytes + row.value.0.len() > WRITE_BYTES {
            self.send().await?;
        }
        self.batch.push(row);
        Ok(())
    }

    /// Sends what was gathered on its way.
    async fn send(&mut self) -> Result<(), TransferError> {
        let rows = std::mem::take(&mut self.batch);
        if rows.is_empty() {
            return Ok(());
        }
        if self.writes.len() >= AT_ONCE {
            self.settle_one().await?;
        }
        self.writes.push(Box::pin(write(self.store, self.existing, rows)));
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), TransferError> {
        if let Some(done) = self.writes.next().await {
            let done = done?;
            self.tally.rows += done.rows;
            self.tally.left += done.left;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Tally, TransferError> {
        self.send().await?;
        while !self.writes.is_empty() {
            self.settle_one().await?;
        }
        Ok(self.tally)
    }
}

/// Writes rows of one partition at once, or one by one where some are there already.
async fn write(store: &dyn Store, existing: Existing, rows: Vec<Row>) -> Result<Tally, TransferError> {
    let mut tally = Tally::default();
    if write_once(store, existing, &rows).await? {
        tally.rows += rows.len() as u64;
        return Ok(tally);
    }
    for row in rows {
        if write_once(store, existing, std::slice::from_ref(&row)).await? {
            tally.rows += 1;
        } else if existing == Existing::Keep {
            tally.left += 1;
        } else {
            let partition = String::from_utf8_lossy(&row.partition.0).into_owned();
            return Err(TransferError::Exists { namespace: row.namespace.to_string(), partition });
        }
    }
    Ok(tally)
}

/// Writes; `false` when one of the rows is there already and may not be overwritten.
async fn write_once(store: &dyn Store, existing: Existing, rows: &[Row]) -> Result<bool, TransferError> {
    let Some(first) = rows.first() else { return Ok(true) };
    let require = if existing == Existing::Replace { Require::Nothing } else { Require::Absent };
    let partition =
        Partition { namespace: first.namespace.clone(), space: first.space, name: first.partition.0.clone() };
    let put = |row: &Row| Change::Put {
        sort: Bytes::clone(&row.sort.0),
        value: Bytes::clone(&row.value.0),
        expires: row.expires_ms.map(WallTime),
        require: require.clone(),
    };
    let mut tries = 0;
    loop {
        let (id, changes) = (WriteId::fresh(), rows.iter().map(put).collect());
        let write = Write { partition: partition.clone(), id, changes, log: Logged::Values };
        let error = match store.write(write, Instant::now() + PATIENCE).await {
            Ok(_) => return Ok(true),
            Err(StoreError::Conflict(_)) => return Ok(false),
            Err(StoreError::Unknown(id)) => match store.fate(&partition, id, Instant::now() + PATIENCE * 2).await {
                Ok(Fate::Committed(_)) => return Ok(true),
                Ok(Fate::Never) => StoreError::Deadline,
                Err(error) => return Err(error.into()),
            },
            Err(error) => error,
        };
        tries += 1;
        if !error.retry() || tries >= TRIES_MAX {
            return Err(error.into());
        }
        sleep(PAUSE).await;
    }
}
