//! Reads from one consistent cut, inline on the caller's task; long ones in turns with other tasks.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use faas_model::Name;

use super::engine::{Engine, EngineError, View};
use super::layout::{self, Meta};
use super::log;
use super::writer::refusal;
use crate::cursor::{self, Kind};
use crate::{ChangeRecord, Key, Page, Partition, Row, Slice, Space, StoreError, WallTime, bounds};

/// Most rows looked at for one slice, live or not.
const LOOKS_MAX: usize = 20_000;
/// Keys that a `get_many` reads in one turn.
const TURN_KEYS: usize = 32;
/// Bytes of values after which the turn of a `get_many` ends.
const TURN_BYTES: usize = 1 << 20;
/// Cuts that a `get_many` begins with at most.
const CUTS_MAX: usize = 4;
/// Rows of one partition that are walked over before seeking past it is cheaper.
const WALK_MAX: usize = 16;

pub(super) fn get(engine: &Engine, key: &Key, now: WallTime) -> Result<Option<Row>, EngineError> {
    engine.read(|view| one(view, key, now))
}

/// Reads many rows from one cut, in turns with other tasks.
///
/// A cut that a commit replaced between two turns is gone, and reading begins again; the last try
/// takes no turns, so that it ends under any load.
pub(super) async fn get_many(engine: &Engine, keys: &[Key], now: WallTime) -> Result<Vec<Option<Row>>, StoreError> {
    let mut many = Many::default();
    let mut view = engine.view().map_err(|error| refusal(&error))?;
    let mut cuts = 1;
    loop {
        let turns = cuts < CUTS_MAX;
        if many.read(&view, keys, now, turns)? {
            return Ok(many.rows);
        }
        let held = Arc::downgrade(&view);
        drop(view);
        tokio::task::yield_now().await;
        view = match held.upgrade() {
            Some(view) => view,
            None => {
                cuts += 1;
                many = Many::default();
                engine.view().map_err(|error| refusal(&error))?
            }
        };
    }
}

/// What a `get_many` has read so far.
#[derive(Default)]
struct Many<'k> {
    rows: Vec<Option<Row>>,
    /// Where each key was read first.
    seen: HashMap<&'k Key, usize>,
    bytes: usize,
}

impl<'k> Many<'k> {
    /// Reads on, with `turns` no more than one turn; returns whether all is read.
    fn read(&mut self, view: &View, keys: &'k [Key], now: WallTime, turns: bool) -> Result<bool, StoreError> {
        let (from, bytes_before) = (self.rows.len(), self.bytes);
        for key in keys.iter().skip(from) {
            let (here, read) = (self.rows.len(), self.bytes - bytes_before);
            if turns && (here - from >= TURN_KEYS || read >= TURN_BYTES) {
                return Ok(false);
            }
            let first = *self.seen.entry(key).or_insert(here);
            let row = match self.rows.get(first) {
                Some(row) => row.clone(),
                None => one(view, key, now).map_err(|error| refusal(&error))?,
            };
            bounds::add_to_answer(&mut self.bytes, row.as_ref())?;
            self.rows.push(row);
        }
        Ok(true)
    }
}

fn one(view: &View, key: &Key, now: WallTime) -> Result<Option<Row>, EngineError> {
    let stored = layout::row_key(&key.partition, &key.sort);
    Ok(view.get(&stored, |stored| layout::live_row(&key.sort, stored, now))?.transpose()?.flatten())
}

/// Collects a page.
struct Filling<T> {
    items: Vec<T>,
    rows_max: usize,
    bytes_max: usize,
    bytes: usize,
    looks: usize,
    failed: Option<EngineError>,
}

impl<T> Filling<T> {
    fn new(page: &Page) -> Self {
        Self {
            items: Vec::new(),
            rows_max: page.rows_max as usize,
            bytes_max: page.bytes_max as usize,
            bytes: 0,
            looks: 0,
            failed: None,
        }
    }

    /// Returns whether one more item of this size fits; at least one does.
    fn fits(&self, bytes: usize) -> bool {
        self.items.is_empty() || (self.items.len() < self.rows_max && self.bytes + bytes <= self.bytes_max)
    }

    fn add(&mut self, item: T, bytes: usize) {
        self.bytes += bytes;
        self.items.push(item);
    }

    fn fail(&mut self, error: EngineError) -> ControlFlow<()> {
        self.failed = Some(error);
        ControlFlow::Break(())
    }

    fn check(&mut self) -> Result<(), EngineError> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

pub(super) fn scan(
    engine: &Engine,
    partition: &Partition,
    range: &Range<Bytes>,
    page: &Page,
    now: WallTime,
) -> Result<Slice<Row>, StoreError> {
    let prefix = layout::partition_prefix(partition, 0);
    let mut from = [&prefix[..], &range.start].concat();
    if let Some(at) = cursor::open(Kind::Scan, page)? {
        from = from.max([&prefix[..], at].concat());
    }
    let to = if range.end.is_empty() { layout::after_prefix(&prefix) } else { [&prefix[..], &range.end].concat() };
    let mut filling = Filling::new(page);
    // Where the next page begins, if there is one.
    let mut next = None;
    let read = engine.read(|view| {
        view.range(&from, &to, |key, stored| {
            let sort = key.get(prefix.len()..).unwrap_or_default();
            filling.looks += 1;
            match layout::live_row(sort, stored, now) {
                Err(error) => return filling.fail(error),
                Ok(Some(row)) if filling.fits(row.value.len()) => {
                    let bytes = row.value.len();
                    filling.add(row, bytes);
                }
                Ok(None) if filling.looks < LOOKS_MAX => {}
                Ok(_) => {
                    next = Some(cursor::seal(Kind::Scan, sort));
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        filling.check()
    });
    read.map_err(|error| refusal(&error))?;
    Ok(Slice { items: filling.items, next })
}

pub(super) fn partitions(
    engine: &Engine,
    namespace: &Name,
    space: Space,
    prefix: &[u8],
    page: &Page,
    now: WallTime,
) -> Result<Slice<Bytes>, StoreError> {
    let base = layout::space_prefix(namespace, space, prefix.len() + 2);
    let mut from = base.clone();
    layout::escape(&mut from, prefix);
    let to = layout::after_prefix(&from);
    if let Some(after) = cursor::open(Kind::Partitions, page)? {
        from = from.max([&base[..], after].concat());
    }
    let mut names = Names { base, now, filling: Filling::new(page), listed: Vec::new(), walked: 0 };
    let read = engine.read(|view| {
        loop {
            match names.walk(view, &from, &to)? {
                Walk::End => return Ok(None),
                Walk::Full(at) => return Ok(Some(at)),
                Walk::Past => from = [&names.base[..], &past(&names.listed)].concat(),
            }
        }
    });
    let next = read.map_err(|error| refusal(&error))?;
    Ok(Slice { items: names.filling.items, next: next.map(|at| cursor::seal(Kind::Partitions, &at)) })
}

/// Returns the first key after every row of a partition: behind its terminator `00 00`, before an
/// escaped zero `00 FF`.
fn past(escaped: &[u8]) -> Vec<u8> {
    let mut key = escaped.to_vec();
    if let Some(last) = key.last_mut() {
        *last = 1;
    }
    key
}

/// A walk over the partitions of a space.
struct Names {
    base: Vec<u8>,
    now: WallTime,
    filling: Filling<Bytes>,
    /// The newest name that was listed, escaped and with its terminator.
    listed: Vec<u8>,
    /// How many more of its rows were walked over.
    walked: usize,
}

enum Walk {
    End,
    /// The page is full; the next one begins at this key, without the base.
    Full(Vec<u8>),
    /// The listed partition has many rows: seek past it.
    Past,
}

impl Names {
    fn walk(&mut self, view: &View, from: &[u8], to: &[u8]) -> Result<Walk, EngineError> {
        let mut walk = Walk::End;
        view.range(from, to, |key, stored| match self.look(key, stored) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(found)) => {
                walk = found;
                ControlFlow::Break(())
            }
            Err(error) => self.filling.fail(error),
        })?;
        self.filling.check()?;
        Ok(walk)
    }

    fn look(&mut self, key: &[u8], stored: &[u8]) -> Result<Option<Walk>, EngineError> {
        let rest = key.get(self.base.len()..).unwrap_or_default();
        self.filling.looks += 1;
        if !self.listed.is_empty() && rest.starts_with(&self.listed) {
            self.walked += 1;
            return Ok((self.walked >= WALK_MAX).then_some(Walk::Past));
        }
        let (header, _) = layout::split_row(stored)?;
        if crate::clock::expired(header.expires, self.now) {
            let far = self.filling.looks >= LOOKS_MAX;
            return Ok(far.then(|| Walk::Full([rest, &[0]].concat())));
        }
        let Some((name, escaped)) = layout::split_name(rest) else {
            return Err(EngineError::Corrupt("a row's key has no partition".into()));
        };
        if !self.filling.fits(name.len()) {
            return Ok(Some(Walk::Full(past(&self.listed))));
        }
        let bytes = name.len();
        self.filling.add(name.into(), bytes);
        self.listed.clear();
        self.listed.extend_from_slice(rest.get(..escaped).unwrap_or_default());
        self.walked = 0;
        Ok(None)
    }
}

pub(super) fn changes(engine: &Engine, namespace: &Name, page: &Page) -> Result<Slice<ChangeRecord>, StoreError> {
    let after = match cursor::open(Kind::Changes, page)? {
        None => None,
        Some(bytes) => Some(u64::from_be_bytes(bytes.try_into().map_err(|_| cursor::FOREIGN)?)),
    };
    let mut filling = Filling::new(page);
    let mut last = None;
    let read = engine.read(|view| {
        let meta = view.get(layout::META, Meta::decode)?.flatten().unwrap_or_default();
        if after.is_some_and(|after| after < meta.log_trimmed) {
            return Ok(false);
        }
        let from = after.unwrap_or(0).saturating_add(1);
        // Unless the page fills up before, everything up to here was seen.
        last = Some(meta.sequence.max(from - 1));
        view.range(&layout::log_key(from), layout::LOG_END, |key, record| {
            let sequence = layout::log_sequence(key).unwrap_or_default();
            filling.looks += 1;
            if log::is_of(record, namespace) {
                if !filling.fits(record.len()) {
                    last = Some(sequence - 1);
                    return ControlFlow::Break(());
                }
                match log::decode(sequence, record) {
                    Some(change) => filling.add(change, record.len()),
                    None => return filling.fail(EngineError::Corrupt(format!("change record {sequence}"))),
                }
            }
            if filling.looks >= LOOKS_MAX {
                last = Some(sequence);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        filling.check()?;
        Ok(true)
    });
    if !read.map_err(|error| refusal(&error))? {
        return Err(StoreError::Gone);
    }
    let next = last.map(|sequence| cursor::seal(Kind::Changes, &sequence.to_be_bytes()));
    Ok(Slice { items: filling.items, next })
}
