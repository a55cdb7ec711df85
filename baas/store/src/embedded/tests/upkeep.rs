//! Sweeping of expired rows and trimming of the log.

use super::*;

/// Waits until `done` holds, for as long as a slow machine needs.
async fn until(mut done: impl AsyncFnMut() -> bool) {
    let by = by();
    while !done().await {
        assert!(Instant::now() < by, "it never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn raw_rows(store: &Embedded) -> usize {
    let mut rows = 0;
    let count = |_: &[u8], _: &[u8]| {
        rows += 1;
        std::ops::ControlFlow::Continue(())
    };
    store.engine.read(|view| view.range(&[1], &[0xF1], count)).unwrap();
    rows
}

#[tokio::test]
async fn expired_rows_are_removed_in_slices_and_nothing_else() {
    let place = place();
    let clock = WallClock::manual(WallTime(1_000_000));
    let config = Config { upkeep_interval_ms: 5, upkeep_rows_max: 7, ..Config::default() };
    let store = Embedded::open_with(&place.path, config, clock.clone()).unwrap();
    let expires = Some(clock.now().plus(Duration::from_secs(1)));
    let changes = (0..50).map(|n| Change::Put {
        sort: format!("{n}").into(),
        value: Bytes::from_static(b"v"),
        expires: if n % 5 == 0 { None } else { expires },
        require: Require::Nothing,
    });
    let mut write = put("p", "");
    write.changes = changes.collect();
    store.write(write, by()).await.unwrap();
    // Rewritten without and deleted before their time: their entries are gone with them.
    let mut write = put("p", "");
    write.changes = vec![
        Change::Put { sort: "1".into(), value: "v".into(), expires: None, require: Require::Nothing },
        Change::Delete { sort: "2".into(), require: Require::Nothing },
    ];
    store.write(write, by()).await.unwrap();
    assert_eq!(raw_rows(&store), 49 + 38);
    clock.advance(Duration::from_secs(1));
    until(async || raw_rows(&store) == 11).await;
    let page = Page { after: None, rows_max: 100, bytes_max: 1 << 20 };
    let rows = store.scan(&partition("p"), Bytes::new()..Bytes::new(), page, by()).await.unwrap();
    assert_eq!(rows.items.len(), 11);
    store.close().await;
}

#[tokio::test]
async fn the_log_keeps_to_its_bounds_and_says_gone() {
    let place = place();
    let config = Config { log_records_max: 10, ..Config::default() };
    let store = Embedded::open(&place.path, config).unwrap();
    let page = |after| Page { after, rows_max: 3, bytes_max: 1 << 20 };
    let of = Name::namespace_default();
    store.write(put("p", "first"), by()).await.unwrap();
    let old = store.changes(&of, page(None), by()).await.unwrap().next;
    for n in 0..30 {
        store.write(put("p", &n.to_string()), by()).await.unwrap();
    }
    let gone = store.changes(&of, page(old), by()).await;
    assert_eq!(gone.err(), Some(StoreError::Gone));
    let mut values = Vec::new();
    let mut after = None;
    loop {
        let slice = store.changes(&of, page(after), by()).await.unwrap();
        if slice.items.is_empty() {
            break;
        }
        values.extend(slice.items.into_iter().flat_map(|change| change.rows).filter_map(|row| row.value));
        after = slice.next;
    }
    let expected: Vec<_> = (20..30).map(|n| Bytes::from(n.to_string())).collect();
    assert_eq!(values, expected, "the newest ten are kept");
    store.close().await;
    let store = Embedded::open(&place.path, Config::default()).unwrap();
    assert_eq!(store.changes(&of, page(None), by()).await.unwrap().items.len(), 3, "the bounds outlive a restart");
}

#[tokio::test]
async fn a_log_over_its_records_shrinks_under_transactions() {
    let place = place();
    // Upkeep does not come meanwhile.
    let config = Config { log_records_max: 10, upkeep_interval_ms: 3_600_000, ..Config::default() };
    let store = Embedded::open(&place.path, config).unwrap();
    for _ in 0..4 {
        let writes = (0..100).map(|n| put(&format!("p{n}"), "1")).collect();
        store.write_all(writes, by()).await.unwrap();
    }
    let meta = writer::read_meta(&store.engine).unwrap();
    assert_eq!(meta.log_records, 10, "{meta:?}");
}

#[tokio::test]
async fn old_records_go_by_age_while_nobody_writes() {
    let place = place();
    let clock = WallClock::manual(WallTime(1_000_000));
    let config = Config { log_age_max_s: 60, upkeep_interval_ms: 5, upkeep_rows_max: 3, ..Config::default() };
    let store = Embedded::open_with(&place.path, config, clock.clone()).unwrap();
    for n in 0..10 {
        store.write(put("p", &n.to_string()), by()).await.unwrap();
    }
    clock.advance(Duration::from_secs(61));
    let left = async || {
        let page = Page { after: None, rows_max: 100, bytes_max: 1 << 20 };
        store.changes(&Name::namespace_default(), page, by()).await.unwrap().items.len()
    };
    until(async || left().await == 0).await;
    assert_eq!(value(&store, "p").await, Some("9".into()), "the data stays");
}

#[tokio::test]
async fn a_log_over_its_bytes_shrinks_under_load() {
    let place = place();
    let store = Embedded::open(&place.path, Config { log_bytes_max: 10_000, ..Config::default() }).unwrap();
    for _ in 0..20 {
        let writes = (0..5).map(|n| store.write(put(&format!("p{n}"), &"x".repeat(1_000)), by()));
        assert!(join_all(writes).await.iter().all(Result::is_ok));
    }
    let meta = writer::read_meta(&store.engine).unwrap();
    assert!(meta.log_bytes <= 10_000 + 5 * 1_100, "{meta:?}");
    let mut bytes = 0;
    let view = |_: &[u8], value: &[u8]| {
        bytes += value.len() as u64;
        std::ops::ControlFlow::Continue(())
    };
    store.engine.read(|read| read.range(&layout::log_key(0), layout::LOG_END, view)).unwrap();
    assert_eq!(bytes, meta.log_bytes, "the counter is exact");
}
