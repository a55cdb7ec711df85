//! The MQ trigger with a real RabbitMQ: effects once, poison dead-lettered, restarts survived.

use std::time::Duration;

use faas_loadtest::broker::{Broker, free_port};
use faas_loadtest::samples;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::{House, house_with};

const QUEUE: &str = "order.placed";

pub(crate) async fn channel(url: &str) -> Channel {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

pub(crate) async fn queue_exists(url: &str) {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    for _ in 0..600 {
        if channel(url).await.queue_declare(QUEUE.into(), options, FieldTable::default()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{QUEUE} was not declared");
}

/// Publishes until the broker confirms: it refuses while a queue of it still elects its leader.
pub(crate) async fn publish(channel: &Channel, id: &str, body: &str) {
    let mut headers = FieldTable::default();
    for (key, value) in
        [("ce-id", id), ("ce-source", "/shop"), ("ce-type", "com.example.order.placed"), ("ce-specversion", "1.0")]
    {
        headers.insert(key.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    for _ in 0..100 {
        let options = BasicPublishOptions::default();
        let confirm =
            channel.basic_publish("".into(), QUEUE.into(), options, body.as_bytes(), properties.clone()).await.unwrap();
        if confirm.await.unwrap().is_ack() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the broker did not confirm {id}");
}

pub(crate) fn order(n: u32) -> String {
    format!(r#"{{"id":"m-{n}","customer":"ada","items":[{{"sku":"tea","quantity":1,"price_cents":100}}]}}"#)
}

async fn count_reaches(h: &House, count: u64) {
    let url = h.platform.url("/function/orders/totals");
    let mut last = serde_json::Value::Null;
    for _ in 0..600 {
        last = h.client.get(&url).await.unwrap().json();
        if last["count"].as_u64() == Some(count) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("totals stay at {last}, expected {count}: {}", h.platform.log_tail());
}

#[tokio::test]
async fn messages_take_effect_once_and_poison_is_dead_lettered_across_a_broker_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("broker"), free_port().unwrap()).await.unwrap();
    let url = broker.url();
    let h = house_with(&["--amqp-url", &url]).await;
    h.platform.deploy(&samples::folder("orders")).await.unwrap();
    queue_exists(&url).await;

    let sender = channel(&url).await;
    for n in 0..20 {
        publish(&sender, &format!("e-{n}"), &order(n)).await;
    }
    publish(&sender, "e-3", &order(3)).await;
    publish(&sender, "poison", r#"{"id":1}"#).await;
    count_reaches(&h, 20).await;

    let letters = channel(&url).await;
    let mut letter = None;
    for _ in 0..200 {
        letter = letters.basic_get("order.placed.dlq".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        if letter.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let letter = letter.expect("the poison message is dead-lettered");
    let headers = letter.delivery.properties.headers().clone().unwrap();
    for key in ["x-faas-reason", "x-faas-call-id"] {
        assert!(headers.inner().contains_key(key), "{key} is missing: {headers:?}");
    }

    broker.settle().await;
    broker.kill().await.unwrap();
    assert_eq!(h.client.get(&h.platform.url("/function/orders/totals")).await.unwrap().status, 200, "HTTP goes on");
    broker.restart().await.unwrap();
    let sender = channel(&url).await;
    for n in 20..30 {
        publish(&sender, &format!("e-{n}"), &order(n)).await;
    }
    count_reaches(&h, 30).await;
}

#[tokio::test]
async fn the_broker_may_come_up_later_than_the_platform() {
    let folder = tempfile::tempdir().unwrap();
    // Far from the ports that the other test's broker takes at the same time.
    let port = free_port().unwrap() + 300;
    let url = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let h = house_with(&["--amqp-url", &url]).await;
    h.platform.deploy(&samples::folder("orders")).await.unwrap();
    assert_eq!(h.client.get(&h.platform.url("/function/orders/totals")).await.unwrap().status, 200);
    let broker = Broker::start(&folder.path().join("broker"), port).await.unwrap();
    queue_exists(&broker.url()).await;
    publish(&channel(&broker.url()).await, "late", &order(1)).await;
    count_reaches(&h, 1).await;
}
