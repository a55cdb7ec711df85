//! The HTTP trigger from outside: routes, streaming, limits and the platform's own errors.

use std::time::Duration;

use bytes::Bytes;
use faas_loadtest::samples;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::house;

#[tokio::test]
async fn routes_and_hosts_of_the_manifest_are_served() {
    let h = house().await;
    let manifest = h.folder.path().join("routed");
    let lines = "[[functions.routed.trigger.http]]\nroute = \"/hi\"\nmethods = [\"GET\"]\n";
    samples::manifest(&manifest, "routed", "hello", lines).unwrap();
    h.platform.deploy(&manifest).await.unwrap();
    assert_eq!(h.client.get(&h.platform.url("/hi")).await.unwrap().status, 404, "hello itself knows no /hi");
    let refused = h.client.send(Method::POST, &h.platform.url("/hi"), &[], "").await.unwrap();
    assert_eq!(refused.status, 405);
    assert_eq!(refused.header("x-faas-origin"), "platform");
    let none = h.client.get(&h.platform.url("/nothing")).await.unwrap();
    assert_eq!((none.status.as_u16(), none.json()["reason"].as_str()), (404, Some("not_found")));
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let h = house().await;
    h.platform.deploy(&samples::folder("hello")).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(&h.platform.ready().functions).await.unwrap();
    stream.write_all(b"GET /function/hello/sse HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut text = String::new();
    let mut pieces = 0;
    let read = async {
        let mut buffer = [0u8; 4096];
        while !text.ends_with("0\r\n\r\n") {
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "closed early: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
            pieces += 1;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.unwrap();
    assert!(text.contains("text/event-stream"), "{text}");
    assert!(text.matches("data:").count() >= 3, "{text}");
    assert!(pieces >= 3, "events must not wait for the end: {pieces} pieces");
}

#[tokio::test]
async fn bodies_stream_through_and_stop_at_the_bound() {
    let h = house().await;
    let manifest = h.folder.path().join("echo");
    samples::manifest(&manifest, "echo", "hello", "limits = { request_bytes = \"1MiB\" }").unwrap();
    h.platform.deploy(&manifest).await.unwrap();
    let url = h.platform.url("/function/echo/echo");
    let body = Bytes::from(faas_loadtest::bytes_of::noise(3, 1 << 20));
    let answer = h.client.send(Method::POST, &url, &[], body.clone()).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body == body), (200, true));
    let over = h.client.send(Method::POST, &url, &[], vec![0; (1 << 20) + 1]).await.unwrap();
    assert_eq!(over.status, 413);
    assert_eq!(over.json()["reason"], "body_too_large");
}

#[tokio::test]
async fn trace_context_is_passed_and_platform_headers_cannot_be_forged() {
    let h = house().await;
    h.platform.deploy(&samples::folder("orders")).await.unwrap();
    let body = r#"{"id":"forged","customer":"eve","items":[{"sku":"x","quantity":1,"price_cents":1}]}"#;
    let headers = [
        ("content-type", "application/json"),
        ("x-faas-trigger", "amqp"),
        ("ce-id", "1"),
        ("ce-source", "/shop"),
        ("ce-type", "com.example.order.placed"),
        ("ce-specversion", "1.0"),
    ];
    let answer = h.client.send(Method::POST, &h.platform.url("/function/orders/"), &headers, body).await.unwrap();
    assert!(
        answer.status.is_client_error(),
        "a client must not pass for the broker: {} {}",
        answer.status,
        answer.text()
    );
}
