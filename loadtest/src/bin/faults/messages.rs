//! Numbered messages through `orders` while broker and platform are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faas_loadtest::broker::{Broker, free_port};
use faas_loadtest::http::Client;
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::samples;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::time::Instant;

pub(crate) const QUEUE: &str = "order.placed";
const DEAD_LETTERS: &str = "order.placed.dlq";
/// After the last message, how long the platform may take to finish.
const SETTLE_PATIENCE: Duration = Duration::from_secs(300);

/// Between two kills at least, so that each hits a system at work.
const MENDED: Duration = Duration::from_secs(2);

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Good messages.
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
    /// Messages a second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Poison messages among them.
    #[arg(long, default_value_t = 200)]
    poison: u64,
    /// Kills of the broker, evenly spread.
    #[arg(long, default_value_t = 4)]
    broker_kills: u64,
    /// Kills of the platform, evenly spread.
    #[arg(long, default_value_t = 4)]
    platform_kills: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&folder.path().join("broker"), free_port()?).await?;
    let options = Options { flags: vec!["--amqp-url".into(), broker.url()], ..Options::default() };
    let mut platform = Platform::start(&folder.path().join("faas"), options).await?;
    platform.deploy(&samples::folder("orders")).await?;
    wait_for_queue(&broker.url()).await?;
    broker.settle().await;
    let publisher = tokio::spawn(publish(broker.url(), 0, arguments.messages, arguments.poison, arguments.rate));
    let total = Duration::from_secs(arguments.messages / arguments.rate.max(1));
    let kills = arguments.broker_kills + arguments.platform_kills;
    let begun = Instant::now();
    for n in 0..kills {
        tokio::time::sleep((total / u32::try_from(kills + 1)?).max(MENDED)).await;
        if n % 2 == 0 && n / 2 < arguments.broker_kills {
            broker.kill().await?;
            broker.restart().await?;
            println!("{:>6.1} s  broker killed and started again", begun.elapsed().as_secs_f64());
        } else {
            platform = platform.crash_and_restart().await?;
            println!("{:>6.1} s  platform killed and started again", begun.elapsed().as_secs_f64());
        }
    }
    let confirmed = publisher.await??;
    println!("{:>6.1} s  {confirmed} publishes confirmed", begun.elapsed().as_secs_f64());
    settle(&platform, arguments.messages).await?;
    println!("{:>6.1} s  settled", begun.elapsed().as_secs_f64());
    check(&platform, &broker.url(), &arguments).await
}

pub(crate) async fn wait_for_queue(url: &str) -> Result<()> {
    for _ in 0..300 {
        let channel = open(url).await?;
        if channel.queue_declare(QUEUE.into(), passive(), FieldTable::default()).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the platform did not declare {QUEUE}")
}

fn passive() -> lapin::options::QueueDeclareOptions {
    lapin::options::QueueDeclareOptions { passive: true, ..Default::default() }
}

pub(crate) async fn open(url: &str) -> Result<Channel> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    Ok(connection.create_channel().await?)
}

/// Publishes at `rate` messages a second until told to stop; returns how many, all of them confirmed.
pub(crate) async fn publish_until(url: String, rate: u64, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut published = 0;
    while !stop.load(Ordering::SeqCst) {
        published += publish(url.clone(), published, rate.max(1), 0, rate).await?;
    }
    Ok(published)
}

/// Publishes the messages from number `first` until every message is confirmed; a message whose confirm was
/// lost is sent again under the same id, as a careful producer does.
pub(crate) async fn publish(url: String, first: u64, messages: u64, poison: u64, rate: u64) -> Result<u64> {
    let mut left: BTreeSet<(u64, bool)> = (first..first + messages)
        .map(|n| (n, true))
        .chain((0..poison).map(|n| (n * (messages / poison.max(1)).max(1), false)))
        .collect();
    let begun = Instant::now();
    let mut sent = 0u64;
    let mut confirmed = 0u64;
    while !left.is_empty() {
        let Ok(channel) = open(&url).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        if channel.confirm_select(ConfirmSelectOptions::default()).await.is_err() {
            continue;
        }
        let round: Vec<_> = left.iter().copied().collect();
        for batch in round.chunks(50) {
            let mut confirms = Vec::with_capacity(batch.len());
            for (n, good) in batch {
                let (properties, body) = message(*n, *good);
                let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                match channel.basic_publish("".into(), QUEUE.into(), options, body.as_bytes(), properties).await {
                    Ok(confirm) => confirms.push(((*n, *good), confirm)),
                    Err(_) => break,
                }
            }
            let mut broken = confirms.len() < batch.len();
            for (number, confirm) in confirms {
                match tokio::time::timeout(Duration::from_secs(20), confirm).await {
                    Ok(Ok(lapin::Confirmation::Ack(None))) => {
                        left.remove(&number);
                        confirmed += 1;
                    }
                    _ => broken = true,
                }
            }
            if broken {
                break;
            }
            sent += batch.len() as u64;
            tokio::time::sleep_until(begun + Duration::from_secs_f64(sent as f64 / rate as f64)).await;
        }
    }
    Ok(confirmed)
}

fn message(n: u64, good: bool) -> (BasicProperties, String) {
    let id = if good { format!("order-{n}") } else { format!("poison-{n}") };
    let mut headers = FieldTable::default();
    for (key, value) in [
        ("ce-id", id.as_str()),
        ("ce-source", "/shop"),
        ("ce-type", "com.example.order.placed"),
        ("ce-specversion", "1.0"),
    ] {
        headers.insert(key.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    let body = if good {
        format!(
            r#"{{"id":"{id}","customer":"customer-{}","items":[{{"sku":"tea","quantity":1,"price_cents":100}}]}}"#,
            n % 10
        )
    } else {
        r#"{"id":7,"not":"an order"}"#.to_owned()
    };
    (properties, body)
}

/// Waits until the totals stand still at the full count.
pub(crate) async fn settle(platform: &Platform, messages: u64) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < SETTLE_PATIENCE {
        let totals = totals(platform).await?;
        if count_of(&totals) >= Some(messages) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    anyhow::bail!("not all messages took effect: {}", totals(platform).await?)
}

async fn totals(platform: &Platform) -> Result<serde_json::Value> {
    Ok(Client::default().get(&platform.url("/function/orders/totals")).await?.json())
}

fn count_of(totals: &serde_json::Value) -> Option<u64> {
    totals.get("count").and_then(serde_json::Value::as_u64)
}

async fn check(platform: &Platform, url: &str, arguments: &Arguments) -> Result<()> {
    let channel = open(url).await?;
    queue_is_empty(&channel).await?;
    let dead = dead_letters(&channel).await?;
    let good_dead = dead.keys().filter(|id| id.starts_with("order-")).count();
    let poison: BTreeMap<_, _> = dead.iter().filter(|(id, _)| id.starts_with("poison-")).collect();
    let copies: usize = poison.values().map(|letters| letters.len()).sum();
    let calls_differ =
        poison.values().filter(|letters| letters.iter().map(|l| &l.call).collect::<BTreeSet<_>>().len() > 1).count();
    let without_reason =
        poison.values().flat_map(|l| l.iter()).filter(|l| l.reason.is_empty() || l.call.is_empty()).count();
    let totals = totals(platform).await?;
    println!(
        "messages {}: totals {totals}; poison {}: {} in the dead-letter queue, {copies} letters, {calls_differ} with differing call ids, {without_reason} without reason; good messages dead-lettered: {good_dead}",
        arguments.messages,
        arguments.poison,
        poison.len()
    );
    ensure!(count_of(&totals) == Some(arguments.messages), "effects are not once per event id");
    ensure!(poison.len() as u64 == arguments.poison, "poison messages are missing in the dead-letter queue");
    ensure!(without_reason == 0 && calls_differ == 0, "dead letters without reason or with differing call ids");
    ensure!(good_dead == 0, "good messages were dead-lettered");
    ensure!((copies as u64 - arguments.poison) * 100 <= arguments.poison, "over 1 % duplicate dead letters");
    Ok(())
}

pub(crate) async fn queue_is_empty(channel: &Channel) -> Result<()> {
    let mut left_over = u32::MAX;
    for _ in 0..120 {
        left_over = channel.queue_declare(QUEUE.into(), passive(), FieldTable::default()).await?.message_count();
        if left_over == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("{left_over} messages are left in {QUEUE}")
}

/// Checks that `messages` good messages had one effect each and that none is left or dead.
pub(crate) async fn nothing_left_over(platform: &Platform, url: &str, messages: u64) -> Result<()> {
    let channel = open(url).await?;
    queue_is_empty(&channel).await?;
    let dead = dead_letters(&channel).await?.len();
    let count = count_of(&totals(platform).await?);
    ensure!(dead == 0, "{dead} good messages were dead-lettered");
    ensure!(count == Some(messages), "{messages} messages had {count:?} effects");
    Ok(())
}

pub(crate) struct Letter {
    reason: String,
    call: String,
}

pub(crate) async fn dead_letters(channel: &Channel) -> Result<BTreeMap<String, Vec<Letter>>> {
    let mut letters: BTreeMap<String, Vec<Letter>> = BTreeMap::new();
    while let Some(message) = channel.basic_get(DEAD_LETTERS.into(), BasicGetOptions::default()).await? {
        let headers = message.delivery.properties.headers().clone().context("a dead letter without headers")?;
        let text = |key: &str| match headers.inner().get(key) {
            Some(AMQPValue::LongString(value)) => value.to_string(),
            Some(other) => format!("{other:?}"),
            None => String::new(),
        };
        let letter = Letter { reason: text("x-faas-reason"), call: text("x-faas-call-id") };
        letters.entry(text("ce-id")).or_default().push(letter);
        message.delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(letters)
}
