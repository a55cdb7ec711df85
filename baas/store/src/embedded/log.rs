//! The bytes of a change record.
//!
//! namespace length (1), namespace, time in ms (8), write id (16), space (1),
//! name length (2), name, number of rows (2), then per row: flags (1: removed,
//! 2: value follows), sort length (2), sort, and with flag 2 value length (4), value.

use faas_model::Name;
use uuid::Uuid;

use super::layout::{Reader, version};
use crate::{ChangeRecord, ChangedRow, Partition, Space, WallTime, WriteId};

const REMOVED: u8 = 1;
const VALUE: u8 = 2;

/// Writes one record; rows are added one by one.
pub(super) struct Record {
    bytes: Vec<u8>,
    rows_at: usize,
    rows: u16,
}

impl Record {
    pub(super) fn new(partition: &Partition, id: WriteId, at: WallTime) -> Self {
        let namespace = partition.namespace.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(64 + namespace.len() + partition.name.len());
        bytes.push(u8::try_from(namespace.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(namespace);
        bytes.extend_from_slice(&at.0.to_be_bytes());
        bytes.extend_from_slice(id.0.as_bytes());
        bytes.push(partition.space as u8);
        push_short(&mut bytes, &partition.name);
        let rows_at = bytes.len();
        bytes.extend_from_slice(&[0, 0]);
        Self { bytes, rows_at, rows: 0 }
    }

    pub(super) fn put(&mut self, sort: &[u8], value: Option<&[u8]>) {
        self.rows += 1;
        self.bytes.push(if value.is_some() { VALUE } else { 0 });
        push_short(&mut self.bytes, sort);
        if let Some(value) = value {
            self.bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            self.bytes.extend_from_slice(value);
        }
    }

    pub(super) fn removed(&mut self, sort: &[u8]) {
        self.rows += 1;
        self.bytes.push(REMOVED);
        push_short(&mut self.bytes, sort);
    }

    /// Returns the bytes, or `None` if no row changed.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        if self.rows == 0 {
            return None;
        }
        if let Some(slot) = self.bytes.get_mut(self.rows_at..self.rows_at + 2) {
            slot.copy_from_slice(&self.rows.to_be_bytes());
        }
        Some(self.bytes)
    }
}

/// Names and sorts are at most 1,200 bytes long.
fn push_short(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(part);
}

/// Returns whether the record belongs to the namespace, without reading the rest.
pub(super) fn is_of(record: &[u8], namespace: &Name) -> bool {
    let mut reader = Reader(record);
    reader.u8().and_then(|len| reader.bytes(len.into())) == Some(namespace.as_str().as_bytes())
}

/// Returns when the record was written.
pub(super) fn written_at(record: &[u8]) -> Option<WallTime> {
    let mut reader = Reader(record);
    let len = reader.u8()?;
    reader.bytes(len.into())?;
    reader.u64().map(WallTime)
}

/// Reads a record back.
pub(super) fn decode(sequence: u64, record: &[u8]) -> Option<ChangeRecord> {
    let mut reader = Reader(record);
    let len = reader.u8()?;
    let namespace = Name::new(std::str::from_utf8(reader.bytes(len.into())?).ok()?).ok()?;
    reader.u64()?;
    let id = WriteId(Uuid::from_bytes(reader.array()?));
    let space = space(reader.u8()?)?;
    let len = reader.u16()?;
    let name = reader.owned(len.into())?;
    let count = reader.u16()?;
    let rows = (0..count).map(|_| row(&mut reader)).collect::<Option<Vec<_>>>()?;
    Some(ChangeRecord { partition: Partition { namespace, space, name }, id, version: version(sequence), rows })
}

fn row(reader: &mut Reader<'_>) -> Option<ChangedRow> {
    let flags = reader.u8()?;
    let len = reader.u16()?;
    let sort = reader.owned(len.into())?;
    let value = if flags & VALUE == 0 {
        None
    } else {
        let len = reader.u32()?;
        Some(reader.owned(usize::try_from(len).ok()?)?)
    };
    Some(ChangedRow { sort, value, removed: flags & REMOVED != 0 })
}

fn space(byte: u8) -> Option<Space> {
    [Space::Catalog, Space::Value, Space::Document, Space::Code, Space::Journal, Space::Control]
        .into_iter()
        .find(|space| *space as u8 == byte)
}
