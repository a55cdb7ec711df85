//! Conditions, versions, batches, expiry, fate.

use std::time::Duration;

use bytes::Bytes;
use faas_model::Name;
use tokio::time::Instant;

use super::{Subject, by, check, conflict, delete, key, namespace, page, partition, put, put_until, write};
use crate::{Change, Fate, Partition, Read, Require, Space, StoreError, Version, WriteId};

pub(super) async fn a_write_is_read_back_with_its_version(s: Subject) {
    assert_eq!(s.get("p", "").await, None);
    let done = s.put("p", "", "one").await;
    let row = s.get("p", "").await.expect("the row");
    assert_eq!((&row.value[..], row.version, row.expires), (&b"one"[..], done.version, None));
    let done = s.put("p", "", "").await;
    let row = s.get("p", "").await.expect("an empty value is a value");
    assert_eq!((row.value.len(), row.version), (0, done.version));
    s.write("p", vec![delete("", Require::Nothing)]).await.expect("a delete");
    assert_eq!(s.get("p", "").await, None);
}

pub(super) async fn every_write_gives_a_new_version(s: Subject) {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..10 {
        assert!(seen.insert(s.put("p", "", "same").await.version), "a version came twice");
    }
    s.write("p", vec![delete("", Require::Nothing)]).await.expect("a delete");
    assert!(seen.insert(s.put("p", "", "same").await.version), "a version came back after a delete");
    let done = s.write("p", vec![put("a", "1", Require::Nothing), put("b", "2", Require::Nothing)]).await;
    let version = done.expect("a batch").version;
    for sort in ["a", "b"] {
        assert_eq!(s.get("p", sort).await.map(|row| row.version), Some(version), "all rows carry the write's version");
    }
}

pub(super) async fn conditions_hold_or_carry_the_row(s: Subject) {
    let stranger = Version([7; 16]);
    assert_eq!(conflict(s.write("p", vec![put("", "x", Require::Present)]).await), None);
    assert_eq!(conflict(s.write("p", vec![put("", "x", Require::Version(stranger))]).await), None);
    let first = s.write("p", vec![put("", "one", Require::Absent)]).await.expect("absent holds").version;
    let row = conflict(s.write("p", vec![put("", "x", Require::Absent)]).await).expect("the row");
    assert_eq!((&row.value[..], row.version), (&b"one"[..], first));
    let second = s.write("p", vec![put("", "two", Require::Version(first))]).await.expect("the version holds").version;
    let row = conflict(s.write("p", vec![put("", "x", Require::Version(first))]).await).expect("the row");
    assert_eq!((&row.value[..], row.version), (&b"two"[..], second));
    s.write("p", vec![put("", "three", Require::Present)]).await.expect("present holds");
    let row = conflict(s.write("p", vec![delete("", Require::Version(second))]).await).expect("the row");
    assert_eq!(row.value, "three");
    s.write("p", vec![delete("", Require::Version(row.version))]).await.expect("the version holds");
    assert_eq!(conflict(s.write("p", vec![delete("", Require::Present)]).await), None);
}

pub(super) async fn a_batch_is_all_or_nothing(s: Subject) {
    s.put("p", "b", "old").await;
    let changes =
        vec![put("a", "1", Require::Nothing), put("b", "2", Require::Absent), put("c", "3", Require::Nothing)];
    let row = conflict(s.write("p", changes.clone()).await).expect("the row of the failed condition");
    assert_eq!((&row.sort[..], &row.value[..]), (&b"b"[..], &b"old"[..]));
    assert_eq!((s.get("p", "a").await, s.get("p", "c").await), (None, None), "nothing was changed");
    s.write("p", vec![delete("b", Require::Nothing)]).await.expect("a delete");
    s.write("p", changes).await.expect("now all hold");
    assert_eq!(s.scan("p", "", "", page(10)).await.items.len(), 3);
}

pub(super) async fn conditions_are_judged_before_any_change(s: Subject) {
    s.put("p", "a", "1").await;
    let changes = vec![delete("a", Require::Present), put("b", "2", Require::Absent), check("c", Require::Absent)];
    s.write("p", changes).await.expect("each holds before the write");
    assert_eq!((s.value("p", "a").await, s.value("p", "b").await), (None, Some("2".into())));
}

pub(super) async fn a_check_changes_nothing(s: Subject) {
    let first = s.put("p", "a", "1").await;
    s.write("p", vec![check("a", Require::Version(first.version))]).await.expect("it holds");
    s.write("p", vec![check("b", Require::Absent), put("c", "3", Require::Nothing)]).await.expect("it holds");
    assert_eq!(s.get("p", "a").await.map(|row| row.version), Some(first.version));
    assert_eq!(s.get("p", "b").await, None);
    conflict(s.write("p", vec![check("a", Require::Absent), delete("c", Require::Nothing)]).await);
    assert_eq!(s.value("p", "c").await, Some("3".into()));
}

pub(super) async fn deleting_what_is_not_there_is_no_error(s: Subject) {
    s.write("p", vec![delete("", Require::Nothing)]).await.expect("nothing was required");
    s.write("p", vec![delete("", Require::Absent)]).await.expect("it is absent");
    assert_eq!(s.get("p", "").await, None);
}

pub(super) async fn an_expired_row_is_absent_everywhere(s: Subject) {
    let until = s.clock.now().plus(Duration::from_secs(2));
    s.write("p", vec![put_until("", "mortal", until), put("k", "stays", Require::Nothing)]).await.expect("a put");
    s.write("q", vec![put_until("", "mortal", until)]).await.expect("a put");
    let row = s.get("p", "").await.expect("it lives");
    assert_eq!((row.expires, &row.value[..]), (Some(until), &b"mortal"[..]));
    conflict(s.write("p", vec![put("", "x", Require::Absent)]).await).expect("it lives");
    s.pass(Duration::from_secs(2)).await;
    assert_eq!(s.get("p", "").await, None);
    let keys = [key("p", ""), key("p", "k")];
    let many = s.store.get_many(&keys, by()).await.expect("reads");
    assert_eq!(many.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    let sorts: Vec<_> = s.scan("p", "", "", page(10)).await.items.into_iter().map(|row| row.sort).collect();
    assert_eq!(sorts, ["k"]);
    assert_eq!(s.partitions(Space::Value, b"", 10).await, ["p"], "no partition of expired rows alone");
    assert_eq!(conflict(s.write("p", vec![put("", "x", Require::Present)]).await), None);
    assert_eq!(conflict(s.write("p", vec![put("", "x", Require::Version(row.version))]).await), None);
    s.write("p", vec![put("", "again", Require::Absent)]).await.expect("expired counts as absent");
    assert_eq!(s.value("p", "").await, Some("again".into()));
}

pub(super) async fn an_overwrite_takes_the_expiry_along(s: Subject) {
    let until = s.clock.now().plus(Duration::from_secs(2));
    s.write("p", vec![put_until("a", "1", until), put_until("b", "1", until)]).await.expect("a put");
    s.put("p", "a", "2").await;
    s.write("p", vec![put_until("b", "2", until.plus(Duration::from_secs(1_000)))]).await.expect("a put");
    s.pass(Duration::from_secs(2)).await;
    // Another write gives a sweeper its chance to remove too much.
    s.put("p", "c", "3").await;
    assert_eq!(s.value("p", "a").await, Some("2".into()));
    assert_eq!(s.value("p", "b").await, Some("2".into()));
}

pub(super) async fn namespaces_and_spaces_do_not_meet(s: Subject) {
    let other = Name::new("conformance-b").expect("a name");
    let places = [
        Partition { namespace: namespace(), space: Space::Value, name: Bytes::from_static(b"p") },
        Partition { namespace: other, space: Space::Value, name: Bytes::from_static(b"p") },
        Partition { namespace: namespace(), space: Space::Catalog, name: Bytes::from_static(b"p") },
        Partition { namespace: namespace(), space: Space::Value, name: Bytes::from_static(b"p\0") },
        Partition { namespace: namespace(), space: Space::Value, name: Bytes::from_static(b"p\0\0q") },
    ];
    for (at, place) in places.iter().enumerate() {
        let mut write = write("", vec![put("", &at.to_string(), Require::Absent)]);
        write.partition = place.clone();
        s.store.write(write, by()).await.expect("each is its own place");
    }
    for (at, place) in places.iter().enumerate() {
        let key = crate::Key { partition: place.clone(), sort: Bytes::new() };
        let row = s.store.get(&key, Read::Local, by()).await.expect("a get").expect("the row");
        assert_eq!(row.value, at.to_string());
    }
    assert_eq!(s.partitions(Space::Value, b"p", 10).await, [&b"p"[..], b"p\0", b"p\0\0q"]);
    assert_eq!(s.partitions(Space::Catalog, b"", 10).await, ["p"]);
}

pub(super) async fn a_repeat_of_the_same_write_id_is_harmless(s: Subject) {
    let first = write("p", vec![put("", "1", Require::Absent)]);
    let done = s.store.write(first.clone(), by()).await.expect("a put");
    let again = s.store.write(first, by()).await.expect("the same write again is the same write");
    assert_eq!(done, again);
    assert_eq!(s.get("p", "").await.map(|row| row.version), Some(done.version));
}

pub(super) async fn fate_tells_committed_from_never(s: Subject) {
    let place = partition("p");
    let done = write("p", vec![put("", "1", Require::Nothing)]);
    let id = done.id;
    let committed = s.store.write(done, by()).await.expect("a put");
    assert_eq!(s.store.fate(&place, id, by()).await, Ok(Fate::Committed(committed)));
    let lost = write("p", vec![put("", "2", Require::Absent)]);
    let id = lost.id;
    conflict(s.store.write(lost, by()).await);
    assert_eq!(s.store.fate(&place, id, by()).await, Ok(Fate::Never));
    let never = WriteId::fresh();
    assert_eq!(s.store.fate(&place, never, by()).await, Ok(Fate::Never));
    let mut late = write("p", vec![put("", "late", Require::Nothing)]);
    late.id = never;
    s.store.write(late, by()).await.expect_err("after `Never` it can no longer take effect");
    assert_eq!(s.value("p", "").await, Some("1".into()));
}

pub(super) async fn a_deadline_that_has_passed_writes_nothing(s: Subject) {
    let past = Instant::now() - Duration::from_millis(1);
    let late = write("p", vec![put("", "late", Require::Nothing)]);
    let id = late.id;
    match s.store.write(late, past).await {
        Err(StoreError::Deadline) => {
            assert_eq!(s.store.fate(&partition("p"), id, by()).await, Ok(Fate::Never));
            assert_eq!(s.get("p", "").await, None);
        }
        Err(StoreError::Unknown(unknown)) => assert_eq!(unknown, id),
        other => panic!("expected Deadline or Unknown, got {other:?}"),
    }
    assert_eq!(s.store.get(&key("p", ""), Read::Linearizable, past).await, Err(StoreError::Deadline));
}

pub(super) async fn transactions_span_partitions_or_are_not_offered(s: Subject) {
    assert_eq!(s.store.transactions().is_some(), s.store.abilities().transactions);
    let Some(transactions) = s.store.transactions() else { return };
    let pair = |a: Change, b: Change| vec![write("p", vec![a]), write("q", vec![b])];
    let done = transactions.write_all(pair(put("", "1", Require::Absent), put("", "2", Require::Absent)), by()).await;
    assert_eq!(done.expect("both hold").len(), 2);
    let result =
        transactions.write_all(pair(put("", "x", Require::Present), put("", "x", Require::Absent)), by()).await;
    let Err(StoreError::Conflict(Some(row))) = result else { panic!("expected a conflict, got {result:?}") };
    assert_eq!(row.value, "2");
    assert_eq!(s.value("p", "").await, Some("1".into()), "nothing was changed");
    let twice =
        vec![write("p", vec![put("", "a", Require::Nothing)]), write("p", vec![put("", "b", Require::Nothing)])];
    assert!(matches!(transactions.write_all(twice, by()).await, Err(StoreError::Invalid(_))));
    assert!(matches!(transactions.write_all(Vec::new(), by()).await, Err(StoreError::Invalid(_))));
}
