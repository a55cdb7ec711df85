//! Deploys: content addressing, refusals that leave nothing behind, and what changes while requests run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use faas_loadtest::samples;

use crate::{House, house};

fn files(h: &House) -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["blobs", "compiled"] {
        collect(&h.folder.path().join("state").join(folder), &mut names);
    }
    names.sort();
    names
}

fn collect(folder: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), names);
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
}

pub(crate) async fn the_same_content_again_is_the_same_revision(h: House) {
    let first: serde_json::Value =
        serde_json::from_str(&h.platform.deploy(&samples::folder("hello")).await.unwrap().stdout).unwrap();
    let before = files(&h);
    let second: serde_json::Value =
        serde_json::from_str(&h.platform.deploy(&samples::folder("hello")).await.unwrap().stdout).unwrap();
    let revision = |json: &serde_json::Value| json.as_array().map_or(json, |a| &a[0])["revision"].clone();
    assert_eq!(revision(&first), revision(&second));
    assert!(revision(&first).is_string(), "{first}");
    assert_eq!(files(&h), before);
}

pub(crate) async fn a_failed_deploy_names_its_phase_and_leaves_nothing(h: House) {
    h.platform.deploy(&samples::folder("hello")).await.unwrap();
    let before = files(&h);
    let cases: [(&str, &[u8]); 4] = [
        ("text", b"this is no WebAssembly"),
        ("core", b"\0asm\x01\0\0\0"),
        ("empty-component", b"\0asm\x0d\0\x01\0"),
        ("cut", b"\0asm\x0d\0\x01\0\x07\xff\xff"),
    ];
    for (name, code) in cases {
        let path = h.folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, code).unwrap();
        let outcome = h.platform.cli(&["deploy", path.to_str().unwrap(), "--name", "hello"]).await.unwrap();
        assert_eq!(outcome.code, 1, "{name}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("compile"), "{name}: {}", outcome.stderr);
        assert_eq!(files(&h), before, "{name} left files");
    }
    assert_eq!(h.client.get(&h.platform.url("/function/hello")).await.unwrap().status, 200, "the old revision answers");
    let listed = h.platform.cli(&["versions", "hello", "--output", "json"]).await.unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

pub(crate) async fn a_failed_probe_keeps_the_old_revision(h: House) {
    let manifest = h.folder.path().join("orders");
    samples::manifest(&manifest, "probed", "hello", "").unwrap();
    h.platform.deploy(&manifest).await.unwrap();
    // Orders without its bucket fails every call that touches state.
    samples::manifest(&manifest, "probed", "orders", "probe = \"/totals\"").unwrap();
    let outcome = h.platform.cli(&["deploy", manifest.to_str().unwrap()]).await.unwrap();
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("probe"), "{}", outcome.stderr);
    let answer = h.client.get(&h.platform.url("/function/probed")).await.unwrap();
    assert!(answer.text().contains("Hello"), "{}", answer.text());
}

pub(crate) async fn no_request_fails_while_revisions_change(h: House) {
    let manifest = h.folder.path().join("greeter");
    samples::manifest(&manifest, "greeter", "hello", "env = { N = \"start\" }").unwrap();
    h.platform.deploy(&manifest).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (client, url, stop) = (h.client.clone(), h.platform.url("/function/greeter"), stop.clone());
            tokio::spawn(async move {
                let mut answered = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(&url).await.unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for n in 0..8 {
        samples::manifest(&manifest, "greeter", "hello", &format!("env = {{ N = \"{}\" }}", n % 3)).unwrap();
        h.platform.deploy(&manifest).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn bad_manifests_are_refused_before_anything_is_sent() {
    let h = house().await;
    let folder = h.folder.path().join("bad");
    for (lines, says) in [("limts = {}", "limits"), ("scale = { max = 0 }", "scale.max"), ("state = [\"Bad\"]", "Bad")]
    {
        samples::manifest(&folder, "bad", "hello", lines).unwrap();
        let outcome = h.platform.cli(&["deploy", folder.to_str().unwrap()]).await.unwrap();
        assert_eq!(outcome.code, 65, "{lines}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{lines}: {}", outcome.stderr);
    }
}
