//! Random operations on the store and on a plain map must agree.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Partition, changes as (sort, what, condition), seconds to live.
    Write(u8, Vec<(u8, What, Condition)>),
    Pass(u64),
    Reopen,
    Scan(u8, u8, u8, u32),
    List(u8, u32),
}

#[derive(Debug, Clone, Copy)]
enum What {
    Put(u8, Option<u64>),
    Delete,
    Check,
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    Nothing,
    Absent,
    Present,
    /// The version that the model has.
    Current,
    Stale,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![
        4 => (any::<u8>(), proptest::option::of(1..5_u64)).prop_map(|(value, ttl)| What::Put(value, ttl)),
        2 => Just(What::Delete),
        1 => Just(What::Check),
    ];
    let condition = prop_oneof![
        4 => Just(Condition::Nothing),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        1 => Just(Condition::Current),
        1 => Just(Condition::Stale),
    ];
    let change = (0..4_u8, what, condition);
    let step = prop_oneof![
        8 => (0..4_u8, proptest::collection::vec(change, 1..4)).prop_map(|(p, c)| Step::Write(p, c)),
        2 => (1..3_u64).prop_map(Step::Pass),
        1 => Just(Step::Reopen),
        2 => (0..4_u8, 0..5_u8, 0..5_u8, 1..4_u32).prop_map(|(p, from, to, max)| Step::Scan(p, from, to, max)),
        2 => (0..5_u8, 1..4_u32).prop_map(|(prefix, max)| Step::List(prefix, max)),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Partition, sort -> value, version, expiry.
type Model = BTreeMap<(Vec<u8>, Vec<u8>), (u8, crate::Version, Option<WallTime>)>;

/// Names with the bytes that an encoding may trip over.
fn name(n: u8) -> Vec<u8> {
    let names: [&[u8]; 5] = [b"a", b"a\0", b"a\0\0b", b"\xff", b"\xff\xff"];
    names[usize::from(n) % names.len()].to_vec()
}

struct Pair {
    place: Place,
    clock: WallClock,
    store: Embedded,
    model: Model,
}

impl Pair {
    fn live(&self, partition: &[u8], sort: &[u8]) -> Option<(u8, crate::Version)> {
        let (value, version, expires) = self.model.get(&(partition.to_vec(), sort.to_vec()))?;
        (!crate::clock::expired(*expires, self.clock.now())).then_some((*value, *version))
    }

    fn partition(n: u8) -> Partition {
        Partition { namespace: Name::namespace_default(), space: Space::Value, name: name(n).into() }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Write(partition, changes) => self.write(partition, changes).await,
            Step::Pass(seconds) => self.clock.advance(Duration::from_secs(seconds)),
            Step::Reopen => {
                self.store.close().await;
                self.store = Embedded::open_with(&self.place.path, config(), self.clock.clone()).unwrap();
            }
            Step::Scan(partition, from, to, max) => self.scan(partition, from, to, max).await,
            Step::List(prefix, max) => self.list(prefix, max).await,
        }
    }

    async fn write(&mut self, partition: u8, mut changes: Vec<(u8, What, Condition)>) {
        let mut seen = Vec::new();
        changes.retain(|(sort, ..)| {
            !seen.contains(sort) && {
                seen.push(*sort);
                true
            }
        });
        let of = name(partition);
        let now = self.clock.now();
        let mut holds = true;
        let mut writes = Vec::new();
        for (sort, what, condition) in &changes {
            let sort = name(*sort);
            let current = self.live(&of, &sort);
            let stale = crate::Version([9; 16]);
            let require = match condition {
                Condition::Nothing => Require::Nothing,
                Condition::Absent => Require::Absent,
                Condition::Present => Require::Present,
                Condition::Current => current.map_or(Require::Absent, |(_, version)| Require::Version(version)),
                Condition::Stale => Require::Version(stale),
            };
            holds &= match &require {
                Require::Nothing => true,
                Require::Absent => current.is_none(),
                Require::Present => current.is_some(),
                Require::Version(version) => current.is_some_and(|(_, current)| current == *version),
            };
            let sort = Bytes::from(sort);
            writes.push(match what {
                What::Put(value, ttl) => {
                    let expires = ttl.map(|seconds| now.plus(Duration::from_secs(seconds)));
                    Change::Put { sort, value: vec![*value].into(), expires, require }
                }
                What::Delete => Change::Delete { sort, require },
                What::Check => Change::Check { sort, require },
            });
        }
        let write = Write {
            partition: Self::partition(partition),
            id: WriteId::fresh(),
            changes: writes.clone(),
            log: Logged::Values,
        };
        let result = self.store.write(write, by()).await;
        assert_eq!(result.is_ok(), holds, "{writes:?} gave {result:?}");
        let Ok(done) = result else { return };
        for change in writes {
            let key = (of.clone(), change.sort().to_vec());
            match change {
                Change::Put { value, expires, .. } => drop(self.model.insert(key, (value[0], done.version, expires))),
                Change::Delete { .. } => drop(self.model.remove(&key)),
                Change::Check { .. } => {}
            }
        }
    }

    async fn scan(&self, partition: u8, from: u8, to: u8, max: u32) {
        let of = name(partition);
        let (from, to) = (name(from), if to == 0 { Vec::new() } else { name(to) });
        let expected: Vec<_> = self
            .model
            .keys()
            .filter(|(p, sort)| *p == of && *sort >= from && (to.is_empty() || *sort < to))
            .filter_map(|(p, sort)| self.live(p, sort).map(|(value, version)| (sort.clone(), value, version)))
            .collect();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = Page { after, rows_max: max, bytes_max: 100 };
            let range = Bytes::from(from.clone())..Bytes::from(to.clone());
            let slice = self.store.scan(&Self::partition(partition), range, page, by()).await.unwrap();
            found.extend(slice.items.into_iter().map(|row| (row.sort.to_vec(), row.value[0], row.version)));
            after = slice.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected);
    }

    async fn list(&self, prefix: u8, max: u32) {
        let prefix = if prefix == 4 { Vec::new() } else { name(prefix) };
        let mut expected: Vec<_> = self
            .model
            .keys()
            .filter(|(p, sort)| p.starts_with(&prefix) && self.live(p, sort).is_some())
            .map(|(p, _)| Bytes::from(p.clone()))
            .collect();
        expected.dedup();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = Page { after, rows_max: max, bytes_max: 100 };
            let of = Name::namespace_default();
            let slice = self.store.partitions(&of, Space::Value, &prefix, page, by()).await.unwrap();
            found.extend(slice.items);
            after = slice.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "prefix {prefix:?}");
    }
}

/// Upkeep runs all the time, so that it gets in the way wherever it can.
fn config() -> Config {
    Config { upkeep_interval_ms: 1, upkeep_rows_max: 2, cache_bytes: 1 << 20, ..Config::default() }
}

#[test]
fn random_operations_agree_with_a_plain_map() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Cases { cases: 64, failure_persistence: None, ..Cases::default() });
    let result = runner.run(&steps(), |steps| {
        runtime.block_on(async {
            let place = place();
            let clock = WallClock::manual(WallTime(1_000_000));
            let store = Embedded::open_with(&place.path, config(), clock.clone()).unwrap();
            let mut pair = Pair { place, clock, store, model: Model::new() };
            for step in steps {
                pair.step(step).await;
            }
            pair.store.close().await;
        });
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn names_keep_their_order_and_read_back() {
    let names = proptest::collection::vec(any::<u8>(), 1..12);
    let mut runner = TestRunner::new(Cases { cases: 2_000, failure_persistence: None, ..Cases::default() });
    let key = |name: &[u8]| {
        let mut key = Vec::new();
        layout::escape(&mut key, name);
        key.extend_from_slice(&[0, 0]);
        key
    };
    let result = runner.run(&(names.clone(), names), |(a, b)| {
        prop_assert_eq!(a.cmp(&b), key(&a).cmp(&key(&b)));
        prop_assert_eq!(layout::split_name(&[&key(&a)[..], &b].concat()), Some((a.clone(), key(&a).len())));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
