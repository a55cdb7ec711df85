//! Many reads, scans, lists and their cursors.

use bytes::Bytes;

use super::{Subject, by, delete, key, namespace, page, partition, put, write};
use crate::{Cursor, Page, Require, Row, Space, StoreError};

fn sorts(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| std::str::from_utf8(&row.sort).expect("text")).collect()
}

pub(super) async fn many_reads_come_in_the_order_of_the_keys(s: Subject) {
    s.put("p", "a", "1").await;
    s.put("q", "b", "2").await;
    let keys = [key("q", "b"), key("p", "none"), key("p", "a"), key("q", "b")];
    let rows = s.store.get_many(&keys, by()).await.expect("reads");
    let values: Vec<_> = rows.into_iter().map(|row| row.map(|row| row.value)).collect();
    assert_eq!(values, [Some("2".into()), None, Some("1".into()), Some(Bytes::from("2"))]);
    assert_eq!(s.store.get_many(&[], by()).await, Ok(Vec::new()));
}

pub(super) async fn a_scan_is_in_byte_order_within_its_range(s: Subject) {
    let all = ["", "\0", "a", "a\0", "aa", "b", "z", "\u{ff}"];
    let changes = all.iter().rev().map(|sort| put(sort, sort, Require::Nothing)).collect();
    s.write("p", changes).await.expect("a put");
    // The neighbours must not show up.
    s.put("o", "a", "x").await;
    s.put("p\0", "a", "x").await;
    s.put("pa", "a", "x").await;
    let cases: &[(&str, &str, &[&str])] = &[
        ("", "", &all),
        ("a", "", &all[2..]),
        ("a", "b", &["a", "a\0", "aa"]),
        ("a\0", "aa", &["a\0"]),
        ("b", "b", &[]),
        ("z", "a", &[]),
        ("\u{fff}", "", &[]),
    ];
    for (from, to, expected) in cases {
        let slice = s.scan("p", from, to, page(100)).await;
        assert_eq!(sorts(&slice.items), *expected, "{from:?}..{to:?}");
        assert_eq!(slice.next, None);
    }
    assert_eq!(s.scan("none", "", "", page(1)).await.items, []);
}

pub(super) async fn scan_pages_keep_to_their_bounds_and_join_up(s: Subject) {
    let names: Vec<String> = (0..23).map(|n| format!("{n:02}")).collect();
    let changes = names.iter().map(|sort| put(sort, "0123456789", Require::Nothing)).collect();
    s.write("p", changes).await.expect("a put");
    // (rows, bytes, largest page): 25 bytes are two values, 1 byte is still one row.
    for (rows_max, bytes_max, most) in
        [(1, 1 << 20, 1), (5, 1 << 20, 5), (23, 1 << 20, 23), (24, 1 << 20, 23), (9, 25, 2), (9, 1, 1)]
    {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let slice = s.scan("p", "", "", Page { after, rows_max, bytes_max }).await;
            assert!(slice.items.len() <= most, "{} rows for {rows_max} rows and {bytes_max} bytes", slice.items.len());
            seen.extend(slice.items);
            after = slice.next;
            assert!(seen.len() <= names.len(), "a row came twice");
            if after.is_none() {
                break;
            }
        }
        assert_eq!(sorts(&seen), names, "{rows_max} rows, {bytes_max} bytes");
    }
}

pub(super) async fn a_scan_cursor_outlives_changes_around_it(s: Subject) {
    let changes = ["a", "b", "c", "d"].iter().map(|sort| put(sort, "1", Require::Nothing)).collect();
    s.write("p", changes).await.expect("a put");
    let first = s.scan("p", "", "", page(2)).await;
    assert_eq!(sorts(&first.items), ["a", "b"]);
    s.write("p", vec![delete("b", Require::Nothing), delete("c", Require::Nothing)]).await.expect("a delete");
    s.put("p", "aa", "2").await;
    s.put("p", "e", "2").await;
    let rest = s.scan("p", "", "", Page { after: first.next, ..page(10) }).await;
    assert_eq!(sorts(&rest.items), ["d", "e"]);
    assert_eq!(rest.next, None);
}

pub(super) async fn partitions_list_by_prefix(s: Subject) {
    let names = ["a", "a\0b", "ab", "abc", "b", "b\u{ff}"];
    for name in names.iter().rev() {
        s.put(name, "x", "1").await;
        s.put(name, "y", "1").await;
    }
    let cases: &[(&str, &[&str])] =
        &[("", &names), ("a", &names[..4]), ("a\0", &["a\0b"]), ("ab", &["ab", "abc"]), ("abcd", &[]), ("c", &[])];
    for (prefix, expected) in cases {
        let found = s.partitions(Space::Value, prefix.as_bytes(), 100).await;
        assert_eq!(found, *expected, "prefix {prefix:?}: byte order, each once");
    }
    s.write("ab", vec![delete("x", Require::Nothing)]).await.expect("a delete");
    assert_eq!(s.partitions(Space::Value, b"ab", 100).await, ["ab", "abc"], "one row is enough");
    s.write("ab", vec![delete("y", Require::Nothing)]).await.expect("a delete");
    assert_eq!(s.partitions(Space::Value, b"ab", 100).await, ["abc"], "no row is too few");
}

pub(super) async fn partition_pages_join_up(s: Subject) {
    let mut expected: Vec<String> = (0..30).map(|n| format!("name-{n:02}")).collect();
    for (at, name) in expected.iter().enumerate() {
        // Some partitions have many rows, which a list has to get past.
        let rows = if at % 7 == 0 { 40 } else { 1 };
        for space in [Space::Value, Space::Catalog] {
            let changes = (0..rows).map(|n| put(&format!("{n}"), "1", Require::Nothing)).collect();
            let mut write = write(name, changes);
            write.partition.space = space;
            s.store.write(write, by()).await.expect("a put");
        }
    }
    for rows_max in [1, 7, 30, 31] {
        assert_eq!(s.partitions(Space::Value, b"name-", rows_max).await, expected, "{rows_max} a page");
        let mut found = s.partitions(Space::Catalog, b"name-", rows_max).await;
        if !s.store.abilities().ordered_partitions {
            found.sort();
            found.dedup();
        }
        assert_eq!(found, expected, "{rows_max} a page");
    }
    let page = Page { after: None, rows_max: 100, bytes_max: 20 };
    let slice = s.store.partitions(&namespace(), Space::Value, b"", page, by()).await.expect("a list");
    assert_eq!(slice.items.len(), 2, "20 bytes hold two names of 7");
    expected.clear();
}

pub(super) async fn a_foreign_cursor_is_refused(s: Subject) {
    for name in ["a", "b", "c"] {
        s.put(name, "x", "1").await;
        s.put("p", name, "1").await;
    }
    let scan = s.scan("p", "", "", page(1)).await.next;
    assert!(scan.is_some());
    let of = namespace();
    for after in [scan, Some(Cursor(Bytes::new())), Some(Cursor(Bytes::from_static(b"\xee1")))] {
        let page = Page { after, ..page(1) };
        let listed = s.store.partitions(&of, Space::Value, b"", page.clone(), by()).await;
        assert!(matches!(listed, Err(StoreError::Invalid(_))), "{listed:?}");
        let changes = s.store.changes(&of, page, by()).await;
        assert!(matches!(changes, Err(StoreError::Invalid(_))), "{changes:?}");
    }
    let listed = s.store.partitions(&of, Space::Value, b"", page(1), by()).await.expect("a list").next;
    let page = Page { after: listed, ..page(1) };
    let scanned = s.store.scan(&partition("p"), Bytes::new()..Bytes::new(), page, by()).await;
    assert!(matches!(scanned, Err(StoreError::Invalid(_))), "{scanned:?}");
}
