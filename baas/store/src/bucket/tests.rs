//! Key-value semantics over both stores.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;
use crate::{Embedded, EmbeddedConfig, Memory, WallClock};

struct Tried {
    buckets: Buckets,
    clock: WallClock,
    _folder: Option<tempfile::TempDir>,
}

fn both() -> [Tried; 2] {
    let folder = tempfile::tempdir().unwrap();
    let clock = WallClock::manual(WallTime(1_000_000));
    let path = folder.path().join("store.redb");
    let embedded = Embedded::open_with(&path, EmbeddedConfig::default(), clock.clone()).unwrap();
    let memory_clock = WallClock::manual(WallTime(1_000_000));
    let memory = Memory::with_clock(memory_clock.clone());
    [
        Tried { buckets: Buckets::new(Arc::new(embedded)), clock, _folder: Some(folder) },
        Tried { buckets: Buckets::new(Arc::new(memory)), clock: memory_clock, _folder: None },
    ]
}

fn bucket(name: &str) -> BucketName {
    BucketName { namespace: Name::namespace_default(), bucket: Name::new(name).unwrap() }
}

fn by() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

impl Tried {
    async fn put(&self, key: &str, value: &str) -> Version {
        let value = Bytes::copy_from_slice(value.as_bytes());
        self.buckets.put(&bucket("b"), key, value, None, Require::Nothing, by()).await.unwrap()
    }

    async fn get(&self, key: &str) -> Option<Bytes> {
        self.buckets.get(&bucket("b"), key, Read::Linearizable, by()).await.unwrap().map(|entry| entry.value)
    }

    async fn list(&self, prefix: &str, max: u32) -> Vec<String> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.buckets.list(&bucket("b"), prefix, after, max, by()).await.unwrap();
            assert!(page.items.len() <= max as usize);
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }
}

#[test]
fn a_tag_is_what_redis_cluster_calls_one() {
    let cases = [
        ("user", None),
        ("{user}", Some("user")),
        ("a{user}b", Some("user")),
        ("{}{user}", None),
        ("{user", None),
        ("user}", None),
        ("{{user}}", Some("{user")),
        ("{a}{b}", Some("a")),
        ("}{a}", Some("a")),
    ];
    for (key, expected) in cases {
        assert_eq!(tag(key), expected, "{key}");
    }
}

#[tokio::test]
async fn keys_with_and_without_a_tag_behave_alike() {
    for tried in both() {
        for key in ["plain", "with{tag}"] {
            assert_eq!(tried.get(key).await, None);
            let version = tried.put(key, "1").await;
            let entry = tried.buckets.get(&bucket("b"), key, Read::Linearizable, by()).await.unwrap().unwrap();
            assert_eq!((entry.version, &entry.value[..]), (version, &b"1"[..]));
            let absent = tried.buckets.put(&bucket("b"), key, "2".into(), None, Require::Absent, by()).await;
            let Err(StoreError::Conflict(Some(row))) = absent else { panic!("{absent:?}") };
            assert_eq!((row.version, &row.value[..]), (version, &b"1"[..]));
            let swapped = tried.buckets.put(&bucket("b"), key, "2".into(), None, Require::Version(version), by()).await;
            assert_ne!(swapped.unwrap(), version);
            let stale = tried.buckets.delete(&bucket("b"), key, Require::Version(version), by()).await;
            assert!(matches!(stale, Err(StoreError::Conflict(Some(_)))), "{stale:?}");
            assert_eq!(tried.list("", 10).await.len(), 1);
            tried.buckets.delete(&bucket("b"), key, Require::Present, by()).await.unwrap();
            assert_eq!((tried.get(key).await, tried.list("", 10).await.len()), (None, 0));
            tried.buckets.delete(&bucket("b"), key, Require::Nothing, by()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn lists_are_complete_and_in_byte_order_across_both_kinds() {
    let mut keys = vec!["a", "a/1", "a/{t}", "a/{t}/2", "a{", "b", "ä{t}", "{t}", "{t}a", "{u}a"];
    for tried in both() {
        for key in &keys {
            tried.put(key, "v").await;
        }
        // A neighbour whose name begins the same, another bucket, another namespace.
        let value = || Bytes::from_static(b"x");
        tried.buckets.put(&bucket("bb"), "a", value(), None, Require::Nothing, by()).await.unwrap();
        tried.buckets.put(&bucket("a"), "{t}", value(), None, Require::Nothing, by()).await.unwrap();
        let mut foreign = bucket("b");
        foreign.namespace = Name::new("other").unwrap();
        tried.buckets.put(&foreign, "a/{t}/9", value(), None, Require::Nothing, by()).await.unwrap();
        keys.sort_unstable();
        for max in [1, 3, 10, 1000] {
            assert_eq!(tried.list("", max).await, keys, "{max} a page");
            assert_eq!(tried.list("a/", max).await, ["a/1", "a/{t}", "a/{t}/2"], "{max} a page");
            assert_eq!(tried.list("{", max).await, ["{t}", "{t}a", "{u}a"], "{max} a page");
        }
        assert_eq!(tried.list("none", 10).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_expired_key_with_a_tag_is_in_no_list() {
    for tried in both() {
        let until = Some(tried.clock.now().plus(Duration::from_secs(1)));
        for key in ["plain", "{t}mortal"] {
            tried.buckets.put(&bucket("b"), key, "v".into(), until, Require::Nothing, by()).await.unwrap();
        }
        assert_eq!(tried.list("", 10).await.len(), 2);
        tried.clock.advance(Duration::from_secs(1));
        assert_eq!(tried.list("", 10).await, Vec::<String>::new());
        tried.put("{t}mortal", "again").await;
        assert_eq!(tried.list("", 10).await, ["{t}mortal"]);
    }
}

#[tokio::test]
async fn a_refused_write_with_an_expiry_takes_no_key_out_of_the_list() {
    for tried in both() {
        tried.put("{t}k", "stays").await;
        let until = Some(tried.clock.now().plus(Duration::from_secs(1)));
        let refused = tried.buckets.put(&bucket("b"), "{t}k", "x".into(), until, Require::Absent, by()).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
        tried.clock.advance(Duration::from_secs(2));
        assert_eq!(tried.list("", 10).await, ["{t}k"]);
    }
}

#[tokio::test]
async fn many_keys_are_read_in_their_order() {
    for tried in both() {
        tried.put("a", "1").await;
        tried.put("{t}b", "2").await;
        let keys = ["{t}b".to_owned(), "none".to_owned(), "a".to_owned()];
        let entries = tried.buckets.get_many(&bucket("b"), &keys, by()).await.unwrap();
        let values: Vec<_> = entries.into_iter().map(|entry| entry.map(|entry| entry.value)).collect();
        assert_eq!(values, [Some("2".into()), None, Some(Bytes::from("1"))]);
    }
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_and_moves_the_list_with_it() {
    for tried in both() {
        tried.put("{t}old", "v").await;
        let put = |key: &str, value: &str| BatchChange::Put { key: key.into(), value: value.to_owned().into() };
        let changes = vec![put("{t}a", "1"), put("{t}b", "2"), BatchChange::Delete { key: "{t}old".into() }];
        tried.buckets.batch(&bucket("b"), changes, by()).await.unwrap();
        assert_eq!(tried.list("", 10).await, ["{t}a", "{t}b"]);
        let twice = vec![put("{t}a", "x"), put("{t}a", "y")];
        let refused = tried.buckets.batch(&bucket("b"), twice, by()).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
        let refused = tried.buckets.batch(&bucket("b"), vec![put("{t}c", "x"), put("", "y")], by()).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
        assert_eq!((tried.get("{t}a").await, tried.get("{t}c").await), (Some("1".into()), None));
    }
}

#[tokio::test]
async fn a_counter_counts_and_refuses_what_is_no_number() {
    for tried in both() {
        for key in ["n", "{t}n"] {
            assert_eq!(tried.buckets.increment(&bucket("b"), key, 5, by()).await, Ok(5));
            assert_eq!(tried.buckets.increment(&bucket("b"), key, -7, by()).await, Ok(-2));
            assert_eq!(tried.get(key).await, Some("-2".into()), "stored as an ASCII decimal");
            assert_eq!(tried.buckets.increment(&bucket("b"), key, 0, by()).await, Ok(-2));
        }
        tried.put("text", "12a").await;
        let refused = tried.buckets.increment(&bucket("b"), "text", 1, by()).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
        tried.put("max", &(i64::MAX - 1).to_string()).await;
        assert_eq!(tried.buckets.increment(&bucket("b"), "max", 1, by()).await, Ok(i64::MAX));
        let refused = tried.buckets.increment(&bucket("b"), "max", 1, by()).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
        assert_eq!(tried.get("max").await, Some(i64::MAX.to_string().into()));
        let until = Some(tried.clock.now().plus(Duration::from_secs(9)));
        tried.buckets.put(&bucket("b"), "mortal", "1".into(), until, Require::Nothing, by()).await.unwrap();
        tried.buckets.increment(&bucket("b"), "mortal", 1, by()).await.unwrap();
        let entry = tried.buckets.get(&bucket("b"), "mortal", Read::Linearizable, by()).await.unwrap().unwrap();
        assert_eq!(entry.expires, until, "the expiry stays");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_of_32_clients_add_up_and_each_sum_is_given_once() {
    for tried in both() {
        let tried = Arc::new(tried);
        let clients = (0..32).map(|_| {
            let tried = Arc::clone(&tried);
            tokio::spawn(async move {
                let mut sums = Vec::new();
                for _ in 0..20 {
                    sums.push(tried.buckets.increment(&bucket("b"), "n", 1, by()).await.unwrap());
                }
                sums
            })
        });
        let mut sums: Vec<i64> = join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
        sums.sort_unstable();
        assert_eq!(sums, (1..=640).collect::<Vec<_>>());
        assert_eq!(tried.get("n").await, Some("640".into()));
        assert!(tried.buckets.lanes.is_empty(), "no lane outlives its users");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_at_most_its_own_increment_along() {
    for tried in both() {
        let tried = Arc::new(tried);
        let clients = (0..40).map(|n| {
            let tried = Arc::clone(&tried);
            tokio::spawn(async move {
                let place = bucket("b");
                let increment = tried.buckets.increment(&place, "n", 1, by());
                if n % 2 == 0 {
                    // Polled at least once, then dropped: as a leader, in line, or while writing.
                    tokio::time::timeout(Duration::from_micros(n * 40), increment).await.is_ok_and(|sum| sum.is_ok())
                } else {
                    increment.await.unwrap();
                    true
                }
            })
        });
        let done = join_all(clients).await.into_iter().filter(|told| *told.as_ref().unwrap()).count();
        let total: usize = std::str::from_utf8(&tried.get("n").await.unwrap()).unwrap().parse().unwrap();
        assert!((done..=40).contains(&total), "{done} were told, {total} were counted");
        assert!(done >= 20);
        assert!(tried.buckets.lanes.is_empty());
    }
}

#[tokio::test]
async fn an_increment_meets_its_deadline_in_line() {
    let [tried, _] = both();
    let past = Instant::now() - Duration::from_millis(1);
    let late = tried.buckets.increment(&bucket("b"), "n", 1, past).await;
    assert_eq!(late, Err(StoreError::Deadline));
    assert_eq!(tried.get("n").await, None);
    let place = bucket("b");
    drop(tried.buckets.increment(&place, "n", 1, by()).now_or_never());
    assert_eq!(tried.buckets.increment(&place, "m", 1, by()).await, Ok(1), "nobody is blocked");
    assert!(tried.buckets.lanes.is_empty());
}

#[tokio::test]
async fn keys_and_values_have_bounds() {
    for tried in both() {
        for (is, fits) in [(1, true), (1023, true), (1024, true), (1025, false)] {
            for key in ["k".repeat(is), format!("{{t}}{}", "k".repeat(is.max(4) - 3))] {
                let put = tried.buckets.put(&bucket("b"), &key, "v".into(), None, Require::Nothing, by()).await;
                let expected = StoreError::TooLarge { what: Bound::KeyBytes, max: 1024 };
                assert_eq!(put.err(), (!fits).then_some(expected), "a key of {} bytes", key.len());
            }
        }
        for (is, fits) in [((1 << 20) - 1, true), (1 << 20, true), ((1 << 20) + 1, false)] {
            let value = Bytes::from(vec![0; is]);
            let put = tried.buckets.put(&bucket("b"), "v", value, None, Require::Nothing, by()).await;
            assert_eq!(put.is_ok(), fits, "a value of {is} bytes");
        }
        let empty = tried.buckets.get(&bucket("b"), "", Read::Linearizable, by()).await;
        assert!(matches!(empty, Err(StoreError::Invalid(_))), "{empty:?}");
        let keys = vec!["k".to_owned(); 1001];
        assert!(tried.buckets.get_many(&bucket("b"), &keys, by()).await.is_err());
        assert!(tried.buckets.list(&bucket("b"), "", None, 1001, by()).await.is_err());
        assert!(tried.buckets.list(&bucket("b"), "", None, 0, by()).await.is_err());
    }
}

#[tokio::test]
async fn a_batch_of_the_largest_size_fits() {
    for tried in both() {
        for (is, fits) in [(1_000, true), (1_001, false)] {
            let changes =
                (0..is).map(|n| BatchChange::Put { key: format!("{{t}}{n:04}"), value: Bytes::new() }).collect();
            let result = tried.buckets.batch(&bucket("b"), changes, by()).await;
            assert_eq!(result.is_ok(), fits, "{result:?}");
        }
        assert_eq!(tried.list("{t}", 1000).await.len(), 1_000);
    }
}

#[tokio::test]
async fn a_batch_holds_2_mib_of_keys_and_values_on_every_store() {
    for tried in both() {
        for (is, good) in [(WRITE_BYTES_MAX, true), (WRITE_BYTES_MAX + 1, false)] {
            let put = |key: &str, bytes: usize| BatchChange::Put { key: key.into(), value: vec![1; bytes].into() };
            let rest = is - VALUE_BYTES_MAX - 3 * "{t}a".len();
            let half = rest / 2;
            let changes = vec![put("{t}a", VALUE_BYTES_MAX), put("{t}b", half), put("{t}c", rest - half)];
            let done = tried.buckets.batch(&bucket("b"), changes, by()).await;
            let refused = Err(StoreError::TooLarge { what: Bound::WriteBytes, max: WRITE_BYTES_MAX as u64 });
            assert_eq!(done, if good { Ok(()) } else { refused }, "{is} bytes");
        }
        let put = |key: &str| BatchChange::Put { key: key.into(), value: vec![1; VALUE_BYTES_MAX].into() };
        let refused = tried.buckets.batch(&bucket("b"), vec![put("a"), put("b")], by()).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { what: Bound::WriteBytes, .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn lists_do_not_mind_how_large_the_values_are() {
    for tried in both() {
        let large = "x".repeat(VALUE_BYTES_MAX);
        for n in 0..10 {
            tried.put(&format!("{{t}}{n}"), &large).await;
        }
        assert_eq!(tried.list("", 100).await.len(), 10);
        let keys = vec!["{t}0".to_owned(); 9];
        let read = tried.buckets.get_many(&bucket("b"), &keys, by()).await;
        assert!(matches!(read, Err(StoreError::TooLarge { what: Bound::ReadBytes, .. })));
    }
}
