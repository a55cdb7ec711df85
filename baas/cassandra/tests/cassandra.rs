//! The store on real nodes: the list of every store, and what goes wrong with a cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use faas_cassandra::{ASK_MAX, Cassandra, Config, OpenError, SCHEMA_VERSION, migrate};
use faas_loadtest::cassandra::{Node, keyspace, shared};
use faas_model::Name;
use faas_model::units::Millis;
use faas_store::conformance::{CHECKS, Subject};
use faas_store::{
    Change, Fate, Key, Logged, Partition, Read, Require, Space, Store, StoreError, WallClock, WallTime, Write, WriteId,
};
use scylla::client::session_builder::SessionBuilder;
use tokio::time::{Instant, sleep};

/// Returns how to reach a node, with a keyspace of the caller's own.
fn config(node: String) -> Config {
    Config { nodes: vec![node], keyspace: keyspace(), ..Config::default() }
}

async fn subject() -> Subject {
    let config = config(shared().unwrap());
    let migrated = migrate(&config).await.unwrap();
    assert_eq!((migrated.from, migrated.to), (0, SCHEMA_VERSION));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let clock = WallClock::manual(WallTime(u64::try_from(now.as_millis()).unwrap()));
    let store = Cassandra::open(&config, clock.clone()).await.unwrap();
    Subject::new(Arc::new(store), clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn cassandra_passes_the_list_of_every_store() {
    for (name, check) in CHECKS {
        eprintln!("{name}");
        check(subject().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_is_told_with_its_address() {
    let config = Config {
        nodes: vec!["127.0.0.1:1".into()],
        connect_timeout: Millis(500),
        start_wait: Millis(600),
        ..Config::default()
    };
    let began = Instant::now();
    let error = Cassandra::open(&config, WallClock::system()).await.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(250), "it was tried more than once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_a_cluster_that_comes_up_later() {
    let node = Node::new(false).unwrap();
    let config = Config { start_wait: Millis(170_000), ..config(node.address()) };
    let starting = tokio::spawn(async move {
        migrate(&config).await.unwrap();
        Cassandra::open(&config, WallClock::system()).await.map(drop)
    });
    sleep(Duration::from_millis(300)).await;
    assert!(!starting.is_finished());
    node.start().unwrap();
    starting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_missing_or_newer_is_told_with_what_to_do() {
    let config = config(shared().unwrap());
    let error = Cassandra::open(&config, WallClock::system()).await.unwrap_err().to_string();
    assert!(error.contains("schema 0") && error.contains("run `faas baas migrate`"), "{error}");
    migrate(&config).await.unwrap();
    let session = SessionBuilder::new().known_nodes(&config.nodes).build().await.unwrap();
    let newer = format!("UPDATE \"{}\".\"schema\" SET version = 99 WHERE part = 'store'", config.keyspace);
    session.query_unpaged(newer, ()).await.unwrap();
    let told = |error: String| error.contains("schema 99") && error.contains("a newer program made it");
    let error = Cassandra::open(&config, WallClock::system()).await.unwrap_err().to_string();
    assert!(told(error.clone()), "{error}");
    let error = migrate(&config).await.unwrap_err().to_string();
    assert!(told(error.clone()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_at_once_make_one_schema() {
    let config = config(shared().unwrap());
    let tasks = (0..4).map(|_| {
        tokio::spawn({
            let config = config.clone();
            async move { migrate(&config).await }
        })
    });
    for migrated in futures_util::future::join_all(tasks).await {
        assert_eq!(migrated.unwrap().unwrap().to, SCHEMA_VERSION);
    }
    assert_eq!(migrate(&config).await.unwrap().from, SCHEMA_VERSION, "nothing is left to be done");
    let store = Cassandra::open(&config, WallClock::system()).await.unwrap();
    put(&store, 1, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_told_and_right_ones_work() {
    let node = Node::new(true).unwrap();
    node.start().unwrap();
    let with =
        |password: &str| Config { user: "cassandra".into(), password: password.into(), ..config(node.address()) };
    // The first user comes a moment after the node.
    let until = Instant::now() + Duration::from_secs(60);
    let right = with("cassandra");
    while let Err(error) = migrate(&right).await {
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(200)).await;
    }
    let store = Cassandra::open(&right, WallClock::system()).await.unwrap();
    put(&store, 1, soon()).await.unwrap();
    for wrong in [Config { keyspace: right.keyspace.clone(), ..with("hidden") }, config(node.address())] {
        let error = Cassandra::open(&wrong, WallClock::system()).await.unwrap_err();
        assert!(matches!(error, OpenError::Credentials { .. }), "{error:?}");
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn key(n: u32) -> Key {
    let name = Bytes::from(format!("key-{n}"));
    Key { partition: Partition { namespace: Name::namespace_default(), space: Space::Value, name }, sort: Bytes::new() }
}

fn write(n: u32) -> Write {
    let value = Bytes::from(n.to_string());
    let changes = vec![Change::Put { sort: Bytes::new(), value, expires: None, require: Require::Absent }];
    Write { partition: key(n).partition, id: WriteId::fresh(), changes, log: Logged::Values }
}

async fn put(store: &Cassandra, n: u32, by: Instant) -> Result<WriteId, (WriteId, StoreError)> {
    let write = write(n);
    let id = write.id;
    store.write(write, by).await.map(|_| id).map_err(|error| (id, error))
}

/// Writes until it works again; returns how long that took.
async fn recovers(store: &Cassandra, from: u32) -> Duration {
    let begun = Instant::now();
    for n in from.. {
        if put(store, n, Instant::now() + Duration::from_secs(1)).await.is_ok() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no write works any more");
        sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_held_still_or_killed_costs_no_acknowledged_write() {
    let node = Node::new(false).unwrap();
    node.start().unwrap();
    let config = Config { request_timeout: Millis(1_000), breaker_failures: 3, ..config(node.address()) };
    migrate(&config).await.unwrap();
    let store = Cassandra::open(&config, WallClock::system()).await.unwrap();
    let mut acknowledged = Vec::new();
    let mut unknown = Vec::new();
    for n in 0..20 {
        put(&store, n, soon()).await.unwrap();
        acknowledged.push(n);
    }
    node.run("pause").unwrap();
    for n in 100..110 {
        let begun = Instant::now();
        let by = begun + Duration::from_millis(700);
        let read = store.get(&key(0), Read::Linearizable, by).await;
        assert!(matches!(read, Err(StoreError::Unavailable { .. } | StoreError::Deadline)), "{read:?}");
        let (id, error) = put(&store, n, by + Duration::from_millis(300)).await.unwrap_err();
        let told = matches!(error, StoreError::Unavailable { .. } | StoreError::Deadline | StoreError::Unknown(_));
        assert!(told, "{error:?}");
        unknown.push((n, id, error));
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "an answer comes with its deadline, not {:?}",
            begun.elapsed()
        );
    }
    node.run("resume").unwrap();
    eprintln!("after a pause: {:?}", recovers(&store, 200).await);
    node.run("kill").unwrap();
    let (id, error) = put(&store, 300, Instant::now() + Duration::from_secs(1)).await.unwrap_err();
    unknown.push((300, id, error));
    node.start().unwrap();
    eprintln!("after a kill: {:?}", recovers(&store, 400).await);
    for n in acknowledged {
        let row = store.get(&key(n), Read::Linearizable, soon()).await.unwrap();
        assert_eq!(row.map(|row| row.value), Some(Bytes::from(n.to_string())), "{n} was acknowledged");
    }
    for (n, id, error) in unknown {
        let fate = store.fate(&key(n).partition, id, soon()).await.unwrap();
        let row = store.get(&key(n), Read::Linearizable, soon()).await.unwrap();
        let committed = matches!(fate, Fate::Committed(_));
        assert_eq!(row.is_some(), committed, "{n}: {error:?}, then {fate:?}");
        assert!(!committed || matches!(error, StoreError::Unknown(_)), "{n}: {error:?} said that nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_every_node_and_does_not_wait_for_one_that_is_away() {
    let node = Node::new(false).unwrap();
    node.start().unwrap();
    let config = config(node.address());
    migrate(&config).await.unwrap();
    // Nothing but the status itself ends its wait.
    let long = Millis(60_000);
    let config = Config { request_timeout: long, connect_timeout: long, breaker_failures: 1, ..config };
    let store = Cassandra::open(&config, WallClock::system()).await.unwrap();
    let status = store.status().await;
    assert_eq!((status.store, status.cluster, status.schema), ("cassandra", "up", Some(SCHEMA_VERSION)));
    assert_eq!((status.breaker.state, status.breaker.failures, status.requests.in_flight), ("closed", 0, 0));
    let [only] = &status.nodes[..] else { panic!("{status:?}") };
    assert_eq!((&only.address, only.connected, only.tokens), (&node.address(), true, 16));
    assert_eq!((only.datacenter.as_deref(), only.rack.as_deref()), (Some("dc1"), Some("rack1")));
    assert!(only.version.as_ref().unwrap().starts_with("5.0"), "{only:?}");
    assert!(only.round_trip_us.is_some_and(|us| us > 0));
    assert_eq!((only.hint_files, only.repairs_running, only.repairs_pending), (Some(0), Some(0), Some(0)));
    for away in ["pause", "kill"] {
        node.run(away).unwrap();
        let (begun, key) = (Instant::now(), key(0));
        let (read, status) =
            tokio::join!(store.get(&key, Read::Linearizable, begun + Duration::from_secs(1)), store.status());
        let took = begun.elapsed();
        read.unwrap_err();
        assert_eq!((status.cluster, status.schema), ("away", None), "{away}");
        assert!(status.nodes[0].version.is_none() && status.nodes[0].hint_files.is_none(), "{away}: {status:?}");
        // The seconds beyond it are for a machine that is busy.
        assert!(took < ASK_MAX + Duration::from_secs(20), "{away}: {took:?}");
        let breaker = store.status().await.breaker;
        assert!(breaker.state != "closed" && breaker.failures > 0, "{away}: {breaker:?}");
    }
    node.run("resume").ok();
    node.start().unwrap();
    let back = tokio::time::timeout(Duration::from_secs(120), async {
        while store.status().await.cluster != "up" {
            sleep(Duration::from_millis(100)).await;
        }
    });
    back.await.expect("the status sees that it is back");
}
