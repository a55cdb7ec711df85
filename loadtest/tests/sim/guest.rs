//! What the guests do with a call: effects in the store, then an answer of some kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use faas_model::{Body, BodyError, Name, Reason, TriggerKind, headers};
use faas_runtime::{Call, RuntimeError, Unit};
use faas_store::bucket::{BucketName, Buckets};
use faas_store::{Read, Require, StoreError};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::ledger::Ledger;
use crate::log::Log;
use crate::stage::Busy;

/// The code of all functions.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) log: Log,
    pub(crate) chance: Chance,
    pub(crate) ledger: Ledger,
    pub(crate) buckets: Buckets,
    pub(crate) calm: Arc<AtomicBool>,
}

/// An answer, and whether the instance breaks with it.
type Played = (Result<Response<Body>, RuntimeError>, bool);

pub(crate) const REQUEST: &str = "x-sim-request";
const STORE_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn bucket() -> BucketName {
    BucketName { namespace: Name::namespace_default(), bucket: Name::new("sim").expect("a name") }
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = code;
    response
}

fn text(headers: &http::HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

fn crashed() -> RuntimeError {
    RuntimeError::new(Reason::Crashed, "as chance says")
}

impl Guest {
    pub(crate) fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    pub(crate) async fn play(&self, unit: &Unit, call: Call, busy: Busy) -> Played {
        // No borrow of the call may outlive this: bodies are not shared between threads.
        let [trigger, message, name] = [headers::TRIGGER, "ce-id", REQUEST].map(|of| text(call.request.headers(), of));
        let fault = unit.spec.env.get("fault").map(String::as_str);
        if trigger == TriggerKind::Control.as_str() {
            let code = if fault == Some("probe") { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
            return (Ok(status(code)), false);
        }
        let revision = unit.revision.0.short();
        self.log.check(
            fault.is_none(),
            format_args!(
                "live moves only after the probe: a call runs on {revision} of {}, which fails it",
                unit.function
            ),
        );
        if trigger == TriggerKind::Amqp.as_str() {
            return self.message(&message, busy).await;
        }
        let times = {
            let mut pages = self.ledger.pages();
            let times = pages.reached.entry(name.clone()).or_default();
            *times += 1;
            *times
        };
        self.log.line(format_args!("{} runs {name} on {revision}", unit.function));
        self.log.check(times == 1, format_args!("a request is one call: {name} came {times} times"));
        self.request(call, busy).await
    }

    async fn request(&self, call: Call, busy: Busy) -> Played {
        let kind = if self.calm.load(Ordering::SeqCst) { 0 } else { self.chance.below(24) };
        match kind {
            0..5 => {
                self.count().await;
                (Ok(Response::new(Body::from("counted"))), false)
            }
            5..7 => {
                self.swap().await;
                (Ok(Response::new(Body::from("swapped"))), false)
            }
            7..11 => {
                sleep(self.chance.millis(1, 400)).await;
                (Ok(Response::new(Body::from("late"))), false)
            }
            11 => {
                sleep(self.chance.millis(400, 5000)).await;
                (Ok(status(StatusCode::NO_CONTENT)), false)
            }
            12 => (Ok(status(StatusCode::IM_A_TEAPOT)), false),
            13 => (Err(crashed()), self.chance.one_in(2)),
            14 => (Ok(Response::new(Body::from("last"))), true),
            15 => std::future::pending().await,
            16 => {
                let body = call.request.into_body().collect(1 << 20).await;
                (body.map(|b| Response::new(Body::from(b))).map_err(|_| crashed()), false)
            }
            _ => (Ok(Response::new(self.stream(busy))), false),
        }
    }

    /// Returns a body in parts, which may stall or break off.
    fn stream(&self, busy: Busy) -> Body {
        let (parts, end) = (1 + self.chance.below(6), self.chance.below(8));
        let chance = self.chance.clone();
        let frames = futures_util::stream::unfold((0, busy), move |(at, busy)| {
            let chance = chance.clone();
            async move {
                match (at == parts, end) {
                    (true, 0) => std::future::pending().await,
                    (true, 1) => Some((Err(BodyError::Function("as chance says".into())), (at + 1, busy))),
                    (true, _) => None,
                    (false, _) if at > parts => None,
                    (false, _) => {
                        sleep(chance.millis(0, 300)).await;
                        Some((Ok(Frame::data(Bytes::from_static(b"part"))), (at + 1, busy)))
                    }
                }
            }
        });
        Body::stream(StreamBody::new(frames))
    }

    /// Handles a message: its effect is made once, under its name.
    async fn message(&self, name: &str, _busy: Busy) -> Played {
        let kind = if self.calm.load(Ordering::SeqCst) { 9 } else { self.chance.below(12) };
        self.log.line(format_args!("message {name} runs"));
        match kind {
            0 => return (Ok(status(StatusCode::SERVICE_UNAVAILABLE)), false),
            1 => return (Err(crashed()), self.chance.one_in(2)),
            2 if self.chance.one_in(3) => return (Ok(status(StatusCode::BAD_REQUEST)), false),
            3 if self.chance.one_in(3) => std::future::pending().await,
            4 => sleep(self.chance.millis(10, 2000)).await,
            _ => {}
        }
        let key = format!("effect/{name}");
        let by = Instant::now() + STORE_PATIENCE;
        match self.buckets.put(&bucket(), &key, Bytes::from_static(b"1"), None, Require::Absent, by).await {
            Ok(_) | Err(StoreError::Conflict(_)) => {
                self.ledger.pages().effects.insert(name.to_owned());
                if kind == 5 {
                    // The effect is there, the answer is not: the next try finds it.
                    sleep(self.chance.millis(1, 500)).await;
                }
                (Ok(status(StatusCode::OK)), false)
            }
            Err(_) => (Ok(status(StatusCode::SERVICE_UNAVAILABLE)), false),
        }
    }

    async fn count(&self) {
        self.ledger.pages().asked += 1;
        let by = Instant::now() + STORE_PATIENCE;
        if self.buckets.increment(&bucket(), "count", 1, by).await.is_ok() {
            self.ledger.pages().acknowledged += 1;
        }
    }

    /// Replaces a number by the next one if it did not change meanwhile.
    async fn swap(&self) {
        let by = Instant::now() + STORE_PATIENCE;
        let Ok(found) = self.buckets.get(&bucket(), "swap", Read::Linearizable, by).await else { return };
        let (now, require) = match &found {
            None => (0, Require::Absent),
            Some(entry) => {
                let text = std::str::from_utf8(&entry.value).unwrap_or_default();
                (text.parse::<i64>().unwrap_or_default(), Require::Version(entry.version))
            }
        };
        let next = now + 1;
        self.ledger.pages().swaps_asked += 1;
        let bucket = bucket();
        let put = self.buckets.put(&bucket, "swap", Bytes::from(next.to_string()), None, require, by);
        if put.await.is_ok() {
            let fresh = self.ledger.pages().swapped.insert(next);
            self.log.check(fresh, format_args!("conditional writes are linearizable: two swaps wrote {next}"));
        }
    }
}
