//! The change log.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Subject, by, delete, namespace, put, write};
use crate::{ChangeRecord, Cursor, Logged, Page, Require};

/// Reads the feed until it has nothing more; returns the records and where it stands.
async fn feed(s: &Subject, mut after: Option<Cursor>, rows_max: u32) -> (Vec<ChangeRecord>, Option<Cursor>) {
    let mut all = Vec::new();
    loop {
        let page = Page { after, rows_max, bytes_max: 1 << 20 };
        let slice = s.store.changes(&namespace(), page, by()).await.expect("the changes");
        assert!(slice.items.len() <= rows_max as usize);
        assert!(slice.next.is_some(), "a log has no end");
        after = slice.next;
        if slice.items.is_empty() {
            return (all, after);
        }
        all.extend(slice.items);
    }
}

pub(super) async fn changes_come_in_order_per_partition(s: Subject) {
    let mut expected: HashMap<Bytes, Vec<_>> = HashMap::new();
    for round in 0..5 {
        for name in ["a", "b", "c", "d", "e"] {
            let done = s.put(name, "", &round.to_string()).await;
            expected.entry(Bytes::from(name)).or_default().push((done.version, Bytes::from(round.to_string())));
        }
    }
    let mut found: HashMap<Bytes, Vec<_>> = HashMap::new();
    for record in feed(&s, None, 100).await.0 {
        let value = record.rows.first().and_then(|row| row.value.clone()).expect("a value");
        found.entry(record.partition.name).or_default().push((record.version, value));
    }
    assert_eq!(found, expected);
}

pub(super) async fn the_log_keeps_what_was_asked(s: Subject) {
    let mut ids = Vec::new();
    for log in [Logged::No, Logged::Keys, Logged::Values] {
        let mut write = write("p", vec![put("a", "1", Require::Nothing), put("b", "", Require::Nothing)]);
        write.log = log;
        ids.push(write.id);
        s.store.write(write, by()).await.expect("a put");
    }
    s.write("p", vec![delete("a", Require::Nothing), delete("none", Require::Nothing)]).await.expect("a delete");
    let lost = write("p", vec![put("x", "1", Require::Present)]);
    super::conflict(s.store.write(lost, by()).await);
    let (records, _) = feed(&s, None, 100).await;
    assert_eq!(records.len(), 3, "the unlogged and the refused write are not there");
    assert_eq!(records.iter().take(2).map(|record| record.id).collect::<Vec<_>>(), ids.split_off(1));
    let values: Vec<Vec<_>> =
        records.iter().map(|record| record.rows.iter().map(|row| row.value.clone()).collect()).collect();
    assert_eq!(values, [vec![None, None], vec![Some("1".into()), Some(Bytes::new())], vec![None]]);
    let removed: Vec<Vec<_>> =
        records.iter().map(|record| record.rows.iter().map(|row| row.removed).collect()).collect();
    assert_eq!(removed, [vec![false, false], vec![false, false], vec![true]]);
}

pub(super) async fn change_pages_join_up_and_the_end_can_be_resumed(s: Subject) {
    let (none, start) = feed(&s, None, 3).await;
    assert_eq!(none, []);
    for n in 0..10 {
        s.put(&format!("p{n}"), "", "1").await;
    }
    let mut other = write("p", vec![put("", "1", Require::Nothing)]);
    other.partition.namespace = faas_model::Name::new("conformance-b").expect("a name");
    s.store.write(other, by()).await.expect("a put");
    for rows_max in [1, 3, 10, 11] {
        let (records, _) = feed(&s, None, rows_max).await;
        let mut names: Vec<_> = records.iter().map(|record| record.partition.name.clone()).collect();
        names.sort();
        assert_eq!(names.len(), 10, "{rows_max} a page: each change once, none of another namespace");
        names.dedup();
        assert_eq!(names.len(), 10, "{rows_max} a page: each change once");
    }
    let (records, end) = feed(&s, start, 4).await;
    assert_eq!(records.len(), 10, "a cursor of an empty log sees what comes after");
    s.put("late", "", "1").await;
    let (records, _) = feed(&s, end, 4).await;
    assert_eq!(records.iter().map(|record| &record.partition.name[..]).collect::<Vec<_>>(), [b"late"]);
}
