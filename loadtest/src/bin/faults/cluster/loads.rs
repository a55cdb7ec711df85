//! What runs while faults are made: acknowledged writes, stateless requests, messages and recorded histories.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use faas_loadtest::contend::{Answer, Ask, Contender, Door, Game, If};
use faas_loadtest::history::Recorder;
use http::Method;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Arguments;
use super::book::Book;
use super::sides::{Asked, Caller, Listener, Sent, Sides};
use crate::messages;

/// Writers; every other write goes through a function, the others through the door of state.
const WRITERS: u64 = 16;
/// Callers of the stateless function.
const CALLERS: u64 = 8;
/// Clients that contend for a key at the same time.
const CONTENDERS: u64 = 4;
/// Longest pause of a contender between two operations.
const CONTENDER_PAUSE_MS_MAX: u64 = 60;
/// Pause before a refused write is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// What all loads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) arguments: Arguments,
    pub(crate) sides: Arc<Sides>,
    pub(crate) book: Book,
    /// Whether every fault has been made: then a load ends as soon as it has done its number.
    pub(crate) faults_over: AtomicBool,
    /// Writes begun, acknowledged; requests answered; messages confirmed.
    pub(crate) writes_begun: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) published: AtomicU64,
    /// Which keys are contended for now.
    pub(crate) slot: AtomicUsize,
    pub(crate) recorder: Recorder,
}

impl Shared {
    /// Says whether a load that has done `done` of at least `goal` goes on.
    fn goes_on(&self, done: u64, goal: u64) -> bool {
        done < goal || !self.faults_over.load(Ordering::SeqCst)
    }

    /// Returns how far the load is that is furthest behind, 0 to 1.
    pub(crate) fn progress(&self) -> f64 {
        let of = |done: &AtomicU64, goal: u64| done.load(Ordering::SeqCst) as f64 / goal.max(1) as f64;
        let a = &self.arguments;
        of(&self.writes, a.writes).min(of(&self.requests, a.requests)).min(of(&self.published, a.messages)).min(1.0)
    }

    /// Returns keys that are contended for at the same time, so that every history has its turn with some fault.
    pub(crate) fn lanes(&self) -> usize {
        self.arguments.histories.div_ceil(self.arguments.faults.max(1)).max(1)
    }
}

/// Starts every load.
pub(crate) fn start(shared: &Arc<Shared>, amqp: String) -> JoinSet<Result<()>> {
    let mut loads = JoinSet::new();
    let seed = shared.arguments.seed << 32;
    for n in 0..WRITERS {
        loads.spawn(write(shared.clone(), seed | n));
    }
    for n in 0..CALLERS {
        loads.spawn(request(shared.clone(), n, seed | 1_000 | n));
    }
    loads.spawn(publish(shared.clone(), amqp));
    let fresh = Arc::new(AtomicI64::new(0));
    for lane in 0..shared.lanes() {
        for _ in 0..CONTENDERS {
            let client = loads.len() as u64;
            let contender = Contender::new(client, shared.arguments.seed, fresh.clone());
            loads.spawn(contend(shared.clone(), lane, contender, seed | 2_000 | client));
        }
    }
    loads
}

/// Returns the request of write `n`, and the statuses that acknowledge it. A repeat of it changes nothing.
fn writing(n: u64) -> (Listener, Asked, &'static [u16]) {
    let put = |headers| Asked { method: Method::PUT, target: format!("/kv/load/w-{n}"), headers, body: door_value(n) };
    match n % 4 {
        0 => (Listener::State, put(vec![("if-none-match", "*".to_owned())]), &[204, 412]),
        2 => (Listener::State, put(Vec::new()), &[204]),
        _ => {
            let order = serde_json::json!({
                "id": format!("w-{n}"), "customer": format!("customer-{n}"),
                "items": [{ "sku": "tea", "quantity": 1, "price_cents": n % 1_000 + 1 }],
            });
            let headers = vec![("content-type", "application/json".to_owned())];
            let target = "/function/orders/orders".to_owned();
            (Listener::Functions, Asked { method: Method::POST, target, headers, body: order.to_string() }, &[200, 201])
        }
    }
}

/// Returns what write `n` through the door leaves.
pub(crate) fn door_value(n: u64) -> String {
    format!("value of write {n}")
}

async fn write(shared: Arc<Shared>, seed: u64) -> Result<()> {
    let mut state = Caller::new(shared.sides.clone(), Listener::State, seed);
    let mut functions = Caller::new(shared.sides.clone(), Listener::Functions, seed);
    while shared.goes_on(shared.writes_begun.load(Ordering::SeqCst), shared.arguments.writes) {
        let n = shared.writes_begun.fetch_add(1, Ordering::SeqCst);
        let (listener, asked, expected) = writing(n);
        let caller = if listener == Listener::State { &mut state } else { &mut functions };
        let load = if listener == Listener::State { "write by the door" } else { "write by a function" };
        // Every number that was begun is written in the end.
        loop {
            let begun = Instant::now();
            let sent = caller.ask(&asked).await;
            if shared.book.note(load, begun, expected, sent).is_some() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        shared.writes.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

async fn request(shared: Arc<Shared>, own: u64, seed: u64) -> Result<()> {
    let mut caller = Caller::new(shared.sides.clone(), Listener::Functions, seed);
    let gap = Duration::from_secs_f64(CALLERS as f64 / shared.arguments.request_rate.max(1) as f64);
    let mut due = Instant::now() + gap.mul_f64(own as f64 / CALLERS as f64);
    while shared.goes_on(shared.requests.load(Ordering::SeqCst), shared.arguments.requests) {
        tokio::time::sleep_until(due).await;
        let begun = Instant::now();
        let sent = caller.ask(&Asked::get("/function/hello")).await;
        shared.book.note("stateless request", begun, &[200], sent);
        shared.requests.fetch_add(1, Ordering::SeqCst);
        // Who is late does not catch up for more than a second.
        due = (due + gap).max(Instant::now() - Duration::from_secs(1));
    }
    Ok(())
}

async fn publish(shared: Arc<Shared>, amqp: String) -> Result<()> {
    let rate = shared.arguments.message_rate.max(1);
    loop {
        let published = shared.published.load(Ordering::SeqCst);
        if !shared.goes_on(published, shared.arguments.messages) {
            return Ok(());
        }
        let more = messages::publish(amqp.clone(), published, rate, 0, rate).await?;
        shared.published.fetch_add(more, Ordering::SeqCst);
    }
}

/// Returns the key of history `n`, and what is done with it.
pub(crate) fn contended(n: usize) -> (String, Game) {
    let game = if n % 3 == 2 { Game::Counter } else { Game::Values };
    (format!("key-{n}"), game)
}

async fn contend(shared: Arc<Shared>, lane: usize, mut contender: Contender, seed: u64) -> Result<()> {
    let via =
        Via { caller: Mutex::new(Caller::new(shared.sides.clone(), Listener::State, seed)), shared: shared.clone() };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut last = None;
    while !shared.faults_over.load(Ordering::SeqCst) {
        let history = lane + shared.slot.load(Ordering::SeqCst) * shared.lanes();
        if history < shared.arguments.histories {
            if last != Some(history) {
                contender.turn_away();
                last = Some(history);
            }
            let (key, game) = contended(history);
            contender.ask(&via, &shared.recorder, &key, game).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..CONTENDER_PAUSE_MS_MAX))).await;
    }
    Ok(())
}

/// The door of state of either process.
struct Via {
    caller: Mutex<Caller>,
    shared: Arc<Shared>,
}

impl Door for Via {
    async fn ask(&self, key: &str, ask: Ask) -> Answer {
        let begun = Instant::now();
        let sent = self.caller.lock().await.ask_once(&asked(key, &ask)).await;
        let status = if let Sent::Answered(answer) = &sent { Some(answer.status) } else { None };
        let expected: &[u16] = match &ask {
            Ask::Get => &[200, 404],
            Ask::Put(..) | Ask::Delete(_) => &[204, 412],
            Ask::Add(_) => &[200],
        };
        let Some(answer) = self.shared.book.note("history", begun, expected, sent) else {
            // "Nothing was written" is a promise, too.
            return if status == Some(503) { Answer::Failed } else { Answer::Unknown };
        };
        let number = || answer.text().parse().ok();
        match (ask, answer.status) {
            (Ask::Get, 200) => match number().zip(answer.etag) {
                Some(found) => Answer::Found(Some(found)),
                None => Answer::Unknown,
            },
            (Ask::Get, _) => Answer::Found(None),
            (Ask::Put(..) | Ask::Delete(_), 412) => Answer::Refused(answer.etag),
            (Ask::Put(..), _) => answer.etag.map_or(Answer::Unknown, Answer::Written),
            (Ask::Delete(_), _) => Answer::Removed,
            (Ask::Add(_), _) => number().map_or(Answer::Unknown, Answer::Sum),
        }
    }
}

fn asked(key: &str, ask: &Ask) -> Asked {
    let target = format!("/kv/histories/{key}");
    let headers = |condition: &If| match condition {
        If::Always => Vec::new(),
        If::Absent => vec![("if-none-match", "*".to_owned())],
        If::Present => vec![("if-match", "*".to_owned())],
        If::Tag(tag) => vec![("if-match", tag.clone())],
    };
    match ask {
        Ask::Get => Asked::get(target),
        Ask::Put(value, condition) => {
            Asked { method: Method::PUT, target, headers: headers(condition), body: value.to_string() }
        }
        Ask::Delete(condition) => {
            Asked { method: Method::DELETE, target, headers: headers(condition), body: String::new() }
        }
        Ask::Add(by) => {
            let target = format!("{target}?op=incr&by={by}");
            Asked { method: Method::POST, target, headers: Vec::new(), body: String::new() }
        }
    }
}
