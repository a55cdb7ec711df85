//! After the faults: every acknowledged write, every message's effect and every history is looked at.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faas_loadtest::contend::Game;
use faas_loadtest::history::{End, Histories, Op, Recorder};
use faas_loadtest::linear::{Verdict, judge};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::faults::House;
use super::loads::{Shared, contended, door_value};
use super::sides::{Answered, Asked, Caller, Listener, Sent, Sides};
use crate::messages;

/// Readers at the same time.
const READERS: u64 = 32;
/// Longest wait until the last messages have taken effect.
const SETTLE_PATIENCE: Duration = Duration::from_secs(600);
/// Tries of a read; nothing is broken any more.
const READ_TRIES: usize = 20;

/// Returns what was broken.
pub(crate) async fn all(shared: Shared, house: &House, folder: &Path) -> Result<Vec<String>> {
    let Shared { sides, writes_begun, writes, published, recorder, arguments, .. } = shared;
    last_reads(&sides, &recorder, arguments.histories).await?;
    let mut broken = histories(recorder, arguments.histories, folder)?;
    let begun = writes_begun.into_inner();
    ensure!(begun == writes.into_inner(), "a write was begun and not ended");
    let wanted = (0..begun).map(|n| if n % 2 == 0 { Wanted::door(n) } else { Wanted::order(n) });
    let lost = read_all(&sides, wanted.collect()).await?;
    println!("writes: {begun} acknowledged, {} lost or changed", lost.len());
    broken.extend(lost);
    let messages = published.into_inner();
    settle(&sides, messages).await?;
    let channel = messages::open(&house.broker.url()).await?;
    messages::queue_is_empty(&channel).await?;
    let dead = messages::dead_letters(&channel).await?;
    if !dead.is_empty() {
        broken.push(format!("{} good messages were dead-lettered", dead.len()));
    }
    let keys = event_keys(&sides).await?;
    let expected: BTreeSet<_> = (0..messages).map(event_key).collect();
    let strange = keys.difference(&expected).count();
    if strange > 0 {
        broken.push(format!("{strange} effects are of no message"));
    }
    let lost = read_all(&sides, (0..messages).map(Wanted::event).collect()).await?;
    println!("messages: {messages} confirmed, {} without their effect, {strange} effects too many", lost.len());
    broken.extend(lost);
    Ok(broken)
}

/// A key that must be there.
struct Wanted {
    target: String,
    /// What its value has in it.
    has: Vec<String>,
}

impl Wanted {
    fn door(n: u64) -> Self {
        Self { target: format!("/kv/load/w-{n}"), has: vec![door_value(n)] }
    }

    fn order(n: u64) -> Self {
        let has = vec![format!("{} customer-{n}\n", n % 1_000 + 1), format!("\"w-{n}\"")];
        Self { target: format!("/kv/orders/w-{n}"), has }
    }

    fn event(n: u64) -> Self {
        let key = event_key(n).replace('%', "%25");
        Self { target: format!("/kv/order-events/{key}"), has: vec![format!("\"order-{n}\"")] }
    }
}

/// Returns the key under which the sample `orders` records message `n`.
fn event_key(n: u64) -> String {
    format!("%2Fshop/order-{n}")
}

async fn read(caller: &mut Caller, target: &str) -> Result<Answered> {
    let mut last = None;
    for _ in 0..READ_TRIES {
        match caller.ask(&Asked::get(target)).await {
            Sent::Answered(answer) if [200, 404].contains(&answer.status) => return Ok(answer),
            other => last = Some(other),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("{target} cannot be read although nothing is broken any more: {last:?}")
}

/// Reads every key; returns those that are not as wanted.
async fn read_all(sides: &Arc<Sides>, wanted: Vec<Wanted>) -> Result<Vec<String>> {
    let (wanted, next) = (Arc::new(wanted), Arc::new(AtomicU64::new(0)));
    let mut readers = JoinSet::new();
    for seed in 0..READERS {
        let (wanted, next) = (wanted.clone(), next.clone());
        let mut caller = Caller::new(sides.clone(), Listener::State, seed);
        readers.spawn(async move {
            let mut lost = Vec::new();
            while let Some(one) = wanted.get(usize::try_from(next.fetch_add(1, Ordering::SeqCst))?) {
                let answer = read(&mut caller, &one.target).await?;
                let text = answer.text();
                if answer.status != 200 || !one.has.iter().all(|part| text.contains(part)) {
                    lost.push(format!("{} was acknowledged and is {}: {text}", one.target, answer.status));
                }
            }
            anyhow::Ok(lost)
        });
    }
    let mut lost = Vec::new();
    while let Some(reader) = readers.join_next().await {
        lost.extend(reader??);
    }
    Ok(lost)
}

/// Waits until every message has had its effect.
async fn settle(sides: &Arc<Sides>, messages: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let effects = event_keys(sides).await?.len() as u64;
        if effects >= messages {
            return Ok(());
        }
        ensure!(begun.elapsed() < SETTLE_PATIENCE, "only {effects} of {messages} messages took effect");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Returns the keys of all effects of messages.
async fn event_keys(sides: &Arc<Sides>) -> Result<BTreeSet<String>> {
    let mut caller = Caller::new(sides.clone(), Listener::State, 0);
    let (mut keys, mut after) = (BTreeSet::new(), String::new());
    loop {
        let answer = read(&mut caller, &format!("/kv/order-events?limit=1000{after}")).await?;
        let page: serde_json::Value = serde_json::from_slice(&answer.body).context("a page of keys")?;
        let more = page.get("keys").and_then(|keys| keys.as_array()).context("a page has keys")?;
        keys.extend(more.iter().filter_map(|key| key.as_str()).map(str::to_owned));
        match page.get("next").and_then(|next| next.as_str()) {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(keys),
        }
    }
}

/// Reads every contended key once more, so that what vanished at the end is seen.
async fn last_reads(sides: &Arc<Sides>, recorder: &Recorder, count: usize) -> Result<()> {
    let mut caller = Caller::new(sides.clone(), Listener::State, 0);
    for n in 0..count {
        let (key, game) = contended(n);
        let called = recorder.call(&key, u64::MAX, Op::Get);
        let answer = read(&mut caller, &format!("/kv/histories/{key}")).await?;
        let value = if answer.status == 200 { Some(answer.text().parse().context("a number")?) } else { None };
        if let (Some(value), Some(tag), Game::Values) = (value, &answer.etag, game) {
            recorder.seen(&key, tag, value);
        }
        called.end(End::Read(value));
    }
    Ok(())
}

/// Judges every history; keeps those that are broken as JSON in `folder`.
fn histories(recorder: Recorder, count: usize, folder: &Path) -> Result<Vec<String>> {
    let (histories, mut broken): (Histories, _) = recorder.end();
    let operations: usize = histories.values().map(Vec::len).sum();
    let shortest = histories.values().map(Vec::len).min().unwrap_or_default();
    let of = |end: fn(&End) -> bool| histories.values().flatten().filter(|operation| end(&operation.end)).count();
    let (refused, unknown, failed) =
        (of(|e| matches!(e, End::Refused(_))), of(|e| *e == End::Unknown), of(|e| *e == End::Failed));
    for (key, history) in &histories {
        let told = match judge(history) {
            Verdict::Linearizable => continue,
            Verdict::Violation(violation) => violation.to_string(),
            Verdict::Undecided { steps } => format!("not decided within {steps} steps"),
        };
        let path = folder.join(format!("{key}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(history)?)?;
        broken.push(format!("history of {key}: {told}"));
    }
    println!(
        "histories: {} of {operations} operations, {shortest} at least ({refused} refused, {unknown} unknown, {failed} failed for sure); {} in no order",
        histories.len(),
        broken.len()
    );
    ensure!(histories.len() == count, "only {} of {count} histories were recorded", histories.len());
    Ok(broken)
}
