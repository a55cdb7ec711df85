//! A message as the event a function sees, and as it is published again.
//!
//! Pure: no clock but the one given, no broker. Whatever the message, the
//! answer is an event or the reason why there is none.

use std::time::Duration;

use faas_model::event::{Attributes, Mode, Partial, SPECVERSION, parse_structured};
use faas_model::{Body, CallId, FunctionName, Hasher, TriggerKind, headers};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

use super::queue::{Message, Value};
use super::settle::{Death, Past};

/// Type of an event that is no CloudEvent by itself.
pub const TYPE_DEFAULT: &str = "io.faas.amqp.message";
/// Message headers of the platform.
pub(super) mod own {
    pub(crate) const ATTEMPTS: &str = "x-faas-attempts";
    pub(crate) const REFUSALS: &str = "x-faas-refusals";
    pub(crate) const ID: &str = "x-faas-id";
    pub(crate) const NOT_BEFORE_MS: &str = "x-faas-not-before-ms";
    pub(crate) const FIRST_FAILURE: &str = "x-faas-first-failure-time";
    pub(crate) const REASON: &str = "x-faas-reason";
    pub(crate) const DETAIL: &str = "x-faas-detail";
    pub(crate) const STATUS: &str = "x-faas-status";
    pub(crate) const CALL_ID: &str = "x-faas-call-id";
    pub(crate) const FUNCTION: &str = "x-faas-function";
    pub(crate) const QUEUE: &str = "x-faas-queue";
    /// How many headers were left out because all of them are too large to be published again.
    pub(crate) const DROPPED: &str = "x-faas-headers-dropped";
    /// What the platform itself needs or tells.
    pub(crate) const ALL: [&str; 12] = [
        ATTEMPTS,
        REFUSALS,
        ID,
        NOT_BEFORE_MS,
        FIRST_FAILURE,
        REASON,
        DETAIL,
        STATUS,
        CALL_ID,
        FUNCTION,
        QUEUE,
        DROPPED,
    ];
}

/// A message this near its due time is tried at once.
const DUE_SOON: Duration = Duration::from_millis(500);

/// What the headers with the attributes of a CloudEvent begin with.
pub(super) const PREFIXES: [&str; 3] = ["ce-", "cloudEvents_", "cloudEvents:"];

/// RFC 3986 unreserved characters stay, everything else is encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a message comes from and whom it is for.
#[derive(Debug, Clone)]
pub struct Source {
    /// The function that is invoked.
    pub function: FunctionName,
    /// The broker's name in the server configuration.
    pub broker: String,
    /// The work queue.
    pub queue: String,
    /// Largest body, `limits.request_bytes` of the function.
    pub request_bytes: u64,
}

/// A message made into an event.
#[derive(Debug)]
pub struct Event {
    /// Names this try; the same for every delivery of the same try when the event's id is.
    pub call: CallId,
    /// The id that was made up, when the message brought none.
    pub fresh_id: Option<String>,
    /// `POST /` in CloudEvents binary mode.
    pub request: Request<Body>,
}

/// Where the id of an event comes from.
enum Id {
    /// The event names itself.
    Named,
    /// The message's: publishers use one for several messages, by intent or not.
    Carried,
    /// Nobody named it.
    MadeUp(String),
}

impl Source {
    /// Returns the value of `ce-source` for messages that name none.
    #[must_use]
    pub fn uri(&self) -> String {
        let encode = |text| utf8_percent_encode(text, SEGMENT);
        format!("amqp://{}/{}", encode(&self.broker), encode(&self.queue))
    }

    /// Makes the event of a try of `message`.
    ///
    /// # Errors
    /// Why the message is malformed.
    pub fn event(&self, message: &Message) -> Result<Event, &'static str> {
        if message.body.len() as u64 > self.request_bytes {
            return Err("the body is over limits.request_bytes of the function");
        }
        let content_type = message.content_type.as_deref().unwrap_or_default();
        let (attributes, body, id) = match Mode::of_content_type(content_type.as_bytes()) {
            Mode::Batch => return Err("batches of CloudEvents are not taken"),
            Mode::Structured => {
                let (attributes, data) =
                    parse_structured(&message.body).map_err(|_| "the structured CloudEvent cannot be read")?;
                (attributes, data, Id::Named)
            }
            _ => {
                let (attributes, id) = self.attributes(message)?;
                (attributes, message.body.clone(), id)
            }
        };
        let attempts = Past::of(message).attempts;
        // Only an event's own id says that two messages are the same one (CloudEvents 1.0.2, "id").
        let told: &[u8] = if matches!(id, Id::Named) { b"" } else { &message.body };
        let (source, attempt) = (attributes.source.as_bytes(), attempts.to_be_bytes());
        let call = derive(&[b"try", source, attributes.id.as_bytes(), &attempt, told]);
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("http://{}.faas.internal/", self.function)
            .parse()
            .map_err(|_| "the function's name makes no authority")?;
        let map = request.headers_mut();
        attributes.write_http(map).map_err(|_| "an attribute cannot stand in a header")?;
        carry(message, attempts, map);
        let fresh_id = if let Id::MadeUp(id) = id { Some(id) } else { None };
        Ok(Event { call, fresh_id, request })
    }

    /// Attributes of the message headers, completed by properties and defaults.
    fn attributes(&self, message: &Message) -> Result<(Attributes, Id), &'static str> {
        let mut texts = Vec::new();
        for (name, value) in &message.headers {
            if PREFIXES.iter().any(|p| name.starts_with(p)) {
                let text = value.as_text().ok_or("a CloudEvents header is neither text, number, boolean nor time")?;
                texts.push((name.as_str(), text));
            }
        }
        let mut partial = Partial::from_message_headers(texts).map_err(|_| "a CloudEvents header is not valid")?;
        let named = partial.get("id").is_some();
        let text = |name| message.headers.get(name).and_then(Value::as_text);
        let id = || message.message_id.clone().filter(|id| !id.is_empty()).or_else(|| text(own::ID));
        let mut default = |name: &str, value: &dyn Fn() -> String| match partial.get(name) {
            Some(_) => Ok(()),
            None => partial.add(name, value()).map_err(|_| "a property cannot be a CloudEvents attribute"),
        };
        default("specversion", &|| SPECVERSION.into())?;
        default("source", &|| self.uri())?;
        default("type", &|| TYPE_DEFAULT.into())?;
        let made_up = Uuid::new_v4().to_string();
        default("id", &|| id().unwrap_or_else(|| made_up.clone()))?;
        if let Some(time) = message.timestamp_s.and_then(rfc3339) {
            default("time", &|| time.clone())?;
        }
        if let Some(content_type) = message.content_type.as_ref().filter(|t| !t.is_empty()) {
            default("datacontenttype", &|| content_type.clone())?;
        }
        let attributes = partial.complete().map_err(|_| "the CloudEvents headers make no event of version 1.0")?;
        let id = match attributes.id == made_up {
            true => Id::MadeUp(made_up),
            false if named => Id::Named,
            false => Id::Carried,
        };
        Ok((attributes, id))
    }

    /// Returns the call id of a message that can be made into no event.
    #[must_use]
    pub fn malformed_call(&self, message: &Message) -> CallId {
        let id = message.message_id.as_deref().unwrap_or_default();
        derive(&[b"malformed", self.uri().as_bytes(), id.as_bytes(), &message.body])
    }
}

/// Headers beside the attributes: trace context, encoding, and the platform's own.
fn carry(message: &Message, attempts: u32, map: &mut HeaderMap) {
    for name in ["traceparent", "tracestate"] {
        let text = message.headers.get(name).and_then(Value::as_text);
        if let Some(value) = text.and_then(|t| HeaderValue::try_from(t).ok()) {
            map.insert(HeaderName::from_static(name), value);
        }
    }
    if let Some(value) = message.content_encoding.as_ref().and_then(|e| HeaderValue::try_from(e).ok()) {
        map.insert(header::CONTENT_ENCODING, value);
    }
    map.insert(headers::TRIGGER, HeaderValue::from_static(TriggerKind::Amqp.as_str()));
    map.insert(headers::ATTEMPTS, HeaderValue::from(attempts));
}

/// Returns the id that is made of `parts` alone, so that the same try has the same id
/// in every process: a UUID version 8 (RFC 9562 §5.8) of their SHA-256.
fn derive(parts: &[&[u8]]) -> CallId {
    let mut hasher = Hasher::default();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finish();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
    CallId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// Returns seconds since the Unix epoch as RFC 3339, if there is such a time.
pub(super) fn rfc3339(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    jiff::Timestamp::from_second(seconds).ok().map(|t| t.to_string())
}

impl Past {
    /// Reads how often `message` was tried. One that comes back from a dead-letter queue starts anew.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        if message.headers.contains_key(own::REASON) {
            return Self::default();
        }
        let count = |name| message.headers.get(name).and_then(Value::as_u64);
        let count = |name| u32::try_from(count(name).unwrap_or_default()).unwrap_or(u32::MAX);
        Self { attempts: count(own::ATTEMPTS), refusals: count(own::REFUSALS) }
    }
}

/// Returns how long a message that waits longer than the longest tier still has to.
///
/// A due time beyond the `longest` pause is forged or from a stopped clock: it becomes one
/// that comes, so that no message waits for ever.
pub(super) fn rest(message: &mut Message, now_ms: u64, longest: Duration) -> Option<Duration> {
    let due = message.headers.get(own::NOT_BEFORE_MS).and_then(Value::as_u64)?;
    let last = now_ms.saturating_add(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
    if due > last {
        message.headers.insert(own::NOT_BEFORE_MS.into(), last.into());
    }
    let rest = Duration::from_millis(due.min(last).saturating_sub(now_ms));
    (rest > DUE_SOON).then_some(rest)
}

/// Returns `message` as it is published to wait for its next try.
pub(super) fn for_retry(mut message: Message, past: Past, fresh_id: Option<String>, now_ms: u64) -> Message {
    let first = first_failure(&message, now_ms);
    strip(&mut message);
    // A cycle that the broker finds in these makes it drop the message.
    message.headers.retain(|name, _| {
        name != "x-death" && !name.starts_with("x-first-death-") && !name.starts_with("x-last-death-")
    });
    for dead in [own::REASON, own::DETAIL, own::STATUS, own::CALL_ID, own::FUNCTION, own::QUEUE, own::NOT_BEFORE_MS] {
        message.headers.remove(dead);
    }
    message.headers.insert(own::ATTEMPTS.into(), u64::from(past.attempts).into());
    message.headers.insert(own::REFUSALS.into(), u64::from(past.refusals).into());
    message.headers.insert(own::FIRST_FAILURE.into(), first);
    if let Some(id) = fresh_id {
        message.headers.insert(own::ID.into(), id.into());
    }
    message
}

/// What a dead letter says about its death.
#[derive(Debug)]
pub(super) struct Epitaph<'a> {
    pub(super) death: Death,
    pub(super) status: Option<u16>,
    pub(super) detail: Option<&'static str>,
    pub(super) attempts: u32,
    pub(super) call: CallId,
    pub(super) source: &'a Source,
}

/// Returns `message` as it is published to the dead-letter exchange.
pub(super) fn for_death(mut message: Message, epitaph: &Epitaph<'_>, now_ms: u64) -> Message {
    let first = first_failure(&message, now_ms);
    strip(&mut message);
    for name in [own::NOT_BEFORE_MS, own::REFUSALS, own::STATUS, own::DETAIL] {
        message.headers.remove(name);
    }
    let mut set = |name: &str, value: Value| message.headers.insert(name.to_owned(), value);
    set(own::REASON, epitaph.death.as_str().into());
    if let Some(detail) = epitaph.detail {
        set(own::DETAIL, detail.into());
    }
    if let Some(status) = epitaph.status {
        set(own::STATUS, u64::from(status).into());
    }
    set(own::ATTEMPTS, u64::from(epitaph.attempts).into());
    set(own::CALL_ID, epitaph.call.to_string().into());
    set(own::FUNCTION, epitaph.source.function.to_string().into());
    set(own::QUEUE, epitaph.source.queue.clone().into());
    set(own::FIRST_FAILURE, first);
    message
}

fn first_failure(message: &Message, now_ms: u64) -> Value {
    match message.headers.get(own::FIRST_FAILURE) {
        Some(first) if !message.headers.contains_key(own::REASON) => first.clone(),
        _ => rfc3339(now_ms / 1000).unwrap_or_default().into(),
    }
}

/// Takes away what must not be published again: `CC` and `BCC` would send copies.
fn strip(message: &mut Message) {
    for name in ["CC", "BCC"] {
        message.headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
