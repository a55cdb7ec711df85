//! Every bound at its edge: one less, the bound, one more.

use bytes::Bytes;

use super::{Subject, by, key, page, partition, put, write};
use crate::{
    Bound, CHANGES_MAX, Change, GET_MANY_BYTES_MAX, KEYS_MAX, PAGE_ROWS_MAX, PARTITION_BYTES_MAX, Page,
    ROW_VALUE_BYTES_MAX, Require, SORT_BYTES_MAX, StoreError, WRITE_BYTES_MAX, Write,
};

fn of_value(sort: &str, bytes: usize) -> Change {
    let sort = Bytes::copy_from_slice(sort.as_bytes());
    Change::Put { sort, value: Bytes::from(vec![7; bytes]), expires: None, require: Require::Nothing }
}

fn expect<T: std::fmt::Debug>(result: Result<T, StoreError>, what: Bound, is: usize, max: usize) {
    match result {
        Ok(_) => assert!(is <= max, "{what}: {is} was let in, the bound is {max}"),
        Err(error) => {
            assert!(is > max, "{what}: {is} of {max} was refused: {error:?}");
            assert_eq!(error, StoreError::TooLarge { what, max: max as u64 });
        }
    }
}

pub(super) async fn every_bound_holds_at_its_edge(s: Subject) {
    let edge = |max: usize| [max - 1, max, max + 1];
    let put_to = async |write: Write| s.store.write(write, by()).await;
    for is in edge(PARTITION_BYTES_MAX) {
        let name = "n".repeat(is);
        expect(put_to(write(&name, vec![of_value("", 1)])).await, Bound::PartitionBytes, is, PARTITION_BYTES_MAX);
        let read = s.store.get(&key(&name, ""), crate::Read::Linearizable, by()).await;
        expect(read, Bound::PartitionBytes, is, PARTITION_BYTES_MAX);
    }
    for is in edge(SORT_BYTES_MAX) {
        let sort = "s".repeat(is);
        expect(put_to(write("p", vec![of_value(&sort, 1)])).await, Bound::SortBytes, is, SORT_BYTES_MAX);
    }
    for is in edge(ROW_VALUE_BYTES_MAX) {
        expect(put_to(write("p", vec![of_value("v", is)])).await, Bound::ValueBytes, is, ROW_VALUE_BYTES_MAX);
        if is <= ROW_VALUE_BYTES_MAX {
            assert_eq!(s.value("p", "v").await.map(|value| value.len()), Some(is));
        }
    }
    for is in edge(CHANGES_MAX) {
        let changes = (0..is).map(|n| of_value(&format!("{n}"), 1)).collect();
        expect(put_to(write("many", changes)).await, Bound::Changes, is, CHANGES_MAX);
    }
    for is in edge(WRITE_BYTES_MAX) {
        // Two sorts of one byte, and two values.
        let half = ROW_VALUE_BYTES_MAX - 1;
        let changes = vec![of_value("a", half), of_value("b", is - half - 2)];
        expect(put_to(write("wide", changes)).await, Bound::WriteBytes, is, WRITE_BYTES_MAX);
    }
    for is in edge(KEYS_MAX) {
        let keys: Vec<_> = (0..is).map(|_| key("small", "")).collect();
        expect(s.store.get_many(&keys, by()).await, Bound::Keys, is, KEYS_MAX);
    }
    many_values_hold_their_bound(&s).await;
    for is in [PAGE_ROWS_MAX - 1, PAGE_ROWS_MAX, PAGE_ROWS_MAX + 1] {
        let all = Bytes::new()..Bytes::new();
        let scan = s.store.scan(&partition("q"), all, page(is), by()).await;
        expect(scan, Bound::Keys, is as usize, PAGE_ROWS_MAX as usize);
    }
}

/// Reads of several rows and of one row several times.
async fn many_values_hold_their_bound(s: &Subject) {
    let full = GET_MANY_BYTES_MAX / ROW_VALUE_BYTES_MAX;
    for n in 0..full {
        let change = of_value("", ROW_VALUE_BYTES_MAX);
        s.store.write(write(&format!("full-{n}"), vec![change]), by()).await.expect("a put");
    }
    s.put("one-byte", "", "1").await;
    let rows: Vec<_> = (0..full).map(|n| key(&format!("full-{n}"), "")).collect();
    let again = vec![key("full-0", ""); full];
    for mut keys in [rows, again] {
        keys.push(key("none", ""));
        let read = s.store.get_many(&keys, by()).await.expect("a read of the bound");
        assert_eq!(read.iter().flatten().map(|row| row.value.len()).sum::<usize>(), GET_MANY_BYTES_MAX);
        keys.push(key("one-byte", ""));
        let read = s.store.get_many(&keys, by()).await;
        expect(read, Bound::ReadBytes, GET_MANY_BYTES_MAX + 1, GET_MANY_BYTES_MAX);
    }
}

pub(super) async fn malformed_writes_are_refused(s: Subject) {
    let twice = vec![put("a", "1", Require::Nothing), put("a", "2", Require::Nothing)];
    for bad in [write("", vec![of_value("", 1)]), write("p", Vec::new()), write("p", twice)] {
        let result = s.store.write(bad, by()).await;
        assert!(matches!(result, Err(StoreError::Invalid(_))), "{result:?}");
    }
    assert_eq!(s.get("p", "a").await, None);
    let none = Page { after: None, rows_max: 0, bytes_max: 1 };
    let scan = s.store.scan(&partition("p"), Bytes::new()..Bytes::new(), none, by()).await;
    assert!(matches!(scan, Err(StoreError::Invalid(_))), "{scan:?}");
}
