//! One try: the call to its last byte, and the memory of tries whose settlement was lost.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use faas_invoke::{Dispatch, Invocation, Reply};
use faas_model::{Body, BodyError, CallId, FunctionName, Name, Reason, TriggerKind};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::sync::watch;

use super::convert::Event;
use super::settle::{Death, Outcome, Past, Settlement};

/// Tries remembered at most.
const TRIES_MAX: usize = 4096;

/// Runs the function once and reads its answer to the end: work after the head is part of the call.
pub(super) async fn run(dispatch: &dyn Dispatch, function: &FunctionName, event: Event) -> Outcome {
    let invocation = Invocation {
        call: event.call,
        function: function.clone(),
        alias: Name::alias_live(),
        trigger: TriggerKind::Amqp,
        request: event.request,
    };
    match dispatch.dispatch(invocation).await {
        Ok(Reply { response, .. }) => {
            let (head, body) = response.into_parts();
            match drain(body).await {
                Ok(()) => Outcome::Status { status: head.status.as_u16(), retry_after: retry_after(&head.headers) },
                Err(BodyError::TooLarge { .. }) => Outcome::Failed(Reason::ReplyTooLarge),
                Err(BodyError::Idle { .. } | BodyError::Deadline { .. }) => Outcome::Failed(Reason::RunTimeout),
                Err(BodyError::Function(_) | BodyError::Broken(_)) => Outcome::Failed(Reason::Crashed),
            }
        }
        Err(error) => Outcome::Failed(error.reason),
    }
}

async fn drain(mut body: Body) -> Result<(), BodyError> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// Reads `Retry-After` as seconds or as an HTTP date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let rest = date.as_millisecond().saturating_sub(jiff::Timestamp::now().as_millisecond());
    Some(Duration::from_millis(u64::try_from(rest).unwrap_or_default()))
}

/// How a try ended and what is to be done.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) call: CallId,
    /// The event id that was made up for it.
    pub(super) fresh_id: Option<String>,
    /// What is malformed.
    pub(super) detail: Option<&'static str>,
    /// What it dies of, if this was its last try.
    pub(super) death: Option<(Death, Option<u16>)>,
    pub(super) past: Past,
    pub(super) settlement: Settlement,
    /// Where another delivery of the same try learns of the settlement.
    pub(super) known: Option<watch::Sender<Option<Settlement>>>,
}

impl Tried {
    /// Returns the count that the next try starts with.
    pub(super) fn next(&self) -> Past {
        let Past { attempts, refusals } = self.past;
        match self.settlement {
            Settlement::Retry { .. } => Past { attempts: attempts.saturating_add(1), refusals: 0 },
            Settlement::Hold { .. } => Past { attempts, refusals: refusals.saturating_add(1) },
            _ => self.past,
        }
    }

    /// Makes the tries so far the last ones.
    pub(super) fn dies(&mut self, (death, status): (Death, Option<u16>)) {
        // A letter counts one try more than there were before.
        self.past.attempts = self.next().attempts.saturating_sub(1);
        self.settlement = Settlement::DeadLetter { death, status };
    }
}

/// Tries under way, and those whose settlement did not reach the broker: the
/// same try comes back with the redelivery and is then settled without a second call.
#[derive(Debug, Default)]
pub(super) struct Tries(Mutex<HashMap<CallId, watch::Receiver<Option<Settlement>>>>);

impl Tries {
    /// Returns the settlement of the same try, waiting for it while it runs.
    pub(super) async fn known(&self, call: CallId, redelivered: bool) -> Option<Settlement> {
        let mut earlier = if redelivered { self.lock().get(&call).cloned()? } else { return None };
        // An error says that the earlier try ended without an outcome.
        earlier.wait_for(Option::is_some).await.ok().and_then(|settlement| *settlement)
    }

    /// Notes that the try runs.
    pub(super) fn begin(&self, call: CallId) -> watch::Sender<Option<Settlement>> {
        let (sender, receiver) = watch::channel(None);
        let mut tries = self.lock();
        if tries.len() >= TRIES_MAX {
            // What runs still has its sender; the rest was remembered long enough.
            tries.retain(|_, try_| try_.has_changed().is_ok());
        }
        if tries.len() < TRIES_MAX {
            tries.insert(call, receiver);
        }
        sender
    }

    /// Forgets a try that the broker knows to be settled; keeps the settlement of one that it does not.
    pub(super) fn settled(&self, tried: &Tried, durable: bool) {
        if durable {
            self.lock().remove(&tried.call);
        } else if let Some(known) = &tried.known {
            known.send_replace(Some(tried.settlement));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CallId, watch::Receiver<Option<Settlement>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
