//! The main job, as a new user walks it.

use faas_loadtest::samples;
use http::Method;
use serde_json::json;

use crate::{House, house};

pub(crate) async fn deploy_invoke_list_roll_back_and_remove(h: House) {
    let manifest = h.folder.path().join("greeter");
    samples::manifest(&manifest, "greeter", "hello", "env = { MARK = \"one\" }").unwrap();
    h.platform.deploy(&manifest).await.unwrap();

    let answer = h.client.get(&h.platform.url("/function/greeter")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("Hello"), "{}", answer.text());
    assert_eq!(answer.header("x-faas-origin"), "function");
    assert!(!answer.header("x-call-id").is_empty());
    assert!(answer.header("server-timing").contains("run;dur="), "{}", answer.header("server-timing"));

    samples::manifest(&manifest, "greeter", "hello", "env = { MARK = \"two\" }").unwrap();
    h.platform.deploy(&manifest).await.unwrap();
    let versions = h.platform.cli(&["versions", "greeter", "--output", "json"]).await.unwrap();
    let versions: serde_json::Value = serde_json::from_str(&versions.stdout).unwrap();
    assert_eq!(versions.as_array().unwrap().len(), 2, "{versions}");

    let back = h.platform.cli(&["rollback", "greeter", "--output", "json"]).await.unwrap();
    assert_eq!(back.code, 0, "{}", back.stderr);
    let described = h.platform.cli(&["describe", "greeter", "--output", "json"]).await.unwrap();
    assert!(described.stdout.contains("\"one\""), "{}", described.stdout);

    let listed = h.platform.cli(&["ls", "--output", "json"]).await.unwrap();
    assert!(listed.stdout.contains("greeter"), "{}", listed.stdout);
    let removed = h.platform.cli(&["rm", "greeter"]).await.unwrap();
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    assert_eq!(h.client.get(&h.platform.url("/function/greeter")).await.unwrap().status, 404);
}

pub(crate) async fn orders_are_stored_listed_and_counted(h: House) {
    h.platform.deploy(&samples::folder("orders")).await.unwrap();
    let base = h.platform.url("/function/orders");
    let order =
        json!({ "id": "o-1", "customer": "ada", "items": [{ "sku": "tea", "quantity": 2, "price_cents": 450 }] });
    let placed = h.client.post(&format!("{base}/orders"), &order).await.unwrap();
    assert_eq!(placed.status, 201, "{}", placed.text());
    let again = h.client.post(&format!("{base}/orders"), &order).await.unwrap();
    assert!(again.status == 200 || again.status == 409, "{} {}", again.status, again.text());
    let read = h.client.get(&format!("{base}/orders/o-1")).await.unwrap();
    assert_eq!(read.json()["customer"], "ada");
    let list = h.client.get(&format!("{base}/orders")).await.unwrap();
    assert!(list.text().contains("o-1"), "{}", list.text());
    let bad = h.client.post(&format!("{base}/orders"), &json!({ "customer": "" })).await.unwrap();
    assert!(bad.status == 400 || bad.status == 422, "{}", bad.status);
    assert_eq!(bad.header("x-faas-origin"), "function", "a function's own errors pass untouched");
}

#[tokio::test]
async fn a_photograph_is_resized() {
    let h = house().await;
    let folder = samples::folder("thumbnail");
    h.platform.deploy(&folder).await.unwrap();
    let photos = std::fs::read_dir(folder.join("photos")).unwrap().map(|e| e.unwrap().path());
    let photo = photos.into_iter().find(|p| p.extension().is_some_and(|e| e == "jpg")).unwrap();
    let url = h.platform.url("/function/thumbnail/?width=120");
    let photo = std::fs::read(photo).unwrap();
    let answer = h.client.send(Method::POST, &url, &[("content-type", "image/jpeg")], photo.clone()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body.starts_with(&[0xff, 0xd8, 0xff]), "a JPEG");
    assert!(answer.body.len() < photo.len());
    let refused = h.client.send(Method::POST, &url, &[("content-type", "image/jpeg")], "no image").await.unwrap();
    assert!(refused.status == 415 || refused.status == 422, "{}", refused.status);
}

#[tokio::test]
async fn a_new_function_builds_and_deploys_from_the_template() {
    let h = house().await;
    let made = h.platform.cli_in(h.folder.path(), &["new", "my-first", "--template", "rust"]).await.unwrap();
    assert_eq!(made.code, 0, "{}", made.stderr);
    let again = h.platform.cli_in(h.folder.path(), &["new", "my-first"]).await.unwrap();
    assert_ne!(again.code, 0, "an existing folder is not overwritten");
    let folder = h.folder.path().join("my-first");
    let folder = folder.to_str().unwrap();
    let built = h.platform.cli(&["build", folder]).await.unwrap();
    assert_eq!(built.code, 0, "{}", built.stderr);
    let deployed = h.platform.cli(&["deploy", folder]).await.unwrap();
    assert_eq!(deployed.code, 0, "{}", deployed.stderr);
    let answer = h.client.get(&h.platform.url("/function/my-first")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let invoked = h.platform.cli(&["invoke", "my-first"]).await.unwrap();
    assert_eq!((invoked.code, invoked.stdout.is_empty()), (0, false), "{}", invoked.stderr);
    let logged = h.platform.cli(&["logs", "my-first"]).await.unwrap();
    assert!(logged.stdout.contains("GET /"), "{} {}", logged.stdout, logged.stderr);
}

#[tokio::test]
async fn the_platform_is_ready_fast_and_stops_on_sigterm() {
    let mut h = house().await;
    assert_eq!(h.client.get(&h.platform.control("/healthz")).await.unwrap().status, 200);
    assert_eq!(h.client.get(&h.platform.control("/readyz")).await.unwrap().status, 200);
    assert_eq!(h.platform.terminate().await.unwrap(), Some(0), "{}", h.platform.log_tail());
}
