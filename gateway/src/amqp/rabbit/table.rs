//! Message headers as the table that is published: never larger than a frame may be.
//!
//! The protocol has no way to split a content header: one that is over the
//! frame size ends the connection, and with it every consumer of the broker.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};

use super::super::convert::{PREFIXES, own};
use super::super::queue::Value;
use super::guard::HEADER_MAX;

/// Largest headers table that is published. The properties beside it and what
/// the queue of a tier adds still fit into what is read back.
pub(super) const TABLE_MAX: usize = HEADER_MAX - (6 << 10);

/// Returns the table of `headers`, of at most `max` bytes.
///
/// Whole numbers are written in 8 bytes, whatever the publisher had; where that
/// is too much, every number is written as short as it can be; and where that is
/// too much, only what the platform and the event need is kept, the smallest
/// first, and the number of headers left out.
pub(super) fn table(headers: &BTreeMap<String, Value>, max: usize) -> FieldTable {
    [Width::Usual, Width::Least]
        .into_iter()
        .map(|width| fields(headers, width))
        .find(|table| table_size(table) <= max)
        .unwrap_or_else(|| trimmed(headers, max))
}

fn trimmed(headers: &BTreeMap<String, Value>, max: usize) -> FieldTable {
    let mut kept: Vec<_> = headers.iter().filter_map(|(key, value)| Some((rank(key)?, key, value))).collect();
    let cost = |key: &str, value: &Value| key.len() + 1 + value_size(&to_amqp(value, Width::Least));
    kept.sort_by_cached_key(|(rank, key, value)| (*rank, cost(key, value)));
    let mut table = BTreeMap::new();
    let mut left = max.saturating_sub(4 + own::DROPPED.len() + 10);
    for (_, key, value) in kept {
        if let Some(rest) = left.checked_sub(cost(key, value)) {
            left = rest;
            table.insert(key.clone(), value.clone());
        }
    }
    table.remove(own::DROPPED);
    let earlier = headers.get(own::DROPPED).and_then(Value::as_u64);
    let gone = headers.keys().filter(|key| *key != own::DROPPED && !table.contains_key(*key)).count();
    let gone = u64::try_from(gone).unwrap_or(u64::MAX).saturating_add(earlier.unwrap_or_default());
    table.insert(own::DROPPED.to_owned(), gone.into());
    fields(&table, Width::Least)
}

/// Returns how soon a header is kept where not all can be.
fn rank(key: &str) -> Option<u8> {
    match key {
        _ if own::ALL.contains(&key) => Some(0),
        _ if key.starts_with("x-faas-") => Some(1),
        "traceparent" | "tracestate" => Some(2),
        _ => PREFIXES.iter().any(|p| key.starts_with(p)).then_some(2),
    }
}

/// How many bytes a number is written in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Width {
    /// 8, as most clients do and all can read.
    Usual,
    /// As few as hold it.
    Least,
}

fn fields<'a>(headers: impl IntoIterator<Item = (&'a String, &'a Value)>, width: Width) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in headers {
        if let Ok(key) = ShortString::try_new(key.as_str()) {
            table.insert(key, to_amqp(value, width));
        }
    }
    table
}

/// The guard bounds the nesting, so recursion is bounded too.
pub(super) fn to_amqp(value: &Value, width: Width) -> AMQPValue {
    match (value, width) {
        (Value::Void, _) => AMQPValue::Void,
        (Value::Bool(v), _) => AMQPValue::Boolean(*v),
        (Value::Int(v), Width::Usual) => AMQPValue::LongLongInt(*v),
        (Value::Int(v), Width::Least) => least_int(*v),
        (Value::Float(v), Width::Usual) => AMQPValue::Double(*v),
        (Value::Float(v), Width::Least) => least_float(*v),
        (Value::Text(v), _) => AMQPValue::LongString(v.as_str().into()),
        (Value::Bytes(v), _) => AMQPValue::ByteArray(v.to_vec().into()),
        (Value::Time(v), _) => AMQPValue::Timestamp(*v),
        (Value::List(v), _) => {
            let values: Vec<_> = v.iter().map(|value| to_amqp(value, width)).collect();
            AMQPValue::FieldArray(FieldArray::from(values))
        }
        (Value::Table(v), _) => AMQPValue::FieldTable(fields(v, width)),
    }
}

fn least_int(v: i64) -> AMQPValue {
    let signed = |v: i64| i8::try_from(v).map(AMQPValue::ShortShortInt).ok();
    signed(v)
        .or_else(|| u8::try_from(v).map(AMQPValue::ShortShortUInt).ok())
        .or_else(|| i16::try_from(v).map(AMQPValue::ShortInt).ok())
        .or_else(|| u16::try_from(v).map(AMQPValue::ShortUInt).ok())
        .or_else(|| i32::try_from(v).map(AMQPValue::LongInt).ok())
        .or_else(|| u32::try_from(v).map(AMQPValue::LongUInt).ok())
        .unwrap_or(AMQPValue::LongLongInt(v))
}

fn least_float(v: f64) -> AMQPValue {
    #[allow(clippy::cast_possible_truncation, reason = "taken only where nothing is lost")]
    let short = v as f32;
    if f64::from(short).to_bits() == v.to_bits() { AMQPValue::Float(short) } else { AMQPValue::Double(v) }
}

/// Returns the bytes of a table on the wire (AMQP 0-9-1 §4.2.5.5).
pub(super) fn table_size(table: &FieldTable) -> usize {
    4 + table.inner().iter().map(|(key, value)| 1 + key.as_str().len() + value_size(value)).sum::<usize>()
}

/// Returns the bytes of a value with its type.
fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(v) => 1 + v.as_str().len(),
        AMQPValue::LongString(v) => 4 + v.as_bytes().len(),
        AMQPValue::ByteArray(v) => 4 + v.len(),
        AMQPValue::FieldArray(v) => 4 + v.as_slice().iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(v) => table_size(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: impl IntoIterator<Item = (&'static str, Value)>) -> BTreeMap<String, Value> {
        all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    fn names(table: &FieldTable) -> Vec<&str> {
        table.inner().keys().map(ShortString::as_str).collect()
    }

    fn list(value: Value, count: usize) -> Value {
        Value::List(vec![value; count])
    }

    #[test]
    fn numbers_that_would_outgrow_a_frame_are_written_short_and_none_is_lost() {
        for value in [Value::Int(-7), Value::Int(200), Value::Int(-30_000), Value::Int(60_000), Value::Float(1.5)] {
            let sent = headers([("numbers", list(value, 18_000)), (own::REASON, "rejected".into())]);
            assert!(table_size(&fields(&sent, Width::Usual)) > TABLE_MAX);
            let table = table(&sent, TABLE_MAX);
            assert!(table_size(&table) <= TABLE_MAX);
            assert_eq!(names(&table), ["numbers", own::REASON]);
        }
    }

    #[test]
    fn small_headers_keep_their_eight_bytes() {
        let table = table(&headers([("n", Value::Int(1))]), TABLE_MAX);
        assert_eq!(table.inner().values().next(), Some(&AMQPValue::LongLongInt(1)));
    }

    #[test]
    fn of_headers_too_large_in_any_form_the_needed_ones_stay_and_the_rest_is_counted() {
        let large = || Value::from("x".repeat(TABLE_MAX / 2));
        let sent = headers([
            (own::REASON, "rejected".into()),
            (own::ATTEMPTS, Value::Int(3)),
            ("x-faas-forged", large()),
            ("ce-id", "7".into()),
            ("ce-large", large()),
            ("tenant", "a".into()),
            ("big", large()),
        ]);
        let once = table(&sent, TABLE_MAX);
        assert!(table_size(&once) <= TABLE_MAX);
        assert_eq!(names(&once), ["ce-id", own::ATTEMPTS, "x-faas-forged", own::DROPPED, own::REASON]);
        assert_eq!(once.inner().get(own::DROPPED), Some(&AMQPValue::ShortShortInt(3)));
    }
}
