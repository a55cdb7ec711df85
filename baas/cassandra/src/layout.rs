//! How partitions, outcomes and recorded changes lie in the tables.
//!
//! In a partition of `item`, `kind` tells rows of the seam (0, by their sort) from the outcomes of writes (1, by the
//! id of the write) and recorded changes (2, by when they were tried, then by the id of their write).

use bytes::{BufMut, Bytes, BytesMut};
use faas_model::Name;
use faas_store::{ChangedRow, Partition, Space, StoreError};

/// What became of a write: the state in its outcome row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum Outcome {
    /// It took effect.
    Committed = 1,
    /// `fate` said that it never will.
    Fenced = 2,
}

impl Outcome {
    pub(crate) fn read(value: i8) -> Result<Self, StoreError> {
        match value {
            1 => Ok(Self::Committed),
            2 => Ok(Self::Fenced),
            other => Err(StoreError::Corrupt(format!("an outcome is {other}, not 1 or 2"))),
        }
    }
}

/// Returns what names of a namespace and space are listed by.
pub(crate) fn scope(namespace: &Name, space: Space) -> Bytes {
    let text = namespace.as_str().as_bytes();
    let mut bytes = BytesMut::with_capacity(2 + text.len());
    bytes.put_u8(space as u8);
    // A name of a namespace has at most 63 bytes.
    bytes.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.put_slice(text);
    bytes.freeze()
}

/// Returns the key of a partition: its scope, then its name.
pub(crate) fn part(partition: &Partition) -> Bytes {
    let scope = scope(&partition.namespace, partition.space);
    let mut bytes = BytesMut::with_capacity(scope.len() + partition.name.len());
    bytes.put_slice(&scope);
    bytes.put_slice(&partition.name);
    bytes.freeze()
}

/// Reads the key of a partition.
pub(crate) fn partition(part: &[u8]) -> Result<Partition, StoreError> {
    let damaged = || StoreError::Corrupt("the key of a partition does not read back".into());
    let (&[space, length], rest) = part.split_first_chunk::<2>().ok_or_else(damaged)?;
    let (namespace, name) = rest.split_at_checked(length.into()).ok_or_else(damaged)?;
    let namespace = std::str::from_utf8(namespace).ok().and_then(|text| Name::new(text).ok()).ok_or_else(damaged)?;
    let space = match space {
        1 => Space::Catalog,
        2 => Space::Value,
        3 => Space::Document,
        4 => Space::Code,
        5 => Space::Journal,
        6 => Space::Control,
        _ => return Err(damaged()),
    };
    Ok(Partition { namespace, space, name: Bytes::copy_from_slice(name) })
}

/// Writes the rows of a recorded change: for each its flags, its sort, and its value if it is kept.
pub(crate) fn put_changes(rows: &[ChangedRow]) -> Bytes {
    let mut bytes = BytesMut::new();
    for row in rows {
        bytes.put_u8(u8::from(row.removed) | u8::from(row.value.is_some()) << 1);
        put_bytes(&mut bytes, &row.sort);
        if let Some(value) = &row.value {
            put_bytes(&mut bytes, value);
        }
    }
    bytes.freeze()
}

fn put_bytes(to: &mut BytesMut, bytes: &[u8]) {
    // At most 1 MiB: the bounds of the seam.
    to.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    to.put_slice(bytes);
}

/// Reads the rows of a recorded change.
pub(crate) fn changes(mut bytes: Bytes) -> Result<Vec<ChangedRow>, StoreError> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let flags = bytes.split_to(1).first().copied().unwrap_or_default();
        let sort = take_bytes(&mut bytes)?;
        let value = if flags & 2 == 0 { None } else { Some(take_bytes(&mut bytes)?) };
        rows.push(ChangedRow { sort, value, removed: flags & 1 == 1 });
    }
    Ok(rows)
}

fn take_bytes(from: &mut Bytes) -> Result<Bytes, StoreError> {
    let damaged = || StoreError::Corrupt("a recorded change does not read back".into());
    let length = from.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize).ok_or_else(damaged)?;
    if from.len() - 4 < length {
        return Err(damaged());
    }
    let mut taken = from.split_to(4 + length);
    Ok(taken.split_off(4))
}

/// Returns the sort of a recorded change that was tried at `micros`.
pub(crate) fn change_sort(micros: u64, id: &[u8; 16]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(24);
    bytes.put_u64(micros);
    bytes.put_slice(id);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_partition_reads_back_and_no_two_meet() {
        let at = |namespace: &str, space, name: &'static [u8]| Partition {
            namespace: Name::new(namespace).unwrap(),
            space,
            name: Bytes::from_static(name),
        };
        let all = [
            at("a", Space::Value, b"p"),
            at("a", Space::Value, b"p\0"),
            at("ap", Space::Value, b"p"),
            at("a", Space::Catalog, b"p"),
            at("a", Space::Control, b"pp"),
        ];
        for one in &all {
            assert_eq!(partition(&part(one)).as_ref(), Ok(one));
            assert_eq!(all.iter().filter(|other| part(other) == part(one)).count(), 1);
        }
        for bad in [&b""[..], b"\x02", b"\x02\x05ab", b"\x09\x01ap", b"\x02\x01-p"] {
            assert!(matches!(partition(bad), Err(StoreError::Corrupt(_))), "{bad:?}");
        }
    }

    #[test]
    fn recorded_changes_read_back_and_cut_ones_are_told() {
        let row = |sort: &'static str, value: Option<&'static str>, removed| ChangedRow {
            sort: Bytes::from_static(sort.as_bytes()),
            value: value.map(Bytes::from),
            removed,
        };
        let rows =
            vec![row("", Some("v"), false), row("b", Some(""), false), row("c", None, true), row("d", None, false)];
        let bytes = put_changes(&rows);
        assert_eq!(changes(bytes.clone()), Ok(rows));
        let cuts = (1..bytes.len()).filter(|n| changes(bytes.slice(..*n)).is_ok()).count();
        assert_eq!(cuts, 3, "only between rows");
    }
}
