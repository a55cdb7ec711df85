//! The door: one request in, one answer out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faas_model::{Body, Name, Reason, headers};
use faas_store::bucket::{BucketName, Buckets, Entry, VALUE_BYTES_MAX};
use faas_store::{Cursor, Read, Require, StoreError, Version, WallClock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::answer::{body_failed, empty, failed, refused, tagged};
use crate::metrics::{Metrics, Op};
use crate::route::{Refusal, Route, hex};
use crate::{Auth, batch};

/// Seconds that a value lives, on `PUT`; seconds that it still lives, rounded up, on answers.
const TTL: HeaderName = HeaderName::from_static("faas-ttl");
/// Longest time to live: 100 years.
const TTL_S_MAX: u64 = 100 * 366 * 86_400;
/// A version that no store gives, for entity tags that are none of ours.
const NO_VERSION: Version = Version([0xFF; 16]);

/// Settings of the key-value door. Since 0.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Milliseconds that a request waits for the store at most.
    pub store_ms: u64,
    /// Milliseconds within which a request's body comes whole.
    pub body_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { store_ms: 5_000, body_ms: 30_000 }
    }
}

/// The key-value door; cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    buckets: Buckets,
    auth: Auth,
    config: Config,
    clock: WallClock,
    /// What the store is called.
    store: HeaderValue,
    metrics: Metrics,
}

impl Door {
    /// Returns the door to the `buckets` of a `store` of that name, with settings and the clock that a time to live
    /// counts from. Every answer tells the name, which is of letters alone.
    #[must_use]
    pub fn new(buckets: Buckets, store: &'static str, auth: Auth, config: Config, clock: WallClock) -> Self {
        let (store, metrics) = (HeaderValue::from_static(store), Metrics::register());
        Self(Arc::new(Inner { buckets, auth, config, clock, store, metrics }))
    }

    /// Answers one request.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome of a write that has begun unknown to the client.
    pub fn handle(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let inner = Arc::clone(&self.0);
        async move {
            let began = Instant::now();
            let (op, mut response) = inner.answer(request, began).await;
            response.headers_mut().insert(headers::STORE, inner.store.clone());
            inner.metrics.answered(op, response.status(), began.elapsed());
            tracing::debug!(?op, status = response.status().as_u16(), "key-value request");
            response
        }
        .boxed()
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

/// A request is answered, well or badly.
type Answer = Result<Response<Body>, Refused>;

/// A refusal; boxed, since it is rare and large.
type Refused = Box<Response<Body>>;

impl Inner {
    async fn answer(&self, request: Request<Body>, now: Instant) -> (Op, Response<Body>) {
        let (parts, body) = request.into_parts();
        let Some(namespace) = self.auth.namespace(&parts.headers) else {
            let mut response = refused(Reason::Unauthorized, "send the token as `Authorization: Bearer TOKEN`");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return (Op::None, response);
        };
        let route = match Route::of(&parts.method, &parts.uri) {
            Ok(route) => route,
            Err(refusal) => return (Op::None, refusal.into_response()),
        };
        let (op, answer) = self.run(namespace, route, &parts, body, now + self.patience()).await;
        (op, answer.unwrap_or_else(|refused| *refused))
    }

    async fn run(&self, namespace: Name, route: Route<'_>, parts: &Parts, body: Body, by: Instant) -> (Op, Answer) {
        let of = |bucket| BucketName { namespace, bucket };
        let headers = &parts.headers;
        match route {
            Route::Get { bucket, key } => (Op::Get, self.get(&of(bucket), &key, headers, false, by).await),
            Route::Head { bucket, key } => (Op::Get, self.get(&of(bucket), &key, headers, true, by).await),
            Route::Put { bucket, key } => (Op::Put, self.put(&of(bucket), &key, headers, body).await),
            Route::Delete { bucket, key } => (Op::Delete, self.delete(&of(bucket), &key, headers, by).await),
            Route::Increment { bucket, key, by: delta } => {
                (Op::Increment, self.increment(&of(bucket), &key, delta, body).await)
            }
            Route::Batch { bucket } => (Op::Batch, self.batch(&of(bucket), body).await),
            Route::List { bucket, prefix, limit, after } => {
                (Op::List, self.list(&of(bucket), &prefix, after, limit, by).await)
            }
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.config.store_ms)
    }

    /// Returns when a store call that begins now ends at the latest.
    fn by(&self) -> Instant {
        Instant::now() + self.patience()
    }

    async fn get(&self, bucket: &BucketName, key: &str, headers: &HeaderMap, head: bool, by: Instant) -> Answer {
        let entry =
            self.buckets.get(bucket, key, freshness(headers), by).await.map_err(|error| Box::new(failed(error)))?;
        let Some(entry) = entry else {
            return Err(no(Reason::NotFound, "there is no such key"));
        };
        if headers.get(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, entry.version)) {
            return Ok(self.with_ttl(tagged(empty(StatusCode::NOT_MODIFIED), entry.version), &entry));
        }
        let mut response = Response::new(Body::Empty);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if head {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(entry.value.len()));
        }
        let mut response = self.with_ttl(tagged(response, entry.version), &entry);
        if !head {
            *response.body_mut() = Body::from(entry.value);
        }
        Ok(response)
    }

    fn with_ttl(&self, mut response: Response<Body>, entry: &Entry) -> Response<Body> {
        if let Some(at) = entry.expires {
            let left_s = at.0.saturating_sub(self.clock.now().0).div_ceil(1_000);
            response.headers_mut().insert(TTL, HeaderValue::from(left_s));
        }
        response
    }

    async fn put(&self, bucket: &BucketName, key: &str, headers: &HeaderMap, body: Body) -> Answer {
        let require = required(headers)?;
        let ttl = ttl(headers)?;
        let value = self.whole(body, VALUE_BYTES_MAX as u64).await?;
        // A value lives from when it is written, however long its body took.
        let expires = ttl.map(|ttl| self.clock.now().plus(ttl));
        let put = self.buckets.put(bucket, key, value, expires, require, self.by()).await;
        Ok(tagged(empty(StatusCode::NO_CONTENT), put.map_err(|error| Box::new(failed(error)))?))
    }

    async fn delete(&self, bucket: &BucketName, key: &str, headers: &HeaderMap, by: Instant) -> Answer {
        let require = required(headers)?;
        self.buckets.delete(bucket, key, require, by).await.map_err(|error| Box::new(failed(error)))?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn increment(&self, bucket: &BucketName, key: &str, by: Option<i64>, body: Body) -> Answer {
        let body = self.whole(body, 64).await?;
        let delta = match (by, std::str::from_utf8(&body).map(str::trim)) {
            (Some(by), Ok("")) => by,
            (None, Ok("")) => 1,
            (None, Ok(text)) => {
                text.parse().map_err(|_| no(Reason::BadRequest, "the body is not a 64-bit decimal integer"))?
            }
            _ => return Err(no(Reason::BadRequest, "give the number as ?by= or as body, not both")),
        };
        let sum =
            self.buckets.increment(bucket, key, delta, self.by()).await.map_err(|error| Box::new(failed(error)))?;
        let mut response = Response::new(Body::from(sum.to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    async fn batch(&self, bucket: &BucketName, body: Body) -> Answer {
        let body = self.whole(body, batch::BODY_BYTES_MAX).await?;
        let changes = batch::parse(&body).map_err(|detail| no(Reason::BadRequest, detail))?;
        self.buckets.batch(bucket, changes, self.by()).await.map_err(|error| Box::new(batch_failed(error)))?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn list(&self, bucket: &BucketName, prefix: &str, after: Option<Vec<u8>>, limit: u32, by: Instant) -> Answer {
        let after = after.map(|bytes| Cursor(Bytes::from(bytes)));
        let page =
            self.buckets.list(bucket, prefix, after, limit, by).await.map_err(|error| Box::new(failed(error)))?;
        let next = page.next.map(|cursor| hex(&cursor.0));
        let json = serde_json::json!({ "keys": page.items, "next": next });
        let mut response = Response::new(Body::from(json.to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    /// Reads a body of at most `max` bytes.
    async fn whole(&self, body: Body, max: u64) -> Result<Bytes, Refused> {
        if let Body::Empty = body {
            return Ok(Bytes::new());
        }
        match timeout(Duration::from_millis(self.config.body_ms), body.collect(max)).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(Box::new(body_failed(&error))),
            Err(_) => Err(no(
                Reason::RequestTimeout,
                format!("the body did not come whole within {} ms", self.config.body_ms),
            )),
        }
    }
}

/// Reads how long a value is to live.
fn ttl(headers: &HeaderMap) -> Result<Option<Duration>, Refused> {
    let Some(ttl) = headers.get(TTL) else { return Ok(None) };
    match ttl.to_str().ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(seconds) if (1..=TTL_S_MAX).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(no(Reason::BadRequest, format!("Faas-TTL is not a number of 1 to {TTL_S_MAX} seconds"))),
    }
}

/// Returns how fresh a read has to be: one with a condition, or that asks for no cache (RFC 9111 §5.2.1.4), is of what
/// is stored now.
fn freshness(headers: &HeaderMap) -> Read {
    let no_cache = |value: &HeaderValue| {
        let directives = value.as_bytes().split(|byte| *byte == b',');
        directives.map(<[u8]>::trim_ascii).any(|directive| directive.eq_ignore_ascii_case(b"no-cache"))
    };
    let conditional = headers.contains_key(header::IF_NONE_MATCH) || headers.contains_key(header::IF_MATCH);
    if conditional || headers.get_all(header::CACHE_CONTROL).iter().any(no_cache) {
        Read::Linearizable
    } else {
        Read::Local
    }
}

/// Refuses with a problem.
fn no(reason: Reason, detail: impl Into<String>) -> Refused {
    Box::new(refused(reason, detail))
}

/// A batch over its bounds has too large a body, whatever the bound.
fn batch_failed(error: StoreError) -> Response<Body> {
    match error {
        StoreError::TooLarge { what, max } => {
            refused(Reason::BodyTooLarge, format!("{what} is over its limit of {max}"))
        }
        other => failed(other),
    }
}

impl Refusal {
    fn into_response(self) -> Response<Body> {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Method(allowed) => {
                let mut response = refused(Reason::Method, format!("use one of {allowed}"));
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                response
            }
        }
    }
}

/// Reads what a write requires from `If-Match` and `If-None-Match`.
fn required(headers: &HeaderMap) -> Result<Require, Refused> {
    let refuse = |detail: &str| Err(no(Reason::BadRequest, detail));
    if headers.get_all(header::IF_MATCH).iter().count() + headers.get_all(header::IF_NONE_MATCH).iter().count() > 1 {
        return refuse("a write has one precondition: If-Match or If-None-Match");
    }
    if let Some(value) = headers.get(header::IF_NONE_MATCH) {
        return if value == "*" { Ok(Require::Absent) } else { refuse("If-None-Match of a write is *") };
    }
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(Require::Nothing) };
    if value == "*" {
        return Ok(Require::Present);
    }
    let tag = value.to_str().ok().map(str::trim);
    // A weak tag never matches here (RFC 9110 §8.8.3.2), nor does one we did not make.
    let is_tag =
        |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).len() >= 2 && tag.ends_with('"') && !tag.contains(',');
    match tag {
        Some(tag) if is_tag(tag) => Ok(Require::Version(version(tag).unwrap_or(NO_VERSION))),
        _ => refuse("If-Match is * or one quoted entity tag"),
    }
}

/// Reads a strong entity tag that a store gave.
fn version(tag: &str) -> Option<Version> {
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// Returns whether a list of entity tags names the version; weak comparison (RFC 9110 §13.1.2).
fn matches(tags: &HeaderValue, current: Version) -> bool {
    let Ok(tags) = tags.to_str() else { return false };
    tags == "*"
        || tags.split(',').map(str::trim).any(|tag| version(tag.strip_prefix("W/").unwrap_or(tag)) == Some(current))
}
