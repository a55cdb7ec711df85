//! Several processes over one Cassandra: any of them deploys, all of them serve, and any of them may die.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use faas_loadtest::broker::{Broker, free_port};
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::{cassandra, samples};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::messages::{channel, order, publish, queue_exists};
use crate::stores::{migrate, on, on_cassandra};

/// Longest wait for what should come within a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two platforms over one keyspace.
struct Pair {
    one: Platform,
    two: Platform,
    client: Client,
    options: Options,
    folder: TempDir,
}

async fn pair(flags: &[&str]) -> Pair {
    let mut options = on_cassandra(&cassandra::keyspace());
    let (code, text) = migrate(&options).await;
    assert_eq!(code, 0, "{text}");
    options.flags = flags.iter().map(ToString::to_string).collect();
    let folder = tempfile::tempdir().unwrap();
    let start = |name| {
        let (data, options) = (folder.path().join(name), options.clone());
        async move { Platform::start(&data, options).await }
    };
    let (one, two) = (start("one").await.unwrap(), start("two").await.unwrap());
    Pair { one, two, client: Client::default(), options, folder }
}

impl Pair {
    /// Writes a function whose code is unlike any other, with more lines of its manifest.
    fn version(&self, name: &str, mark: u64, lines: &str) -> PathBuf {
        let folder = self.folder.path().join(format!("{name}-{mark}"));
        samples::manifest(&folder, name, "hello", lines).unwrap();
        samples::mark(&folder, mark).unwrap();
        folder
    }

    /// Waits until the platform answers for a function with that revision, or with 404.
    async fn answers(&self, platform: &Platform, name: &str, revision: Option<&str>) {
        let (url, began) = (platform.url(&format!("/function/{name}")), Instant::now());
        loop {
            let answer = self.client.get(&url).await.unwrap();
            let good = match revision {
                Some(revision) => answer.status == 200 && answer.header("x-faas-revision") == &revision[..12],
                None => answer.status == 404,
            };
            if good {
                return;
            }
            let got = (answer.status, answer.header("x-faas-revision").to_owned());
            assert!(began.elapsed() < PATIENCE, "{name}: wanted {revision:?}, got {got:?}: {}", platform.log_tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn deploy(platform: &Platform, folder: &Path) -> String {
    let deployed: Value = serde_json::from_str(&platform.deploy(folder).await.unwrap().stdout).unwrap();
    let deployed = deployed.as_array().map_or(&deployed, |all| &all[0]);
    deployed["revision"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_one_process_changes_is_served_by_the_other() {
    let p = pair(&[]).await;
    let first = deploy(&p.one, &p.version("f", 1, "")).await;
    p.answers(&p.two, "f", Some(&first)).await;
    let second = deploy(&p.two, &p.version("f", 2, "")).await;
    p.answers(&p.one, "f", Some(&second)).await;
    // One that never saw the first revision's file deployed by itself goes back to it.
    assert_eq!(p.two.cli(&["rollback", "f"]).await.unwrap().code, 0);
    p.answers(&p.one, "f", Some(&first)).await;
    p.answers(&p.two, "f", Some(&first)).await;
    assert_eq!(p.one.cli(&["rm", "f"]).await.unwrap().code, 0);
    p.answers(&p.two, "f", None).await;
    let third = deploy(&p.two, &p.version("f", 3, "")).await;
    p.answers(&p.one, "f", Some(&third)).await;
}

#[tokio::test]
async fn a_route_belongs_to_one_function_whichever_process_deploys() {
    let p = pair(&[]).await;
    let route = "[[functions.NAME.trigger.http]]\nroute = \"/shop\"\n";
    let folders = ["a", "b"].map(|name| p.version(name, 1, &route.replace("NAME", name)));
    let deploys = [(&p.one, &folders[0]), (&p.two, &folders[1])];
    let outcomes = futures_util::future::join_all(deploys.map(|(platform, folder)| {
        let folder = folder.to_str().unwrap().to_owned();
        async move { platform.cli(&["deploy", &folder]).await.unwrap() }
    }));
    let outcomes = outcomes.await;
    let refused: Vec<_> = outcomes.iter().filter(|outcome| outcome.code != 0).collect();
    assert_eq!(refused.len(), 1, "{outcomes:?}");
    assert!(refused[0].stderr.contains("/shop") && refused[0].stderr.contains("belongs to"), "{}", refused[0].stderr);
}

#[tokio::test]
async fn the_token_of_one_is_let_in_by_the_other_and_state_is_the_same() {
    let p = pair(&[]).await;
    let token = format!("Bearer {}", p.one.token().unwrap());
    assert_ne!(p.one.token().unwrap(), p.two.token().unwrap());
    let headers = [("authorization", token.as_str())];
    // The first process reads the tokens of others every second; the second one read this one's at its start.
    let put = p.client.send(http::Method::PUT, &p.two.baas("/kv/b/k"), &headers, "v").await.unwrap();
    assert_eq!(put.status, 204, "{}", put.text());
    let read = p.client.send(http::Method::GET, &p.one.baas("/kv/b/k"), &headers, String::new()).await.unwrap();
    assert_eq!((read.status.as_u16(), read.text().as_str()), (200, "v"));
    let stranger = [("authorization", "Bearer faas_root_00000000_0000")];
    let refused = p.client.send(http::Method::GET, &p.one.baas("/kv/b/k"), &stranger, String::new()).await.unwrap();
    assert_eq!(refused.status, 401);
}

#[tokio::test]
async fn a_killed_process_takes_nothing_with_it() {
    let mut p = pair(&[]).await;
    let order =
        json!({ "id": "o-1", "customer": "ada", "items": [{ "sku": "tea", "quantity": 2, "price_cents": 450 }] });
    let orders = deploy(&p.one, &samples::folder("orders")).await;
    let hello = deploy(&p.one, &p.version("f", 1, "")).await;
    let placed = p.client.post(&p.one.url("/function/orders/orders"), &order).await.unwrap();
    assert_eq!(placed.status, 201, "{}", placed.text());
    p.answers(&p.two, "orders", Some(&orders)).await;
    p.one.kill().await.unwrap();
    // Its folder, with the only files of the code so far, is gone with it.
    std::fs::remove_dir_all(p.folder.path().join("one")).unwrap();
    p.answers(&p.two, "f", Some(&hello)).await;
    let read = p.client.get(&p.two.url("/function/orders/orders/o-1")).await.unwrap();
    assert_eq!((read.status.as_u16(), &read.json()["customer"]), (200, &json!("ada")), "{}", read.text());
    let next = deploy(&p.two, &p.version("f", 2, "")).await;
    let new = Platform::start(&p.folder.path().join("three"), p.options.clone()).await.unwrap();
    p.answers(&new, "f", Some(&next)).await;
    let read = p.client.get(&new.url("/function/orders/orders/o-1")).await.unwrap();
    assert_eq!(read.status, 200, "{}", read.text());
}

/// Everything of an embedded store goes into Cassandra, while a process runs over it, and answers as before.
/// `TRANSFER_KEYS` says with how many keys, 1,000 by default.
#[tokio::test]
async fn what_is_exported_from_one_store_is_served_from_the_other() {
    #[allow(clippy::disallowed_methods, reason = "how long a test is")]
    let keys: u32 = std::env::var("TRANSFER_KEYS").map_or(1_000, |keys| keys.parse().unwrap());
    let (mut old, p) = (crate::house().await, pair(&[]).await);
    let orders = deploy(&old.platform, &samples::folder("orders")).await;
    let version = deploy(&old.platform, &p.version("f", 1, "")).await;
    let order =
        json!({ "id": "o-1", "customer": "ada", "items": [{ "sku": "tea", "quantity": 2, "price_cents": 450 }] });
    assert_eq!(old.client.post(&old.platform.url("/function/orders/orders"), &order).await.unwrap().status, 201);
    let send = async |platform: &Platform, method: http::Method, n: u32, body: String| {
        let token = format!("Bearer {}", platform.token().unwrap());
        let headers = [("authorization", token.as_str())];
        p.client.send(method, &platform.baas(&format!("/kv/b/key-{n}")), &headers, body).await.unwrap()
    };
    futures_util::stream::iter(0..keys)
        .for_each_concurrent(32, async |n| {
            assert_eq!(send(&old.platform, http::Method::PUT, n, format!("value {n}")).await.status, 204);
        })
        .await;
    let (file, data) = (p.folder.path().join("all.ndjson"), old.platform.data().join("state"));
    let (code, text) = transfer(&["export"], &file, &data, &Options::default()).await;
    assert!(code == 75 && text.contains("in use"), "while it runs: {code} {text}");
    old.platform.terminate().await.unwrap();
    let (code, text) = transfer(&["export"], &file, &data, &Options::default()).await;
    assert_eq!(code, 0, "{text}");
    let new = p.folder.path().join("importer");
    let (code, text) = transfer(&["import"], &file, &new, &p.options).await;
    assert!(code == 0 && text.contains("2 codes"), "{text}");
    let (code, text) = transfer(&["import"], &file, &new, &p.options).await;
    assert!(code == 1 && text.contains("already"), "{code} {text}");
    let (code, text) = transfer(&["import", "--existing", "keep"], &file, &new, &p.options).await;
    assert!(code == 0 && text.contains("and 0 rows"), "{text}");
    for platform in [&p.one, &p.two] {
        p.answers(platform, "f", Some(&version)).await;
        p.answers(platform, "orders", Some(&orders)).await;
    }
    futures_util::stream::iter(0..keys)
        .for_each_concurrent(32, async |n| {
            let platform = if n % 2 == 0 { &p.one } else { &p.two };
            assert_eq!(send(platform, http::Method::GET, n, String::new()).await.text(), format!("value {n}"));
        })
        .await;
    let read = p.client.get(&p.two.url("/function/orders/orders/o-1")).await.unwrap();
    assert_eq!((read.status.as_u16(), &read.json()["customer"]), (200, &json!("ada")), "{}", read.text());
    let again = p.client.post(&p.one.url("/function/orders/orders"), &order).await.unwrap();
    assert_eq!(
        p.client.get(&p.one.url("/function/orders/totals")).await.unwrap().json()["count"],
        1,
        "{}",
        again.text()
    );
}

/// Runs `faas baas export` or `import` over a data folder.
async fn transfer(verb: &[&str], file: &Path, data: &Path, options: &Options) -> (i32, String) {
    let mut command = tokio::process::Command::new(faas_loadtest::platform::binary().unwrap());
    command.arg("baas").args(verb).arg(file).arg("--data").arg(data);
    let output = command.envs(options.env.iter().cloned()).output().await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn messages_are_taken_by_both_and_each_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("broker"), free_port().unwrap() + 600).await.unwrap();
    let p = pair(&["--amqp-url", &broker.url()]).await;
    deploy(&p.one, &samples::folder("orders")).await;
    queue_exists(&broker.url()).await;
    let metric = async |platform: &Platform, name: &str| {
        let token = format!("Bearer {}", platform.token().unwrap());
        let headers = [("authorization", token.as_str())];
        let answer = p.client.send(http::Method::GET, &platform.control("/metrics"), &headers, String::new()).await;
        let text = answer.unwrap().text();
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<f64>().ok()).sum::<f64>()
    };
    let consumes = async |platform: &Platform| metric(platform, "faas_amqp_consumers{").await > 0.0;
    let began = Instant::now();
    while !(consumes(&p.one).await && consumes(&p.two).await) {
        assert!(began.elapsed() < PATIENCE, "both consume: {}", p.two.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let sender = channel(&broker.url()).await;
    for n in 0..100 {
        publish(&sender, &format!("e-{n}"), &order(n)).await;
    }
    publish(&sender, "e-7", &order(7)).await;
    let began = Instant::now();
    loop {
        let totals = p.client.get(&p.one.url("/function/orders/totals")).await.unwrap().json();
        if totals["count"].as_u64() == Some(100) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "totals stay at {totals}: {}", p.one.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for platform in [&p.one, &p.two] {
        assert!(metric(platform, "faas_amqp_messages_total{").await > 0.0, "each took some");
    }
}

/// Functions without state go on, those with state are told so in time, and all is well soon after.
#[tokio::test]
async fn a_cluster_that_is_held_still_or_killed_stops_only_what_needs_it() {
    let node = cassandra::Node::new(false).unwrap();
    node.start().unwrap();
    let mut options = on(&node.address(), &cassandra::keyspace());
    let limit = Duration::from_secs(2);
    options.env.push(("FAAS_CASSANDRA_REQUEST_TIMEOUT".into(), limit.as_millis().to_string()));
    assert_eq!(migrate(&options).await.0, 0);
    let folder = tempfile::tempdir().unwrap();
    let (platform, client) = (Platform::start(folder.path(), options).await.unwrap(), Client::default());
    deploy(&platform, &samples::folder("hello")).await;
    deploy(&platform, &samples::folder("orders")).await;
    let token = format!("Bearer {}", platform.token().unwrap());
    let headers = [("authorization", token.as_str())];
    let state = async || client.send(http::Method::GET, &platform.baas("/kv/b/k"), &headers, "").await.unwrap();
    let orders = async || client.get(&platform.url("/function/orders/totals")).await.unwrap();
    assert_eq!((state().await.status.as_u16(), orders().await.status.as_u16()), (404, 200));
    for away in ["pause", "kill"] {
        node.run(away).unwrap();
        for _ in 0..20 {
            assert_eq!(client.get(&platform.url("/function/hello")).await.unwrap().status, 200, "{away}");
        }
        let began = Instant::now();
        let answer = state().await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (503, &json!("store_unavailable")), "{away}");
        // The door's own limit is `baas.store_ms`, 5 s.
        assert!(began.elapsed() < Duration::from_secs(6), "{away}: {:?}", began.elapsed());
        let answer = orders().await;
        assert!(answer.status.is_server_error(), "{away}: {} {}", answer.status, answer.text());
        if away == "pause" {
            node.run("resume").unwrap()
        } else {
            node.start().unwrap()
        }
        let began = Instant::now();
        while state().await.status != 404 || orders().await.status != 200 {
            assert!(began.elapsed() < PATIENCE, "{away}: {}", platform.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        eprintln!("after a {away}: {:?}", began.elapsed());
    }
}
