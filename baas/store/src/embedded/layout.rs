//! How keys and rows lie in the engine's one table, in byte order.
//!
//! | first byte | rest of the key | value |
//! |---|---|---|
//! | `0x00` | nothing | [`Meta`] |
//! | space, `0x01..=0x06` | namespace length (1), namespace, name escaped, `00 00`, sort | sequence (8), expiry in ms or 0 (8), value |
//! | `0xF0` | expiry in ms (8), row key | nothing |
//! | `0xF1` | sequence (8) | a change record, see `log` |
//!
//! Integers are big-endian. In the name `00` is written `00 FF`, so the
//! terminator `00 00` keeps names in byte order, which a length before them
//! would not: keys list by prefix straight from the tree.

use bytes::Bytes;
use faas_model::Name;

use super::engine::{EngineError, copied};
use crate::{Partition, Row, Space, Version, WallTime};

pub(super) const META: &[u8] = &[0x00];
const EXPIRY: u8 = 0xF0;
const LOG: u8 = 0xF1;
const ROW_HEADER: usize = 16;

/// Returns the bytes before the name of every partition of a space.
pub(super) fn space_prefix(namespace: &Name, space: Space, capacity: usize) -> Vec<u8> {
    let namespace = namespace.as_str().as_bytes();
    let mut key = Vec::with_capacity(4 + namespace.len() + capacity);
    key.push(space as u8);
    // A `Name` has at most 63 bytes.
    key.push(u8::try_from(namespace.len()).unwrap_or(u8::MAX));
    key.extend_from_slice(namespace);
    key
}

pub(super) fn escape(key: &mut Vec<u8>, name: &[u8]) {
    for byte in name {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xFF);
        }
    }
}

/// Returns the bytes before the sort of every row of a partition.
pub(super) fn partition_prefix(partition: &Partition, sort_len: usize) -> Vec<u8> {
    let mut key = space_prefix(&partition.namespace, partition.space, partition.name.len() + 2 + sort_len);
    escape(&mut key, &partition.name);
    key.extend_from_slice(&[0, 0]);
    key
}

pub(super) fn row_key(partition: &Partition, sort: &[u8]) -> Vec<u8> {
    let mut key = partition_prefix(partition, sort.len());
    key.extend_from_slice(sort);
    key
}

/// Splits what follows the space prefix into the name, unescaped, and the length of its escaped form
/// with the terminator.
pub(super) fn split_name(rest: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter().enumerate();
    while let Some((_, byte)) = bytes.next() {
        if *byte != 0 {
            name.push(*byte);
            continue;
        }
        match bytes.next()? {
            (_, 0xFF) => name.push(0),
            (at, 0x00) => return Some((name, at + 1)),
            _ => return None,
        }
    }
    None
}

/// Returns the first key after everything that starts with `prefix`.
pub(super) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // Only a prefix of 0xFF bytes gets here; no key starts with one.
    vec![0xFF]
}

/// What is stored before a row's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    pub(super) expires: Option<WallTime>,
}

pub(super) fn version(sequence: u64) -> Version {
    Version(u128::from(sequence).to_be_bytes())
}

pub(super) fn row_value(into: &mut Vec<u8>, header: Header, value: &[u8]) {
    into.clear();
    into.extend_from_slice(&header.sequence.to_be_bytes());
    into.extend_from_slice(&header.expires.map_or(0, |at| at.0).to_be_bytes());
    into.extend_from_slice(value);
}

/// Splits a stored row.
pub(super) fn split_row(stored: &[u8]) -> Result<(Header, &[u8]), EngineError> {
    let mut reader = Reader(stored);
    let (Some(sequence), Some(expires)) = (reader.u64(), reader.u64()) else {
        return Err(EngineError::Corrupt(format!("a row of {} bytes has no header of {ROW_HEADER}", stored.len())));
    };
    Ok((Header { sequence, expires: (expires != 0).then_some(WallTime(expires)) }, reader.0))
}

/// Returns the row, or `None` if it is expired.
pub(super) fn live_row(sort: &[u8], stored: &[u8], now: WallTime) -> Result<Option<Row>, EngineError> {
    let (header, value) = split_row(stored)?;
    if crate::clock::expired(header.expires, now) {
        return Ok(None);
    }
    Ok(Some(Row {
        sort: copied(sort),
        value: copied(value),
        version: version(header.sequence),
        expires: header.expires,
    }))
}

pub(super) fn expiry_key(at: WallTime, row_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + row_key.len());
    key.push(EXPIRY);
    key.extend_from_slice(&at.0.to_be_bytes());
    key.extend_from_slice(row_key);
    key
}

/// Splits an expiry entry's key into its time and the row's key.
pub(super) fn split_expiry(key: &[u8]) -> Option<(WallTime, &[u8])> {
    let mut reader = Reader(key.strip_prefix(&[EXPIRY])?);
    Some((WallTime(reader.u64()?), reader.0))
}

pub(super) fn log_key(sequence: u64) -> [u8; 9] {
    let mut key = [LOG; 9];
    if let Some(tail) = key.get_mut(1..) {
        tail.copy_from_slice(&sequence.to_be_bytes());
    }
    key
}

/// Returns the key after the last of the log.
pub(super) const LOG_END: &[u8] = &[LOG + 1];

pub(super) fn log_sequence(key: &[u8]) -> Option<u64> {
    Reader(key.strip_prefix(&[LOG])?).u64()
}

/// The counters of the store, written with every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Meta {
    /// The newest sequence number given away.
    pub(super) sequence: u64,
    /// Records in the change log.
    pub(super) log_records: u64,
    /// Bytes of their values.
    pub(super) log_bytes: u64,
    /// The newest sequence number that retention removed from the log.
    pub(super) log_trimmed: u64,
}

impl Meta {
    const FORMAT: u8 = 1;

    pub(super) fn encode(&self) -> [u8; 33] {
        let mut out = [Self::FORMAT; 33];
        let numbers = [self.sequence, self.log_records, self.log_bytes, self.log_trimmed];
        for (slot, number) in out.iter_mut().skip(1).zip(numbers.iter().flat_map(|n| n.to_be_bytes())) {
            *slot = number;
        }
        out
    }

    /// Returns the counters, or `None` for another format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes.strip_prefix(&[Self::FORMAT])?);
        Some(Self {
            sequence: reader.u64()?,
            log_records: reader.u64()?,
            log_bytes: reader.u64()?,
            log_trimmed: reader.u64()?,
        })
    }
}

/// Takes big-endian parts off the front of bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn owned(&mut self, len: usize) -> Option<Bytes> {
        self.bytes(len).map(copied)
    }
}
