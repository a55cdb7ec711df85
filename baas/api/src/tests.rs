//! The whole door over both stores.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faas_model::{Body, BodyError, Digest, Name};
use faas_store::bucket::Buckets;
use faas_store::{Cached, Embedded, EmbeddedConfig, Memory, Store, WallClock, WallTime};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::{Auth, Config, Door};

/// A door and what is behind it.
struct Tried {
    door: Door,
    clock: WallClock,
    _folder: Option<tempfile::TempDir>,
}

fn door(store: Arc<dyn Store>, clock: &WallClock, config: Config) -> Door {
    let auth = Auth::token_sha256(*Digest::of(b"secret").as_bytes());
    Door::new(Buckets::new(store), "tried", auth, config, clock.clone())
}

/// Returns the door over an embedded store and over the strict one in memory.
fn both() -> [Tried; 2] {
    let clock = WallClock::manual(WallTime(1_000_000));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let embedded = Embedded::open_with(&path, EmbeddedConfig::default(), clock.clone()).unwrap();
    let embedded = door(Arc::new(embedded), &clock, Config::default());
    let memory_clock = WallClock::manual(WallTime(1_000_000));
    let memory = Memory::with_clock(memory_clock.clone());
    let memory = door(Arc::new(memory), &memory_clock, Config::default());
    [Tried { door: embedded, clock, _folder: Some(folder) }, Tried { door: memory, clock: memory_clock, _folder: None }]
}

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(target).header("authorization", "Bearer secret");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

struct Said {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Said {
    async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status.as_u16(), headers: parts.headers, body: body.collect(8 << 20).await.unwrap() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let json = self.json();
        assert_eq!(json["component"], "baas");
        assert_eq!(json["status"], self.status);
        json["reason"].as_str().unwrap().to_owned()
    }
}

impl Tried {
    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Said {
        Said::of(self.door.handle(request(method, target, headers, body)).await).await
    }

    async fn refuses(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
        why: (u16, &str),
    ) {
        let said = self.ask(method, target, headers, body).await;
        assert_eq!((said.status, said.reason().as_str()), why, "{method} {target} {headers:?}: {:?}", said.body);
    }
}

#[tokio::test]
async fn a_value_is_put_read_and_deleted() {
    for tried in both() {
        tried.refuses("GET", "/kv/b/k", &[], "", (404, "not_found")).await;
        let put = tried.ask("PUT", "/kv/b/k", &[], "value").await;
        assert_eq!((put.status, put.body.len()), (204, 0));
        let got = tried.ask("GET", "/kv/b/k", &[], "").await;
        assert_eq!((got.status, &got.body[..]), (200, &b"value"[..]));
        assert_eq!(got.header("etag"), put.header("etag"));
        assert!(got.header("etag").starts_with('"'));
        assert_eq!(got.header("content-type"), "application/octet-stream");
        let head = tried.ask("HEAD", "/kv/b/k", &[], "").await;
        assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, "5"));
        assert_eq!(head.header("etag"), put.header("etag"));
        tried.refuses("GET", "/kv/c/k", &[], "", (404, "not_found")).await;
        assert_eq!(tried.ask("DELETE", "/kv/b/k", &[], "").await.status, 204);
        assert_eq!(tried.ask("DELETE", "/kv/b/k", &[], "").await.status, 204);
        tried.refuses("GET", "/kv/b/k", &[], "", (404, "not_found")).await;
    }
}

#[tokio::test]
async fn preconditions_compare_and_set() {
    for tried in both() {
        let absent = [("if-none-match", "*")];
        let first = tried.ask("PUT", "/kv/b/k", &absent, "1").await;
        assert_eq!(first.status, 204);
        let again = tried.ask("PUT", "/kv/b/k", &absent, "x").await;
        assert_eq!((again.status, again.reason().as_str()), (412, "precondition_failed"));
        assert_eq!(again.header("etag"), first.header("etag"), "the current tag comes along");
        let second = tried.ask("PUT", "/kv/b/k", &[("if-match", first.header("etag"))], "2").await;
        assert_eq!(second.status, 204);
        assert_ne!(second.header("etag"), first.header("etag"));
        let stale = tried.ask("PUT", "/kv/b/k", &[("if-match", first.header("etag"))], "x").await;
        assert_eq!((stale.status, stale.header("etag")), (412, second.header("etag")));
        for strange in ["\"zz\"", "W/\"1\"", "\"\""] {
            tried.refuses("PUT", "/kv/b/k", &[("if-match", strange)], "x", (412, "precondition_failed")).await;
        }
        tried
            .refuses("DELETE", "/kv/b/k", &[("if-match", first.header("etag"))], "", (412, "precondition_failed"))
            .await;
        tried.refuses("DELETE", "/kv/b/none", &[("if-match", "*")], "", (412, "precondition_failed")).await;
        assert_eq!(tried.ask("GET", "/kv/b/k", &[], "").await.body, "2");
        assert_eq!(tried.ask("DELETE", "/kv/b/k", &[("if-match", second.header("etag"))], "").await.status, 204);
    }
}

#[tokio::test]
async fn a_reader_who_has_the_version_gets_304() {
    for tried in both() {
        let tag = tried.ask("PUT", "/kv/b/k", &[], "v").await.header("etag").to_owned();
        for same in [tag.clone(), format!("\"x\", W/{tag}"), "*".into()] {
            let got = tried.ask("GET", "/kv/b/k", &[("if-none-match", &same)], "").await;
            assert_eq!((got.status, got.body.len(), got.header("etag")), (304, 0, tag.as_str()), "{same}");
        }
        let got = tried.ask("GET", "/kv/b/k", &[("if-none-match", "\"other\"")], "").await;
        assert_eq!((got.status, &got.body[..]), (200, &b"v"[..]));
    }
}

#[tokio::test]
async fn a_value_with_a_time_to_live_ends() {
    for tried in both() {
        assert_eq!(tried.ask("PUT", "/kv/b/k", &[("faas-ttl", "10")], "v").await.status, 204);
        tried.clock.advance(Duration::from_millis(500));
        let got = tried.ask("GET", "/kv/b/k", &[], "").await;
        assert_eq!((got.status, got.header("faas-ttl")), (200, "10"), "rounded up");
        tried.clock.advance(Duration::from_millis(9_500));
        tried.refuses("GET", "/kv/b/k", &[], "", (404, "not_found")).await;
        for bad in ["0", "-1", "1.5", "x", "99999999999999999999", "3162240001"] {
            tried.refuses("PUT", "/kv/b/k", &[("faas-ttl", bad)], "v", (400, "bad_request")).await;
        }
    }
}

#[tokio::test]
async fn counters_add_by_query_or_body() {
    for tried in both() {
        let target = "/kv/b/n?op=incr";
        assert_eq!(tried.ask("POST", target, &[], "").await.body, "1");
        assert_eq!(tried.ask("POST", target, &[], "41\n").await.body, "42");
        assert_eq!(tried.ask("POST", "/kv/b/n?op=incr&by=-50", &[], "").await.body, "-8");
        assert_eq!(tried.ask("GET", "/kv/b/n", &[], "").await.body, "-8");
        tried.ask("PUT", "/kv/b/text", &[], "text").await;
        for (target, body) in [
            ("/kv/b/text?op=incr", "1"),
            ("/kv/b/n?op=incr", "one"),
            ("/kv/b/n?op=incr&by=x", ""),
            ("/kv/b/n?op=incr&by=1", "1"),
            ("/kv/b/n?op=decr", ""),
            ("/kv/b/n", "1"),
        ] {
            tried.refuses("POST", target, &[], body, (400, "bad_request")).await;
        }
        tried.ask("PUT", "/kv/b/max", &[], i64::MAX.to_string()).await;
        tried.refuses("POST", "/kv/b/max?op=incr", &[], "1", (400, "bad_request")).await;
    }
}

#[tokio::test]
async fn lists_page_through_a_prefix_in_byte_order() {
    for tried in both() {
        for key in ["a", "user%2F1", "user/{t}/2", "user/3", "z%7Bt%7D"] {
            assert_eq!(tried.ask("PUT", &format!("/kv/b/{key}"), &[], "v").await.status, 204);
        }
        tried.ask("PUT", "/kv/c/user/x", &[], "v").await;
        let all = tried.ask("GET", "/kv/b", &[], "").await;
        assert_eq!(all.json(), json!({"keys": ["a", "user/1", "user/3", "user/{t}/2", "z{t}"], "next": null}));
        assert_eq!(all.header("content-type"), "application/json");
        let (mut found, mut after) = (Vec::new(), String::new());
        for _ in 0..10 {
            let page = tried.ask("GET", &format!("/kv/b?prefix=user%2F&limit=1{after}"), &[], "").await.json();
            found.extend(page["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(found, ["user/1", "user/3", "user/{t}/2"]);
        for bad in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "after=zz",
            "after=0",
            "after=ee",
            "other=1",
            "prefix=a&prefix=b",
            "prefix=%zz",
            "prefix=%ff",
        ] {
            tried.refuses("GET", &format!("/kv/b?{bad}"), &[], "", (400, "bad_request")).await;
        }
        assert_eq!(tried.ask("GET", "/kv/b?limit=1000", &[], "").await.status, 200);
    }
}

#[tokio::test]
async fn a_batch_changes_keys_of_one_tag_together() {
    for tried in both() {
        tried.ask("PUT", "/kv/b/{o}old", &[], "v").await;
        let document = json!({"changes": [{"put": "{o}a", "value": "text"}, {"put": "{o}b", "base64": "AAH/"}, {"delete": "{o}old"}]});
        assert_eq!(tried.ask("POST", "/kv/b?op=batch", &[], document.to_string()).await.status, 204);
        assert_eq!(tried.ask("GET", "/kv/b/{o}a", &[], "").await.body, "text");
        assert_eq!(&tried.ask("GET", "/kv/b/{o}b", &[], "").await.body[..], [0, 1, 255]);
        tried.refuses("GET", "/kv/b/{o}old", &[], "", (404, "not_found")).await;
        let bad = [
            json!({"changes": []}),
            json!({"changes": [{"put": "{o}a"}]}),
            json!({"changes": [{"put": "{o}a", "value": "1", "base64": ""}]}),
            json!({"changes": [{"put": "{o}a", "base64": "?"}]}),
            json!({"changes": [{"delete": "{o}a", "value": "1"}]}),
            json!({"changes": [{"delete": "{o}x"}, {"put": "{o}x", "value": "1"}]}),
            json!({"changes": [{"put": "", "value": "1"}]}),
            json!({"change": []}),
            json!([]),
        ];
        for document in bad {
            tried.refuses("POST", "/kv/b?op=batch", &[], document.to_string(), (400, "bad_request")).await;
        }
        tried.refuses("POST", "/kv/b?op=batch", &[], "{", (400, "bad_request")).await;
        tried.refuses("POST", "/kv/b", &[], "{}", (400, "bad_request")).await;
    }
}

#[tokio::test]
async fn a_batch_over_several_tags_needs_transactions() {
    let [embedded, memory] = both();
    let document = json!({"changes": [{"put": "a", "value": "1"}, {"put": "b", "value": "2"}]}).to_string();
    assert_eq!(embedded.ask("POST", "/kv/b?op=batch", &[], document.clone()).await.status, 204);
    assert_eq!(embedded.ask("GET", "/kv/b/b", &[], "").await.body, "2");
    memory.refuses("POST", "/kv/b?op=batch", &[], document, (400, "bad_request")).await;
    memory.refuses("GET", "/kv/b/a", &[], "", (404, "not_found")).await;
}

#[tokio::test]
async fn nobody_comes_in_without_the_token() {
    for tried in both() {
        tried.ask("PUT", "/kv/b/k", &[], "v").await;
        let wrong = [
            "",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secretx",
            "Basic secret",
            "secret",
            "Bearer secret secret",
        ];
        for (method, target) in
            [("GET", "/kv/b/k"), ("PUT", "/kv/b/k"), ("GET", "/kv/b"), ("POST", "/kv/b?op=batch"), ("GET", "/x")]
        {
            for value in wrong {
                let request = Request::builder().method(method).uri(target).header("authorization", value);
                let said = Said::of(tried.door.handle(request.body(Body::from("x")).unwrap()).await).await;
                assert_eq!((said.status, said.reason().as_str()), (401, "unauthorized"), "{method} {target} {value:?}");
                assert_eq!(said.header("www-authenticate"), "Bearer");
            }
            let twice = Request::builder().method(method).uri(target);
            let twice = twice.header("authorization", "Bearer secret").header("authorization", "Bearer secret");
            assert_eq!(tried.door.handle(twice.body(Body::Empty).unwrap()).await.status(), StatusCode::UNAUTHORIZED);
            let none = Request::builder().method(method).uri(target).body(Body::Empty).unwrap();
            assert_eq!(tried.door.handle(none).await.status(), StatusCode::UNAUTHORIZED);
        }
        assert_eq!(tried.ask("GET", "/kv/b/k", &[("x", "y")], "").await.body, "v");
    }
}

#[tokio::test]
async fn the_namespace_comes_from_the_token_alone() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let auth = Auth::check(|token| Name::new(token).ok());
    let door = Door::new(Buckets::new(store), "tried", auth, Config::default(), WallClock::system());
    let ask = async |token: &str, method: &str, target: &str| {
        let request = Request::builder().method(method).uri(target).header("authorization", format!("bearer {token}"));
        Said::of(door.handle(request.body(Body::from(token.to_owned())).unwrap()).await).await
    };
    assert_eq!(ask("one", "PUT", "/kv/b/{t}k").await.status, 204);
    assert_eq!(ask("one", "PUT", "/kv/b/k2").await.status, 204);
    assert_eq!(ask("two", "GET", "/kv/b/k2").await.status, 404);
    let page = ask("one", "GET", "/kv/b?limit=1").await.json();
    let next = page["next"].as_str().unwrap();
    let stolen = ask("two", "GET", &format!("/kv/b?after={next}")).await;
    assert_eq!((stolen.status, stolen.json()), (200, json!({"keys": [], "next": null})));
}

#[tokio::test]
async fn every_bound_has_its_status() {
    for tried in both() {
        for (is, status) in [(1023, 204), (1024, 204), (1025, 414)] {
            let said = tried.ask("PUT", &format!("/kv/b/{}", "k".repeat(is)), &[], "v").await;
            assert_eq!(said.status, status, "a key of {is} bytes");
        }
        for (is, status) in [((1 << 20) - 1, 204), (1 << 20, 204), ((1 << 20) + 1, 413)] {
            assert_eq!(tried.ask("PUT", "/kv/b/v", &[], vec![1; is]).await.status, status, "a value of {is} bytes");
        }
        for (is, status) in [(999, 204), (1_000, 204), (1_001, 413)] {
            let changes: Vec<_> = (0..is).map(|n| json!({"put": format!("{{t}}{n}"), "value": ""})).collect();
            let said = tried.ask("POST", "/kv/b?op=batch", &[], json!({ "changes": changes }).to_string()).await;
            assert_eq!(said.status, status, "a batch of {is} keys");
        }
        tried.refuses("POST", "/kv/b?op=incr", &[], "", (400, "bad_request")).await;
        tried.refuses("POST", "/kv/b/n?op=incr", &[], "1".repeat(65), (413, "body_too_large")).await;
    }
}

#[tokio::test]
async fn malformed_targets_are_refused() {
    for tried in both() {
        let long = "b".repeat(64);
        for target in [
            "/kv/B/k",
            "/kv/b_/k",
            "/kv//k",
            "/kv/",
            "/kv/b/",
            "/kv/b/%",
            "/kv/b/%4",
            "/kv/b/%zz",
            "/kv/b/%ff",
            "/kv/b/k?x=1",
            &format!("/kv/{long}/k"),
            "/kv/%2e%2e/k",
        ] {
            tried.refuses("GET", target, &[], "", (400, "bad_request")).await;
        }
        for target in ["/", "/kv", "/kvx/b/k", "/v1/x"] {
            tried.refuses("GET", target, &[], "", (404, "not_found")).await;
        }
        let said = tried.ask("PATCH", "/kv/b/k", &[], "").await;
        assert_eq!(
            (said.status, said.reason().as_str(), said.header("allow")),
            (405, "method", "GET, HEAD, PUT, DELETE, POST")
        );
        let said = tried.ask("DELETE", "/kv/b", &[], "").await;
        assert_eq!((said.status, said.header("allow")), (405, "GET, POST"));
        let both = [("if-match", "\"1\""), ("if-none-match", "*")];
        tried.refuses("PUT", "/kv/b/k", &both, "", (400, "bad_request")).await;
        for (name, value) in
            [("if-none-match", "\"1\""), ("if-match", "1"), ("if-match", "\"1\", \"2\""), ("if-match", "")]
        {
            tried.refuses("PUT", "/kv/b/k", &[(name, value)], "", (400, "bad_request")).await;
        }
    }
}

#[tokio::test]
async fn any_text_is_a_key() {
    for tried in both() {
        for key in ["%C3%A4", "%00", "a%20b", "../../etc", "%F0%9F%98%80", "+", "a=b", "{", "}{", "{}x"] {
            let target = format!("/kv/b/{key}");
            assert_eq!(tried.ask("PUT", &target, &[], key.to_owned()).await.status, 204, "{key}");
            assert_eq!(tried.ask("GET", &target, &[], "").await.body, key);
        }
        let keys = tried.ask("GET", "/kv/b", &[], "").await.json();
        assert_eq!(keys["keys"], json!(["\0", "+", "../../etc", "a b", "a=b", "{", "{}x", "}{", "ä", "😀"]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_cut() {
    let clock = WallClock::system();
    let door = door(Arc::new(Memory::new()), &clock, Config { body_ms: 10, ..Config::default() });
    let never =
        http_body_util::StreamBody::new(futures_util::stream::pending::<Result<http_body::Frame<Bytes>, BodyError>>());
    let began = tokio::time::Instant::now();
    let said = Said::of(door.handle(request("PUT", "/kv/b/k", &[], Body::stream(never))).await).await;
    assert_eq!((said.status, said.reason().as_str()), (408, "request_timeout"));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let broken = futures_util::stream::iter([Err(BodyError::Broken("reset".into()))]);
    let broken = Body::stream(http_body_util::StreamBody::new(broken));
    let said = Said::of(door.handle(request("PUT", "/kv/b/k", &[], broken)).await).await;
    assert_eq!((said.status, said.reason().as_str()), (400, "bad_request"));
    let said = Said::of(door.handle(request("GET", "/kv/b/k", &[], "")).await).await;
    assert_eq!(said.status, 404, "nothing was written");
}

#[tokio::test]
async fn a_time_to_live_begins_when_the_body_is_there() {
    let clock = WallClock::manual(WallTime(1_000_000));
    let door = door(Arc::new(Memory::with_clock(clock.clone())), &clock, Config::default());
    let slow = clock.clone();
    let body = futures_util::stream::once(async move {
        slow.advance(Duration::from_secs(20));
        Ok::<_, BodyError>(http_body::Frame::data(Bytes::from_static(b"v")))
    });
    let body = Body::stream(http_body_util::StreamBody::new(Box::pin(body)));
    let said = Said::of(door.handle(request("PUT", "/kv/b/k", &[("faas-ttl", "10")], body)).await).await;
    assert_eq!(said.status, 204);
    let said = Said::of(door.handle(request("GET", "/kv/b/k", &[], "")).await).await;
    assert_eq!((said.status, said.header("faas-ttl")), (200, "10"));
}

#[tokio::test]
async fn no_request_waits_for_the_store_longer_than_its_bound() {
    let clock = WallClock::system();
    let door = door(Arc::new(Memory::new()), &clock, Config { store_ms: 0, ..Config::default() });
    for (method, target) in [("GET", "/kv/b/k"), ("DELETE", "/kv/b/k"), ("PUT", "/kv/b/k"), ("GET", "/kv/b")] {
        let said = Said::of(door.handle(request(method, target, &[], "")).await).await;
        assert_eq!((said.status, said.reason().as_str()), (503, "store_unavailable"), "{method} {target}");
    }
}

#[tokio::test]
async fn a_closed_store_is_503() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(&folder.path().join("s"), EmbeddedConfig::default()).unwrap());
    let clock = WallClock::system();
    let door = door(Arc::clone(&store) as Arc<dyn Store>, &clock, Config::default());
    store.close().await;
    for (method, target) in [("GET", "/kv/b/k"), ("PUT", "/kv/b/k"), ("POST", "/kv/b/k?op=incr"), ("GET", "/kv/b")] {
        let said = Said::of(door.handle(request(method, target, &[], "")).await).await;
        assert_eq!((said.status, said.reason().as_str()), (503, "store_unavailable"), "{method} {target}");
        assert!(said.headers.contains_key("retry-after"));
    }
}

/// What another process writes is missed by plain reads alone, where the operator allows that; every answer, a refusal
/// too, tells the store.
#[tokio::test]
async fn plain_reads_may_be_stale_and_reads_with_a_condition_never() {
    let clock = WallClock::manual(WallTime(1_000_000));
    let shared: Arc<dyn Store> = Arc::new(Memory::with_clock(clock.clone()));
    let here = Cached::new(shared.clone(), clock.clone(), Duration::from_secs(3600), 1 << 20);
    let (here, there) = (door(Arc::new(here), &clock, Config::default()), door(shared, &clock, Config::default()));
    let ask = async |door: &Door, method: &str, headers: &[(&str, &str)], body: &str| {
        Said::of(door.handle(request(method, "/kv/b/k", headers, body.to_owned())).await).await
    };
    for (value, headers) in [
        ("1", ("if-none-match", "\"0\"")),
        ("2", ("if-match", "*")),
        ("3", ("cache-control", "no-cache")),
        ("4", ("cache-control", "max-age=7 , No-Cache")),
    ] {
        let before = ask(&here, "GET", &[], "").await;
        assert_eq!(before.header("faas-store"), "tried");
        assert_eq!(ask(&there, "PUT", &[], value).await.status, 204);
        let stale = ask(&here, "GET", &[("cache-control", "max-age=7")], "").await;
        assert_eq!((stale.status, &stale.body), (before.status, &before.body));
        assert_eq!(ask(&here, "GET", &[headers], "").await.body, value);
    }
    let refused = Said::of(here.handle(Request::new(Body::Empty)).await).await;
    assert_eq!((refused.status, refused.header("faas-store")), (401, "tried"));
}
