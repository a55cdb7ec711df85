//! From a request to an event: HTTP with CloudEvents binary mode, fields of the
//! connection removed, what the platform knows added.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use faas_model::event::{Attributes, Mode, PREFIX, encode_value};
use faas_model::{CallId, headers};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header};

use super::{Config, fields};
use crate::front::Peer;

/// The type of events that are HTTP requests.
const TYPE: HeaderValue = HeaderValue::from_static("io.faas.http.request");
const SPECVERSION: HeaderValue = HeaderValue::from_static("1.0");
const TRIGGER: HeaderValue = HeaderValue::from_static("http");
const PROTO: HeaderValue = HeaderValue::from_static("http");

const CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const CE_ID: HeaderName = HeaderName::from_static("ce-id");
const CE_SOURCE: HeaderName = HeaderName::from_static("ce-source");
const CE_TYPE: HeaderName = HeaderName::from_static("ce-type");
const CE_TIME: HeaderName = HeaderName::from_static("ce-time");
const CE_SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
const X_TRIGGER: HeaderName = HeaderName::from_static(headers::TRIGGER);
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Most fields the platform adds.
const ADDED_MAX: usize = 14;

/// What the event is made of beside the request.
pub(super) struct Source<'a> {
    pub(super) call: CallId,
    pub(super) peer: Peer,
    /// Bytes of the path that name the function.
    pub(super) mount: usize,
    pub(super) authority: &'a Authority,
}

/// Makes the event's head of a request's; also returns the call id as a header value.
///
/// # Errors
/// What is wrong with a CloudEvent that the client sent.
pub(super) fn make(mut parts: Parts, source: &Source<'_>, config: &Config) -> Result<(Parts, HeaderValue), String> {
    let mode = Mode::of_http(&parts.headers);
    check_client_event(mode, &parts.headers)?;
    let trust = config.trust_forwarded;
    fields::strip(&mut parts.headers, |name| {
        (mode != Mode::Binary && name.starts_with(PREFIX))
            || (!trust && (name == "forwarded" || name.starts_with("x-forwarded-")))
    });
    let host = parts.headers.get(header::HOST).cloned().unwrap_or(HeaderValue::from_static("localhost"));
    let host_text = host.to_str().unwrap_or("localhost");
    let path = parts.uri.path();
    let (mount, own) = path.split_at_checked(source.mount).unwrap_or(("", path));
    let own = if own.is_empty() { "/" } else { own };

    // All texts in one allocation; header values and the path share it.
    let mut text = Text::with_capacity(320 + 2 * path.len() + 3 * host_text.len());
    let call = text.add(|t| write!(t, "{}", source.call));
    let event_source = text.add(|t| write!(t, "//{}{}", host_text, encode_value(mount)));
    let subject = text.add(|t| t.write_str(&encode_value(own)));
    let target = text.add(|t| match parts.uri.query() {
        Some(query) => write!(t, "{own}?{query}"),
        None => t.write_str(own),
    });
    let address = text.add(|t| write!(t, "{}", source.peer.address.ip()));
    let forwarded = text.add(|t| write_forwarded(t, source.peer, host_text));
    let trace = text.add(|t| write_traceparent(t, source.call));
    let text = text.freeze();

    let target = PathAndQuery::from_maybe_shared(text.bytes(&target)).map_err(|e| e.to_string())?;
    parts.uri = absolute(source.authority.clone(), target)?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let map = &mut parts.headers;
    map.reserve(ADDED_MAX);
    if mode == Mode::None {
        map.insert(CE_SPECVERSION, SPECVERSION);
        map.insert(CE_ID, text.value(&call)?);
        map.insert(CE_SOURCE, text.value(&event_source)?);
        map.insert(CE_TYPE, TYPE);
        map.insert(CE_TIME, now());
        map.insert(CE_SUBJECT, text.value(&subject)?);
    }
    map.insert(X_TRIGGER, TRIGGER);
    add(map, header::FORWARDED, text.value(&forwarded)?, trust);
    add(map, X_FORWARDED_FOR, text.value(&address)?, trust);
    if !(trust && map.contains_key(X_FORWARDED_HOST)) {
        map.insert(X_FORWARDED_HOST, host);
    }
    if !(trust && map.contains_key(X_FORWARDED_PROTO)) {
        map.insert(X_FORWARDED_PROTO, PROTO);
    }
    if !has_valid_trace(map) {
        map.remove(TRACESTATE);
        map.insert(TRACEPARENT, text.value(&trace)?);
    }
    Ok((parts, text.value(&call)?))
}

/// Refuses what claims to be a CloudEvent and is none.
fn check_client_event(mode: Mode, map: &HeaderMap) -> Result<(), String> {
    let wrong = |e: faas_model::event::EventError| format!("the CloudEvent is malformed: {e}");
    match mode {
        Mode::Batch => Err(wrong(faas_model::event::EventError::Batch)),
        Mode::Structured => Ok(()),
        Mode::None if !map.contains_key(CE_SPECVERSION) => Ok(()),
        Mode::None | Mode::Binary => Attributes::from_http(map).map(drop).map_err(wrong),
    }
}

fn absolute(authority: Authority, target: PathAndQuery) -> Result<Uri, String> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map_err(|e| e.to_string())
}

/// Sets a field, or adds to what a trusted proxy said.
fn add(map: &mut HeaderMap, name: HeaderName, value: HeaderValue, trust: bool) {
    if trust {
        map.append(name, value);
    } else {
        map.insert(name, value);
    }
}

/// Writes one element of RFC 7239; a host with a port and an IPv6 address are quoted.
fn write_forwarded(t: &mut String, peer: Peer, host: &str) -> std::fmt::Result {
    match peer.address.ip() {
        std::net::IpAddr::V4(ip) => write!(t, "for={ip}")?,
        std::net::IpAddr::V6(ip) => write!(t, "for=\"[{ip}]\"")?,
    }
    t.push_str(";host=\"");
    t.push_str(host);
    t.push_str("\";proto=http");
    Ok(())
}

/// Writes a fresh trace context whose ids come from the call id, so that traces and calls name each other.
fn write_traceparent(t: &mut String, call: CallId) -> std::fmt::Result {
    let (high, low) = call.0.as_u64_pair();
    write!(t, "00-{high:016x}{low:016x}-{low:016x}-01")
}

/// Returns whether there is exactly one valid `traceparent` (W3C Trace Context §3.2).
fn has_valid_trace(map: &HeaderMap) -> bool {
    let mut values = map.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => trace_is_valid(value.as_bytes()),
        _ => false,
    }
}

fn trace_is_valid(value: &[u8]) -> bool {
    let hex = |range: Range<usize>| {
        let text = value.get(range).unwrap_or_default();
        (!text.is_empty() && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then_some(text)
    };
    let not_zero = |text: &[u8]| text.iter().any(|b| *b != b'0');
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let (version, trace, span, flags) = (hex(0..2), hex(3..35), hex(36..52), hex(53..55));
    let whole = value.len() == 55 || (value.len() > 55 && version != Some(b"00") && value.get(55) == Some(&b'-'));
    let known = version.is_some_and(|v| v != b"ff");
    dashes && whole && known && trace.is_some_and(not_zero) && span.is_some_and(not_zero) && flags.is_some()
}

/// Texts that are written one after the other and shared as slices of one buffer.
struct Text(String);

struct Frozen(Bytes);

impl Text {
    fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// Returns where the text stands that `write` adds.
    fn add(&mut self, write: impl FnOnce(&mut String) -> std::fmt::Result) -> Range<usize> {
        let from = self.0.len();
        let written = write(&mut self.0);
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        from..self.0.len()
    }

    fn freeze(self) -> Frozen {
        Frozen(self.0.into())
    }
}

impl Frozen {
    fn bytes(&self, range: &Range<usize>) -> Bytes {
        self.0.slice(range.clone())
    }

    fn value(&self, range: &Range<usize>) -> Result<HeaderValue, String> {
        HeaderValue::from_maybe_shared(self.bytes(range)).map_err(|e| e.to_string())
    }
}

/// Returns the time in RFC 3339, to the second; written once per second and thread.
fn now() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(i64, HeaderValue)> = const { RefCell::new((i64::MIN, HeaderValue::from_static(""))) };
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = i64::try_from(since.as_secs()).unwrap_or_default();
    LAST.with_borrow_mut(|(last, value)| {
        if *last != second {
            let text = jiff::Timestamp::from_second(second).unwrap_or_default().to_string();
            *last = second;
            *value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1970-01-01T00:00:00Z"));
        }
        value.clone()
    })
}
