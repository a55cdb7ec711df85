//! The API as a client sees it, over a real function service with a scripted runtime.

use std::sync::Arc;

use bytes::Bytes;
use faas_repo::FolderRepo;
use faas_runtime::logs::{LogBook, LogConfig};
use faas_runtime::scripted::Scripted;
use faas_store::Memory;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::routes::ROUTES;

const TOKEN: &str = "faas_root_0_for-tests-alone";

struct World {
    control: Control,
    service: FunctionService,
    readiness: Readiness,
    metrics: Metrics,
    _dir: tempfile::TempDir,
}

/// An answer, read whole.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Bytes,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {:?}", self.bytes))
    }
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Memory::default());
    let repo = FolderRepo::open(dir.path().join("blobs"), faas_repo::Config::default(), store).await.unwrap();
    let logs = LogBook::open(dir.path().join("logs"), LogConfig::default()).unwrap();
    let service = FunctionService::open(Default::default(), Arc::new(repo), vec![Arc::new(Scripted::default())], logs)
        .await
        .unwrap();
    let readiness = Readiness::default();
    let echo: Invoke = Arc::new(|function, alias, request: Request<Body>| {
        let seen = format!(
            "{function}:{alias} {} {} {:?}",
            request.method(),
            request.uri(),
            request.headers().get("authorization")
        );
        Box::pin(std::future::ready(Response::new(Body::from(seen))))
    });
    let metrics = Metrics::new(&faas_metrics::Config::default());
    let parts = Parts {
        service: service.clone(),
        invoke: echo,
        token: Tokens::of(TOKEN),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        store_status: Arc::new(|| Box::pin(std::future::ready(json!({ "store": "tried", "state": "up" })))),
        functions_url: "http://functions.test".into(),
    };
    let config = Config { code_bytes_max: ByteSize(64 << 10), followers_max: 1 };
    World { control: Control::new(config, parts), service, readiness, metrics, _dir: dir }
}

impl World {
    async fn send(&self, request: Request<Body>) -> Got {
        let response = self.control.handle(request).await;
        let (parts, body) = response.into_parts();
        Got { status: parts.status, headers: parts.headers, bytes: body.collect(1 << 20).await.unwrap() }
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Got {
        let mut request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {TOKEN}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Got {
        self.call("GET", path, &[], Body::Empty).await
    }

    async fn deploy(&self, name: &str, code: &[u8], headers: &[(&str, &str)]) -> Got {
        self.upload(name, &form(r#"{"spec":{}}"#, code), headers).await
    }

    async fn upload(&self, name: &str, form: &[u8], headers: &[(&str, &str)]) -> Got {
        let path = format!("/v1/namespaces/default/functions/{name}");
        let mut all = vec![("content-type", "multipart/form-data; boundary=x")];
        all.extend_from_slice(headers);
        self.call("PUT", &path, &all, form.to_vec()).await
    }
}

fn form(spec: &str, code: &[u8]) -> Vec<u8> {
    let head = format!(
        "--x\r\ncontent-disposition: form-data; name=\"spec\"\r\n\r\n{spec}\r\n\
         --x\r\ncontent-disposition: form-data; name=\"code\"; filename=\"a.wasm\"\r\n\r\n"
    );
    [head.as_bytes(), code, b"\r\n--x--\r\n"].concat()
}

fn path_of(route: &str) -> String {
    route.replace("{ns}", "default").replace("{name}", "a").replace("{alias}", "live").replace("{*path}", "b/c")
}

fn method_of(route: &str) -> Method {
    if route == "any" { Method::PATCH } else { route.to_ascii_uppercase().parse().unwrap() }
}

fn request(method: Method, path: &str, authorization: Option<HeaderValue>) -> Request<Body> {
    let mut request = Request::new(Body::Empty);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    if let Some(value) = authorization {
        request.headers_mut().insert("authorization", value);
    }
    request
}

#[tokio::test]
async fn every_route_but_the_public_ones_asks_for_the_token() {
    let world = world().await;
    let unknown =
        ["/", "/v1", "/ui", "/healthz/", "//healthz", "/healthz/../metrics", "/%68ealthz", "/system/functions"];
    let unknown = unknown.iter().map(|path| (Method::GET, (*path).to_owned(), false));
    let known = ROUTES.iter().map(|r| (method_of(r.method), path_of(r.path), r.public));
    for (method, path, public) in known.chain(unknown) {
        let got = world.send(request(method.clone(), &path, None)).await;
        assert_eq!(got.status != StatusCode::UNAUTHORIZED, public, "{method} {path}");
        if !public {
            assert_eq!(got.json()["reason"], "unauthorized", "{method} {path}");
            assert!(got.headers.contains_key("www-authenticate"));
        }
        let other = world.send(request(Method::DELETE, &path, None)).await;
        assert_eq!(other.status, StatusCode::UNAUTHORIZED, "DELETE {path}");
    }
}

#[tokio::test]
async fn no_sequence_of_random_bytes_is_let_in() {
    let world = world().await;
    // A xorshift is random enough here, and the seed is part of the test.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..1000_u64 {
        let length = usize::try_from(next() % 4097).unwrap();
        let bytes: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
        let prefix: &[u8] = if round % 2 == 0 { b"Bearer " } else { b"" };
        // What cannot be a header value at all never reaches the API.
        let visible: Vec<u8> = bytes.into_iter().map(|b| if b < 32 || b == 127 { b'a' } else { b }).collect();
        let value = HeaderValue::from_bytes(&[prefix, &visible].concat()).unwrap();
        let route = &ROUTES[usize::try_from(round).unwrap() % ROUTES.len()];
        if !route.public {
            let got = world.send(request(method_of(route.method), &path_of(route.path), Some(value))).await;
            assert_eq!(got.status, StatusCode::UNAUTHORIZED, "round {round}");
        }
    }
}

#[test]
fn the_openapi_document_has_every_route_and_no_other() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut documented = 0;
    for route in ROUTES {
        let item = &paths[&route.path.replace("{*path}", "{path}")];
        let method = if route.method == "any" { "get" } else { route.method };
        let operation = &item[method];
        assert!(operation["operationId"].is_string(), "{} {}", route.method, route.path);
        assert_eq!(item["x-faas-any-method"] == true, route.method == "any", "{}", route.path);
        assert_eq!(operation["security"] == json!([]), route.public, "{}", route.path);
        assert_eq!(operation["responses"]["401"].is_object(), !route.public, "{}", route.path);
        let parameters: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
        let named = route.path.matches('{').count();
        assert_eq!(parameters.iter().filter(|p| p["in"] == "path").count(), named, "{}", route.path);
        documented += 1;
    }
    let is_operation = |key: &&String| !key.starts_with("x-");
    let all: usize = paths.values().map(|item| item.as_object().unwrap().keys().filter(is_operation).count()).sum();
    assert_eq!(all, documented);
    for reference in OPENAPI.split("\"$ref\": \"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn readiness_follows_the_process() {
    let world = world().await;
    assert_eq!(world.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    world.readiness.set(Phase::Ready);
    assert_eq!(world.get("/readyz").await.status, StatusCode::OK);
    assert_eq!(world.get("/v1/status").await.json()["phase"], "ready");
    assert_eq!(world.get("/v1/baas/status").await.json(), json!({ "store": "tried", "state": "up" }));
    world.readiness.set(Phase::Draining);
    assert_eq!(world.get("/readyz").await.bytes, "draining\n");
    assert_eq!(world.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn names_outside_the_grammar_are_refused_everywhere() {
    let world = world().await;
    let long = "a".repeat(64);
    for name in ["..", "%2e%2e", "A", "a_b", "-a", "a%00", "%e2%80%ae", "%ff", ".git", "a%2Fb", &long] {
        for route in ROUTES.iter().filter(|r| r.path.contains("{ns}")) {
            for hole in ["{ns}", "{name}", "{alias}"].iter().filter(|h| route.path.contains(**h)) {
                let path = path_of(&route.path.replacen(hole, name, 1));
                let got = world.call(method_of(route.method).as_str(), &path, &[], "{\"revision\":1}").await;
                assert_eq!(got.status, StatusCode::BAD_REQUEST, "{} {path}", route.method);
                assert_eq!(got.json()["component"], "control");
            }
        }
    }
}

#[tokio::test]
async fn a_function_is_deployed_looked_at_moved_and_removed() {
    let world = world().await;
    let first = world.deploy("a", b"one", &[]).await;
    assert_eq!(first.status, StatusCode::CREATED, "{:?}", first.bytes);
    assert_eq!(first.json()["version"], 1);
    assert_eq!(first.json()["url"], "http://functions.test/function/a");
    let again = world.deploy("a", b"one", &[]).await;
    assert_eq!((again.status, &again.json()["unchanged"]), (StatusCode::OK, &json!(true)));
    assert_eq!(again.headers["etag"], first.headers["etag"]);
    let second = world.deploy("a", b"two", &[]).await;
    assert_eq!(second.json()["version"], 2);

    assert_eq!(world.get("/v1/namespaces/default/functions").await.json()["functions"][0]["function"]["name"], "a");
    assert_eq!(world.get("/v1/namespaces/other/functions").await.json()["functions"], json!([]));
    let base = "/v1/namespaces/default/functions/a";
    assert_eq!(world.get(base).await.headers["etag"], second.headers["etag"]);
    let revisions = world.get(&format!("{base}/revisions")).await.json();
    assert_eq!(revisions["revisions"][0]["aliases"], json!(["live"]));
    assert_eq!(revisions["revisions"][1]["version"], 1);

    let back = world.call("POST", &format!("{base}/rollback"), &[], Body::Empty).await;
    assert_eq!(back.json()["version"], 1, "{:?}", back.bytes);
    let stale = [("if-match", second.headers["etag"].to_str().unwrap())];
    let refused = world.call("PUT", &format!("{base}/aliases/live"), &stale, r#"{"revision":2}"#).await;
    assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED);
    let fresh = [("if-match", first.headers["etag"].to_str().unwrap())];
    let moved = world.call("PUT", &format!("{base}/aliases/live"), &fresh, r#"{"revision":"2"}"#).await;
    assert_eq!(moved.json()["version"], 2, "{:?}", moved.bytes);

    assert_eq!(world.call("DELETE", base, &[], Body::Empty).await.status, StatusCode::NO_CONTENT);
    for path in ["", "/revisions", "/logs"] {
        assert_eq!(world.get(&format!("{base}{path}")).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn preconditions_of_a_deploy_hold_or_refuse() {
    let world = world().await;
    let none = [("if-none-match", "*")];
    assert_eq!(world.deploy("a", b"one", &none).await.status, StatusCode::CREATED);
    assert_eq!(world.deploy("a", b"two", &none).await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(world.deploy("a", b"two", &[("if-match", "nonsense")]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.get("/v1/namespaces/default/functions/a").await.json()["live"]["version"], 1);
}

#[tokio::test]
async fn a_form_that_is_not_as_asked_for_is_refused_with_its_reason() {
    let world = world().await;
    let code_first = b"--x\r\ncontent-disposition: form-data; name=\"code\"\r\n\r\nz\r\n--x--\r\n".to_vec();
    let cases: [(Vec<u8>, u16, &str); 8] = [
        (b"".to_vec(), 400, "bad_request"),
        (b"--x--\r\n".to_vec(), 400, "bad_request"),
        (code_first, 400, "bad_request"),
        (form("not a spec", b"z"), 422, "unprocessable"),
        (form(r#"{"spec":{"limts":{}}}"#, b"z"), 422, "unprocessable"),
        (form(r#"{"spec":{"limits":{"memory":1}}}"#, b"z"), 422, "unprocessable"),
        (form(r#"{"spec":{}}"#, &[b'z'; (64 << 10) + 1]), 413, "body_too_large"),
        (form(r#"{"spec":{}}"#, b"z")[..140].to_vec(), 400, "bad_request"),
    ];
    for (form, status, reason) in cases {
        let shown: String = String::from_utf8_lossy(&form).chars().take(200).collect();
        let got = world.upload("a", &form, &[]).await;
        assert_eq!(
            (got.status.as_u16(), got.json()["reason"].as_str()),
            (status, Some(reason)),
            "{shown} {:?}",
            got.bytes
        );
    }
    let long = [("content-length", "99999999")];
    assert_eq!(world.deploy("a", b"z", &long).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.get("/v1/namespaces/default/functions").await.json()["functions"], json!([]), "nothing is left");
}

#[tokio::test]
async fn a_manifest_serves_as_the_spec() {
    let world = world().await;
    let form = form("[functions.a]\nstate = [\"things\"]\n[functions.a.scale]\nmax = 3\n", b"z");
    assert_eq!(world.upload("a", &form, &[]).await.status, StatusCode::CREATED);
    let description = world.get("/v1/namespaces/default/functions/a").await.json();
    assert_eq!(description["live"]["spec"]["state"], json!(["things"]));
    assert_eq!(description["aliases"]["live"]["settings"]["scale"]["max"], 3);
    assert_eq!(world.upload("b", &form, &[]).await.json()["phase"], "check");
}

#[tokio::test]
async fn a_call_goes_on_without_the_token() {
    let world = world().await;
    let path = "/v1/namespaces/default/functions/a/invoke/x%2Fy?q=1";
    let got = world.call("PATCH", path, &[], "body").await;
    assert_eq!(got.bytes, "a.default:live PATCH /x%2Fy?q=1 None");
    for path in ["/v1/namespaces/default/functions/a/invoke", "/v1/namespaces/default/functions/a/invoke/"] {
        assert_eq!(world.get(path).await.bytes, "a.default:live GET / None");
    }
}

#[tokio::test]
async fn wrong_methods_and_queries_are_problems() {
    let world = world().await;
    let got = world.call("PATCH", "/v1/status", &[], Body::Empty).await;
    assert_eq!((got.status, got.json()["reason"].as_str()), (StatusCode::METHOD_NOT_ALLOWED, Some("method")));
    assert_eq!(world.get("/nowhere").await.json()["reason"], "not_found");
    for query in ["lines=x", "lines=10001", "follow=maybe", "line=1"] {
        let got = world.get(&format!("/v1/namespaces/default/functions/a/logs?{query}")).await;
        assert_eq!(
            (got.status, got.json()["reason"].as_str()),
            (StatusCode::BAD_REQUEST, Some("bad_request")),
            "{query}"
        );
    }
}

#[tokio::test]
async fn metrics_tell_of_deployed_functions_alone() {
    use ::metrics::{Counter, Key, Label, Level, Metadata, Recorder as _};
    let world = world().await;
    world.deploy("a", b"one", &[]).await;
    let handles: [Counter; 5] = ["a.default", "b.default", "a.shop", "a", "_none"].map(|function| {
        let key = Key::from_parts("calls_total", vec![Label::new("function", function)]);
        world.metrics.register_counter(&key, &Metadata::new("test", Level::INFO, None))
    });
    handles.iter().for_each(|calls| calls.increment(1));
    let told = async || {
        let text = String::from_utf8(world.get("/metrics").await.bytes.to_vec()).unwrap();
        let calls = text.lines().filter_map(|line| line.strip_prefix("calls_total{function="));
        calls.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told().await, ["\"a.default\"} 1", "\"_other\"} 3", "\"_none\"} 1"]);
    world.call("DELETE", "/v1/namespaces/default/functions/a", &[], Body::Empty).await;
    assert_eq!(told().await, ["\"_other\"} 3", "\"_none\"} 1"], "although the handle is held");
}

#[tokio::test]
async fn logs_are_the_latest_lines_as_json() {
    let world = world().await;
    world.deploy("a", b"one", &[]).await;
    let writer = world.service.logs().writer(&FunctionName::in_default("a").unwrap());
    for text in ["one", "two", "three"] {
        writer.line(faas_model::CallId::fresh(), faas_runtime::logs::Stream::Stdout, text.as_bytes());
    }
    let got = world.get("/v1/namespaces/default/functions/a/logs?lines=2").await;
    let lines: Vec<Value> = got.bytes.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    assert_eq!(lines.len(), 2, "{:?}", got.bytes);
    assert_eq!((&lines[0]["text"], &lines[1]["text"]), (&json!("two"), &json!("three")));
}

#[tokio::test]
async fn following_logs_ends_when_the_process_drains_and_is_bounded() {
    let world = world().await;
    world.deploy("a", b"one", &[]).await;
    let path = "/v1/namespaces/default/functions/a/logs?follow=true";
    let authorization = HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap();
    let following = world.control.handle(request(Method::GET, path, Some(authorization))).await;
    assert_eq!(following.status(), StatusCode::OK);
    assert_eq!(world.get(path).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(world.get("/v1/namespaces/default/functions/a/logs").await.status, StatusCode::OK);
    world.readiness.set(Phase::Draining);
    following.into_body().collect(1 << 20).await.unwrap();
}
