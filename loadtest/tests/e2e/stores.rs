//! What holds on every store, the embedded one and Cassandra.

use std::time::Duration;

use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::{cassandra, samples};
use http::Method;
use serde_json::json;

use crate::{House, deploys, house, walk};

/// Runs the same checks on a platform of each store.
macro_rules! alike {
    ($($module:ident::$check:ident,)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $check() {
                super::$module::$check(super::house().await).await;
            })*
        }
        mod on_cassandra {
            $(#[tokio::test]
            async fn $check() {
                super::$module::$check(super::clustered(super::cassandra::keyspace()).await).await;
            })*
        }
    };
}

mod here {
    pub(super) use super::{
        every_answer_names_the_store, its_state_is_told_to_the_operator, keys_are_written_compared_counted_and_listed,
        state_survives_the_process,
    };
}

alike! {
    walk::deploy_invoke_list_roll_back_and_remove,
    walk::orders_are_stored_listed_and_counted,
    deploys::the_same_content_again_is_the_same_revision,
    deploys::a_failed_deploy_names_its_phase_and_leaves_nothing,
    deploys::a_failed_probe_keeps_the_old_revision,
    deploys::no_request_fails_while_revisions_change,
    here::keys_are_written_compared_counted_and_listed,
    here::state_survives_the_process,
    here::every_answer_names_the_store,
    here::its_state_is_told_to_the_operator,
}

/// Returns what makes a platform use the shared node.
pub(crate) fn on_cassandra(keyspace: &str) -> Options {
    on(&cassandra::shared().unwrap(), keyspace)
}

pub(crate) fn on(node: &str, keyspace: &str) -> Options {
    let env = [
        ("FAAS_STORE_TYPE", "cassandra".to_owned()),
        ("FAAS_CASSANDRA_NODES", format!("[\"{node}\"]")),
        ("FAAS_CASSANDRA_KEYSPACE", keyspace.to_owned()),
    ];
    Options { env: env.map(|(name, value)| (name.to_owned(), value)).into(), ..Options::default() }
}

pub(crate) async fn migrate(options: &Options) -> (i32, String) {
    let mut command = tokio::process::Command::new(faas_loadtest::platform::binary().unwrap());
    command.args(["baas", "migrate"]).envs(options.env.iter().map(|(name, value)| (name, value)));
    let output = command.output().await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

async fn clustered(keyspace: String) -> House {
    let options = on_cassandra(&keyspace);
    let (code, text) = migrate(&options).await;
    assert_eq!(code, 0, "{text}");
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(folder.path(), options).await.unwrap();
    House { platform, client: faas_loadtest::http::Client::default(), folder }
}

#[tokio::test]
async fn a_start_without_a_schema_says_what_to_do() {
    let options = on_cassandra(&cassandra::keyspace());
    let folder = tempfile::tempdir().unwrap();
    let error = Platform::start(folder.path(), options.clone()).await.unwrap_err().to_string();
    assert!(error.contains("has schema 0") && error.contains("faas baas migrate"), "{error}");
    let (code, text) = migrate(&options).await;
    assert!(code == 0 && text.contains("has schema 1 now"), "{text}");
    let (code, text) = migrate(&options).await;
    assert!(code == 0 && text.contains("has schema 1 already"), "{text}");
    let (code, text) = migrate(&Options::default()).await;
    assert!(code == 64 && text.contains("store.type"), "{code} {text}");
}

/// The key-value door, with all that it offers.
async fn keys_are_written_compared_counted_and_listed(h: House) {
    let token = format!("Bearer {}", h.platform.token().unwrap());
    let send = async |method: Method, path: &str, headers: &[(&str, &str)], body: String| {
        let mut all = vec![("authorization", token.as_str())];
        all.extend_from_slice(headers);
        h.client.send(method, &h.platform.baas(path), &all, body).await.unwrap()
    };
    let put = send(Method::PUT, "/kv/b/one", &[("if-none-match", "*")], "first".into()).await;
    assert_eq!(put.status, 204, "{}", put.text());
    let etag = put.header("etag").to_owned();
    assert_eq!(send(Method::PUT, "/kv/b/one", &[("if-none-match", "*")], "x".into()).await.status, 412);
    assert_eq!(send(Method::PUT, "/kv/b/one", &[("if-match", &etag)], "second".into()).await.status, 204);
    assert_eq!(send(Method::PUT, "/kv/b/one", &[("if-match", &etag)], "x".into()).await.status, 412);
    let read = send(Method::GET, "/kv/b/one", &[], String::new()).await;
    assert_eq!((read.status.as_u16(), read.text().as_str()), (200, "second"));
    for n in 1..=5 {
        let counted = send(Method::POST, "/kv/b/count?op=incr&by=2", &[], String::new()).await;
        assert_eq!(counted.text(), (2 * n).to_string());
    }
    let changes = json!({ "changes": [{ "put": "a-{t}", "value": "1" }, { "put": "b-{t}", "value": "2" }, { "delete": "c-{t}" }] });
    let batch =
        send(Method::POST, "/kv/b?op=batch", &[("content-type", "application/json")], changes.to_string()).await;
    assert_eq!(batch.status, 204, "{}", batch.text());
    let listed = send(Method::GET, "/kv/b?limit=2", &[], String::new()).await.json();
    assert_eq!(listed["keys"], json!(["a-{t}", "b-{t}"]));
    let next = listed["next"].as_str().unwrap();
    let listed = send(Method::GET, &format!("/kv/b?limit=10&after={next}"), &[], String::new()).await.json();
    assert_eq!(listed["keys"], json!(["count", "one"]));
    assert_eq!(send(Method::PUT, "/kv/b/mortal", &[("faas-ttl", "1")], "x".into()).await.status, 204);
    let gone = tokio::time::timeout(Duration::from_secs(20), async {
        while send(Method::GET, "/kv/b/mortal", &[], String::new()).await.status != 404 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    gone.await.expect("it expires");
    assert_eq!(send(Method::DELETE, "/kv/b/one", &[], String::new()).await.status, 204);
    assert_eq!(send(Method::GET, "/kv/b/one", &[], String::new()).await.status, 404);
}

/// Deploys, aliases and state are there after a kill.
async fn state_survives_the_process(mut h: House) {
    h.platform.deploy(&samples::folder("orders")).await.unwrap();
    let order =
        json!({ "id": "o-1", "customer": "ada", "items": [{ "sku": "tea", "quantity": 2, "price_cents": 450 }] });
    let placed = h.client.post(&h.platform.url("/function/orders/orders"), &order).await.unwrap();
    assert_eq!(placed.status, 201, "{}", placed.text());
    h.platform = h.platform.crash_and_restart().await.unwrap();
    let read = h.client.get(&h.platform.url("/function/orders/orders/o-1")).await.unwrap();
    assert_eq!((read.status.as_u16(), &read.json()["customer"]), (200, &json!("ada")), "{}", read.text());
}

/// Which store it is, on answers of every kind; the configuration decides.
async fn every_answer_names_the_store(h: House) {
    let token = format!("Bearer {}", h.platform.token().unwrap());
    let is =
        if h.platform.options().env.iter().any(|(_, value)| value == "cassandra") { "cassandra" } else { "embedded" };
    let with: &[(&str, &str)] = &[("authorization", &token)];
    for (method, path, headers, status) in [
        (Method::PUT, "/kv/b/one", with, 204),
        (Method::GET, "/kv/b/one", with, 200),
        (Method::GET, "/kv/b/none", with, 404),
        (Method::PATCH, "/kv/b/one", with, 405),
        (Method::GET, "/kv/b/one", &[], 401),
    ] {
        let answer = h.client.send(method, &h.platform.baas(path), headers, String::new()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("faas-store")), (status, is), "{path}");
    }
}

/// Runs `faas baas status` on a platform.
async fn status(platform: &Platform, output: &str) -> (i32, String) {
    let mut command = tokio::process::Command::new(faas_loadtest::platform::binary().unwrap());
    command.args(["baas", "status", "-o", output, "--url", &platform.control("")]);
    let output = command.env("FAAS_TOKEN", platform.token().unwrap()).output().await.unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Text for people, a document for programs, from the embedded store and from Cassandra.
async fn its_state_is_told_to_the_operator(h: House) {
    let (code, text) = status(&h.platform, "json").await;
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 0, "{text}");
    let (code, text) = status(&h.platform, "table").await;
    assert_eq!(code, 0, "{text}");
    if told["store"] == "cassandra" {
        assert_eq!((&told["cluster"], &told["schema"]), (&json!("up"), &json!(1)), "{told}");
        assert_eq!(
            (&told["breaker"]["state"], &told["nodes"][0]["hint_files"]),
            (&json!("closed"), &json!(0)),
            "{told}"
        );
        assert!(text.contains("NODE ") && text.contains("5.0") && text.contains("requests.in_flight_max"), "{text}");
    } else {
        assert_eq!(told["store"], "embedded");
        assert!(told["file_bytes"].as_u64().unwrap() > 0 && text.contains("commits"), "{told} {text}");
    }
    let metrics = h.client.get(&h.platform.control("/metrics")).await.unwrap();
    assert_eq!(metrics.status, 401, "with the token alone");
}

/// A node that is held still, then killed: the operator is told so at once, and the breaker is seen open.
#[tokio::test]
async fn a_cluster_that_is_away_is_told_as_away() {
    let node = cassandra::Node::new(false).unwrap();
    node.start().unwrap();
    let mut options = on(&node.address(), &cassandra::keyspace());
    assert_eq!(migrate(&options).await.0, 0);
    options.env.push(("FAAS_CASSANDRA_REQUEST_TIMEOUT".into(), "500ms".into()));
    options.env.push(("FAAS_CASSANDRA_BREAKER_FAILURES".into(), "1".into()));
    options.env.push(("FAAS_BAAS_STORE_MS".into(), "1000".into()));
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(folder.path(), options).await.unwrap();
    let client = faas_loadtest::http::Client::default();
    let token = format!("Bearer {}", platform.token().unwrap());
    let with: &[(&str, &str)] = &[("authorization", &token)];
    for away in ["pause", "kill"] {
        node.run(away).unwrap();
        let read = client.send(Method::GET, &platform.baas("/kv/b/k"), with, String::new()).await.unwrap();
        assert_eq!(read.status, 503, "{away}: {}", read.text());
        let (code, text) = status(&platform, "json").await;
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &told["cluster"], &told["schema"]), (0, &json!("away"), &json!(null)), "{away}: {told}");
        assert_ne!(told["breaker"]["state"], "closed", "{away}: {told}");
        let (_, text) = status(&platform, "table").await;
        assert!(text.contains("away") && text.contains("not told"), "{away}: {text}");
        let metrics =
            client.send(Method::GET, &platform.control("/metrics"), with, String::new()).await.unwrap().text();
        assert!(metrics.contains("faas_cassandra_breaker_open 1"), "{metrics}");
    }
}
