//! The functions listener without a socket: what reaches the function, and what reaches the client.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use faas_invoke::Timings;
use faas_model::manifest::HttpTrigger;
use faas_model::units::ByteSize;
use faas_model::{AliasSettings, Catalogue, Digest, FunctionSpec, RevisionId};
use http_body::Frame;

use super::*;

type Script = Box<dyn Fn(Invocation) -> BoxFuture<'static, Result<Reply, InvokeError>> + Send + Sync>;

/// Answers by script and keeps what it was given.
struct Scripted(Script);

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Dispatch for Scripted {
    fn dispatch(&self, invocation: Invocation) -> BoxFuture<'_, Result<Reply, InvokeError>> {
        (self.0)(invocation)
    }
}

fn reply(response: Response<Body>) -> Reply {
    let timings = Timings {
        queue: Duration::from_micros(1500),
        cold: vec![("compile", Duration::from_millis(20))],
        run: Duration::from_micros(250),
    };
    Reply { response, timings, revision: RevisionId(Digest::of(b"r")) }
}

fn revision(function: &FunctionName, version: u64, spec: FunctionSpec) -> Arc<Revision> {
    let code = Digest::of(&version.to_be_bytes());
    Arc::new(Revision {
        id: RevisionId(code),
        function: function.clone(),
        version,
        code,
        code_bytes: 1,
        created_ms: 0,
        spec,
    })
}

/// `echo.default` with aliases `live` and `next`, a route and a host; `echo.shop` with a 4-byte bound.
fn catalogue() -> CatalogueWatch {
    let echo = FunctionName::in_default("echo").unwrap();
    let route = |route: &str, hosts: &[&str], methods: &[&str]| HttpTrigger {
        route: route.into(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        methods: methods.iter().map(ToString::to_string).collect(),
    };
    let mut spec = FunctionSpec::default();
    spec.trigger.http = vec![route("/api/*", &[], &["GET", "PUT"]), route("/*", &["shop.example"], &[])];
    let mut small = FunctionSpec::default();
    small.limits.request_bytes = ByteSize(4);
    let shop = FunctionName::new(Name::new("shop").unwrap(), Name::new("echo").unwrap());
    let entry = |function: &FunctionName, spec: FunctionSpec, aliases| Entry {
        function: function.clone(),
        live: revision(function, 1, spec),
        settings: AliasSettings::default(),
        aliases,
    };
    let next = BTreeMap::from([(Name::new("next").unwrap(), revision(&echo, 2, small.clone()))]);
    let entries = [entry(&echo, spec, next), entry(&shop, small, BTreeMap::new())];
    tokio::sync::watch::channel(Arc::new(Catalogue::new(entries))).1
}

fn peer() -> Peer {
    Peer { address: "192.0.2.7:4711".parse().unwrap() }
}

async fn ask_with(config: Config, script: Script, request: Request<Body>) -> Response<Body> {
    handler(config, Arc::new(Scripted(script)), catalogue())(request, peer()).await
}

/// Sends a request to a function that answers 200; returns what it was given, or the refusal.
async fn given(config: Config, request: Request<Body>) -> Result<Invocation, Response<Body>> {
    let kept: Arc<Mutex<Option<Invocation>>> = Arc::default();
    let slot = kept.clone();
    let script: Script = Box::new(move |invocation| {
        *slot.lock().unwrap() = Some(invocation);
        Box::pin(async { Ok(reply(Response::new(Body::from("ok")))) })
    });
    let response = ask_with(config, script, request).await;
    let invocation = kept.lock().unwrap().take();
    invocation.ok_or(response)
}

async fn answered(response: Response<Body>) -> Response<Body> {
    let response = Mutex::new(Some(response));
    let script: Script = Box::new(move |_| {
        let response = response.lock().unwrap().take().unwrap();
        Box::pin(async { Ok(reply(response)) })
    });
    ask_with(Config::default(), script, get("/function/echo")).await
}

fn get(target: &str) -> Request<Body> {
    request("GET", target, &[], Body::Empty)
}

fn request(method: &str, target: &str, fields: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(target).header("host", "Example:8080");
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(body).unwrap()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
}

async fn problem(response: Response<Body>) -> (u16, serde_json::Value) {
    assert_eq!(response.headers()["x-faas-origin"], "platform");
    let call = response.headers()["x-call-id"].to_str().unwrap().to_owned();
    let status = response.status().as_u16();
    let json: serde_json::Value = serde_json::from_slice(&response.into_body().collect(10_000).await.unwrap()).unwrap();
    assert_eq!((json["instance"].as_str(), json["status"].as_u64()), (Some(call.as_str()), Some(status.into())));
    (status, json)
}

#[tokio::test]
async fn a_request_becomes_an_event_in_binary_mode() {
    let sent =
        request("PUT", "/function/echo/a%20b//c?x=1&y", &[("x-mine", "1"), ("content-type", "a/b")], "hi".into());
    let got = given(Config::default(), sent).await.unwrap();
    assert_eq!(
        (got.function.to_string(), got.alias.as_str(), got.trigger),
        ("echo.default".into(), "live", TriggerKind::Http)
    );
    let (parts, body) = got.request.into_parts();
    assert_eq!(parts.method, "PUT");
    assert_eq!(parts.uri, "http://echo.default.faas.internal/a%20b//c?x=1&y");
    assert_eq!(body.collect(10).await.unwrap(), "hi");
    let call = got.call.to_string();
    let low = &call.replace('-', "")[16..];
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", call.as_str()),
        ("ce-type", "io.faas.http.request"),
        ("ce-source", "//Example:8080/function/echo"),
        ("ce-subject", "/a%2520b//c"),
        ("x-faas-trigger", "http"),
        ("host", "Example:8080"),
        ("x-mine", "1"),
        ("content-type", "a/b"),
        ("forwarded", "for=192.0.2.7;host=\"Example:8080\";proto=http"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-host", "Example:8080"),
        ("x-forwarded-proto", "http"),
        ("traceparent", &format!("00-{}-{low}-01", call.replace('-', ""))),
    ] {
        assert_eq!(text(&parts.headers, name), [value], "{name}");
    }
    let event = faas_model::event::Attributes::from_http(&parts.headers).unwrap();
    assert_eq!(event.subject.as_deref(), Some("/a%20b//c"));
    assert_eq!(event.time.unwrap().len(), "2026-01-31T12:00:00Z".len());
}

#[tokio::test]
async fn names_namespaces_aliases_routes_and_hosts_find_their_function() {
    for (method, host, target, expected) in [
        ("GET", "x", "/function/echo", "echo.default live http://echo.default.faas.internal/"),
        ("GET", "x", "/function/echo?q", "echo.default live http://echo.default.faas.internal/?q"),
        ("GET", "x", "/function/echo.shop/p", "echo.shop live http://echo.shop.faas.internal/p"),
        ("GET", "x", "/function/echo:next/p", "echo.default next http://echo.default.faas.internal/p"),
        ("GET", "x", "/function/echo.default:live", "echo.default live http://echo.default.faas.internal/"),
        ("PUT", "x", "/api/1?q=2", "echo.default live http://echo.default.faas.internal/api/1?q=2"),
        ("POST", "SHOP.example:80", "/", "echo.default live http://echo.default.faas.internal/"),
    ] {
        let mut sent = request(method, target, &[], Body::Empty);
        sent.headers_mut().insert("host", host.parse().unwrap());
        let got = given(Config::default(), sent).await.unwrap();
        assert_eq!(format!("{} {} {}", got.function, got.alias, got.request.uri()), expected);
    }
}

#[tokio::test]
async fn what_names_no_function_is_refused_with_its_reason() {
    for (method, target, fields, status, reason) in [
        ("GET", "/", &[][..], 404, "not_found"),
        ("GET", "/function/none", &[], 404, "not_found"),
        ("GET", "/function/echo.none", &[], 404, "not_found"),
        ("GET", "/function/echo:none", &[], 404, "not_found"),
        ("GET", "/function/Echo", &[], 404, "not_found"),
        ("GET", "/function/ec%68o", &[], 404, "not_found"),
        ("GET", "/function/..%2fecho", &[], 404, "not_found"),
        ("GET", "/function/", &[], 404, "not_found"),
        ("GET", "/function/echo.shop.x", &[], 404, "not_found"),
        ("DELETE", "/api/1", &[], 405, "method"),
        ("POST", "/async-function/echo", &[], 501, "not_implemented"),
        ("POST", "/function/echo", &[("prefer", "wait=5, Respond-Async")], 501, "not_implemented"),
        ("GET", "/function/echo", &[("content-type", "application/cloudevents-batch+json")], 400, "bad_request"),
        ("GET", "/function/echo", &[("ce-specversion", "1.0"), ("ce-id", "1")], 400, "bad_request"),
        (
            "GET",
            "/function/echo",
            &[("ce-specversion", "0.3"), ("ce-id", "1"), ("ce-source", "/"), ("ce-type", "t")],
            400,
            "bad_request",
        ),
    ] {
        let refused = given(Config::default(), request(method, target, fields, Body::Empty)).await.unwrap_err();
        if status == 405 {
            assert_eq!(refused.headers()["allow"], "GET, PUT");
        }
        let (got, json) = problem(refused).await;
        assert_eq!((got, json["reason"].as_str()), (status, Some(reason)), "{target} {fields:?}");
        assert_eq!(json["component"], "gateway");
    }
}

#[tokio::test]
async fn clients_cannot_forge_what_the_platform_says() {
    let forged = [
        ("x-faas-trigger", "amqp"),
        ("X-Faas-Anything", "1"),
        ("x-call-id", "mine"),
        ("ce-id", "forged"),
        ("ce-source", "/forged"),
        ("ce-extra", "left"),
        ("forwarded", "for=10.0.0.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-port", "1"),
        ("traceparent", "00-00000000000000000000000000000000-0000000000000000-00"),
        ("tracestate", "a=b"),
    ];
    let got = given(Config::default(), request("GET", "/function/echo", &forged, Body::Empty)).await.unwrap();
    let headers = got.request.headers();
    assert_eq!(text(headers, "x-faas-trigger"), ["http"]);
    assert_eq!(text(headers, "ce-id"), [got.call.to_string()]);
    assert_eq!(text(headers, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(text(headers, "x-forwarded-host"), ["Example:8080"]);
    assert_eq!(text(headers, "forwarded").len(), 1);
    for gone in ["x-faas-anything", "x-call-id", "ce-extra", "x-forwarded-port", "tracestate"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_added_to() {
    let fields = [("forwarded", "for=10.0.0.1"), ("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")];
    let config = Config { trust_forwarded: true, ..Config::default() };
    let got = given(config, request("GET", "/function/echo", &fields, Body::Empty)).await.unwrap();
    let headers = got.request.headers();
    assert_eq!(text(headers, "x-forwarded-for"), ["10.0.0.1", "192.0.2.7"]);
    assert_eq!(text(headers, "forwarded").len(), 2);
    assert_eq!(text(headers, "x-forwarded-proto"), ["https"]);
    assert_eq!(text(headers, "x-forwarded-host"), ["Example:8080"]);
}

#[tokio::test]
async fn an_event_of_the_client_is_passed_as_it_is() {
    let binary = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-extra", "e")];
    let got = given(Config::default(), request("POST", "/function/echo", &binary, "x".into())).await.unwrap();
    for (name, value) in binary {
        assert_eq!(text(got.request.headers(), name), [value]);
    }
    assert!(!got.request.headers().contains_key("ce-time"));
    let structured = [("content-type", "application/cloudevents+json"), ("ce-id", "stray")];
    let got = given(Config::default(), request("POST", "/function/echo", &structured, "{}".into())).await.unwrap();
    assert!(got.request.headers().keys().all(|name| !name.as_str().starts_with("ce-")));
    assert_eq!(got.request.into_body().collect(10).await.unwrap(), "{}");
}

#[tokio::test]
async fn fields_of_the_connection_end_here_in_both_directions() {
    let fields = [
        ("connection", "keep-alive, X-Hop, host, close"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("proxy-connection", "close"),
        ("expect", "100-continue"),
        ("x-kept", "1"),
    ];
    let got = given(Config::default(), request("GET", "/function/echo", &fields, Body::Empty)).await.unwrap();
    for gone in ["connection", "x-hop", "keep-alive", "te", "upgrade", "proxy-connection", "expect"] {
        assert!(!got.request.headers().contains_key(gone), "{gone}");
    }
    assert!(got.request.headers().contains_key("x-kept") && got.request.headers().contains_key("host"));
    let mut response = Response::new(Body::Empty);
    for (name, value) in &fields[..6] {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
    response.headers_mut().insert("x-kept", "1".parse().unwrap());
    let headers = answered(response).await.headers().clone();
    for gone in ["connection", "x-hop", "keep-alive", "te", "upgrade", "proxy-connection", "transfer-encoding"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert!(headers.contains_key("x-kept"));
}

#[tokio::test]
async fn a_valid_trace_passes_and_an_invalid_one_is_replaced() {
    let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    for (value, passes) in [
        (format!("00-{ids}-00"), true),
        (format!("00-{ids}-01"), true),
        (format!("cc-{ids}-01-later"), true),
        (format!("00-{ids}-01-later"), false),
        (format!("ff-{ids}-01"), false),
        (format!("00-{}-01", ids.to_uppercase()), false),
        (format!("00-{}-01", ids.replace("00f067aa0ba902b7", "0000000000000000")), false),
        (format!("00-{ids}-0"), false),
        (format!("00-{ids}_01"), false),
        ("".into(), false),
    ] {
        let fields = [("traceparent", value.as_str()), ("tracestate", "a=b")];
        let got = given(Config::default(), request("GET", "/function/echo", &fields, Body::Empty)).await.unwrap();
        let headers = got.request.headers();
        assert_eq!(text(headers, "traceparent") == [value.as_str()], passes, "{value}");
        assert_eq!(headers.contains_key("tracestate"), passes, "{value}");
        assert!(text(headers, "traceparent")[0].len() >= 55);
    }
}

#[tokio::test]
async fn a_function_s_answer_passes_with_the_call_and_its_times() {
    let mut response = Response::new(Body::from("no tea"));
    *response.status_mut() = StatusCode::IM_A_TEAPOT;
    for (name, value) in [
        ("x-faas-origin", "platform"),
        ("x-faas-other", "1"),
        ("x-call-id", "forged"),
        ("server-timing", "db;dur=5"),
        ("set-cookie", "a=1"),
    ] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = answered(response).await;
    assert_eq!(answer.status(), StatusCode::IM_A_TEAPOT);
    let headers = answer.headers();
    assert_eq!(text(headers, "x-faas-origin"), ["function"]);
    assert!(text(headers, "x-call-id")[0].parse::<CallId>().is_ok());
    assert!(!headers.contains_key("x-faas-other"));
    assert_eq!(text(headers, "set-cookie"), ["a=1"]);
    let timing = text(headers, "server-timing");
    assert_eq!(timing, ["db;dur=5", "queue;dur=1.500, compile;dur=20.000, run;dur=0.250"]);
    assert_eq!(answer.into_body().collect(10).await.unwrap(), "no tea");
}

#[tokio::test]
async fn a_wrong_length_of_a_function_never_reaches_the_client() {
    let stream = || {
        let frames = [Ok(Frame::data(Bytes::from_static(b"abc")))];
        Body::stream(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
    };
    for (body, length, kept) in [
        (Body::from("abc"), "5", None),
        (Body::from("abc"), "3", None),
        (stream(), "5", Some("5")),
        (stream(), "+5", None),
        (stream(), "5, 5", None),
    ] {
        let mut response = Response::new(body);
        response.headers_mut().insert("content-length", length.parse().unwrap());
        let answer = answered(response).await;
        assert_eq!(answer.headers().get("content-length").map(|v| v.to_str().unwrap()), kept, "{length}");
    }
    let mut twice = Response::new(stream());
    twice.headers_mut().append("content-length", "3".parse().unwrap());
    twice.headers_mut().append("content-length", "3".parse().unwrap());
    assert!(!answered(twice).await.headers().contains_key("content-length"));
    let mut empty = Response::new(Body::from("x"));
    *empty.status_mut() = StatusCode::NO_CONTENT;
    assert!(matches!(answered(empty).await.into_body(), Body::Empty));
}

#[tokio::test]
async fn the_announced_length_of_a_head_answer_is_kept() {
    let script: Script = Box::new(|_| {
        let mut response = Response::new(Body::Empty);
        response.headers_mut().insert("content-length", "1234".parse().unwrap());
        Box::pin(async { Ok(reply(response)) })
    });
    let answer = ask_with(Config::default(), script, request("HEAD", "/function/echo", &[], Body::Empty)).await;
    assert_eq!(answer.headers()["content-length"], "1234");
}

#[tokio::test]
async fn a_status_that_has_no_body_announces_none() {
    let stream = || {
        let frames = [Ok(Frame::data(Bytes::from_static(b"abc")))];
        Body::stream(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
    };
    for status in [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED] {
        for (body, length) in [
            (Body::Empty, Some("0")),
            (Body::Empty, Some("3")),
            (Body::from("abc"), Some("3")),
            (Body::from("abc"), None),
            (stream(), Some("3")),
            (stream(), None),
        ] {
            let mut response = Response::new(body);
            *response.status_mut() = status;
            if let Some(length) = length {
                response.headers_mut().insert("content-length", length.parse().unwrap());
            }
            let answer = answered(response).await;
            assert!(!answer.headers().contains_key("content-length"), "{status} {length:?}");
            assert!(matches!(answer.into_body(), Body::Empty), "{status} {length:?}");
        }
    }
}

#[tokio::test]
async fn an_interim_status_is_no_answer() {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let (status, json) = problem(answered(response).await).await;
    assert_eq!(
        (status, json["reason"].as_str(), json["component"].as_str()),
        (502, Some("bad_reply"), Some("function"))
    );
}

#[tokio::test]
async fn every_failure_keeps_its_reason_component_and_times() {
    for reason in Reason::ALL.iter().copied() {
        let script: Script = Box::new(move |_| {
            Box::pin(async move { Err(InvokeError::new(Component::Queue, reason, "64 wait, queue.depth is 64")) })
        });
        let response = ask_with(Config::default(), script, get("/function/echo")).await;
        assert_eq!(response.status(), reason.status());
        assert_eq!(response.headers()["server-timing"], "queue;dur=0.000, run;dur=0.000");
        let (_, json) = problem(response).await;
        assert_eq!((json["reason"].as_str(), json["component"].as_str()), (Some(reason.as_str()), Some("queue")));
        assert_eq!(json["detail"], "64 wait, queue.depth is 64");
    }
}

#[tokio::test]
async fn a_body_that_fails_ends_the_call_though_the_function_waits() {
    for (fault, status) in [
        (BodyError::Broken("a chunk is broken".into()), 400),
        (BodyError::Idle { ms: 5 }, 408),
        (BodyError::TooLarge { max: 4 }, 413),
    ] {
        let frames = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"abc"))), Err(fault)]);
        let body = Body::stream(http_body_util::StreamBody::new(frames));
        let script: Script = Box::new(|invocation| {
            Box::pin(async move {
                // Reads on another task and never answers.
                let reading = tokio::spawn(invocation.request.into_body().collect(100));
                assert!(reading.await.unwrap().is_err());
                std::future::pending().await
            })
        });
        let response = ask_with(Config::default(), script, request("POST", "/function/echo", &[], body)).await;
        assert_eq!(problem(response).await.0, status);
    }
}

#[tokio::test]
async fn the_body_bound_is_that_of_the_revision_which_is_asked() {
    for (target, bytes, fits) in [
        ("/function/echo.shop", 4, true),
        ("/function/echo.shop", 5, false),
        ("/function/echo:next", 5, false),
        ("/function/echo", 5, true),
    ] {
        let outcome = given(Config::default(), request("POST", target, &[], "x".repeat(bytes).into())).await;
        assert_eq!(outcome.is_ok(), fits, "{target} {bytes}");
        if let Err(refused) = outcome {
            let (status, json) = problem(refused).await;
            assert_eq!(status, 413);
            assert!(json["detail"].as_str().unwrap().contains("limits.request_bytes of 4 bytes"));
        }
    }
}

#[tokio::test]
async fn a_query_has_a_bound_on_its_parameters() {
    let target = |n: usize| format!("/function/echo?{}", vec!["a"; n].join("&"));
    assert!(given(Config::default(), get(&target(100))).await.is_ok());
    let (status, json) = problem(given(Config::default(), get(&target(101))).await.unwrap_err()).await;
    assert_eq!((status, json["reason"].as_str()), (400, Some("bad_request")));
}
