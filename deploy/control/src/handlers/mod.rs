//! What the routes do, one file per room.

pub(crate) mod aliases;
pub(crate) mod deploy;
pub(crate) mod functions;
pub(crate) mod invoke;
pub(crate) mod logs;
pub(crate) mod system;

use std::sync::Arc;

use axum::Json;
use axum::http::HeaderMap;
use faas_function_service::ServiceError;
use faas_model::{Body, FunctionName, NAMESPACE_DEFAULT, Reason, RevisionId};
use http::{HeaderName, HeaderValue, Response, header};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::failure::Failure;
use crate::{Config, Parts, metrics};

/// Largest body of anything but code and invocations, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// What handlers share.
pub(crate) struct State {
    config: Config,
    parts: Parts,
    followers: Arc<Semaphore>,
}

/// What a handler answers.
pub(crate) type Answer<T> = Result<T, Failure>;

/// What a handler is given.
pub(crate) type Shared = axum::extract::State<Arc<State>>;

impl State {
    pub(crate) fn new(config: Config, parts: Parts) -> Self {
        metrics::describe();
        let followers = Arc::new(Semaphore::new(config.followers_max as usize));
        Self { config, parts, followers }
    }

    /// Returns where a function is called.
    fn url(&self, function: &FunctionName) -> String {
        let base = &self.parts.functions_url;
        if function.namespace.as_str() == NAMESPACE_DEFAULT {
            format!("{base}/function/{}", function.name)
        } else {
            format!("{base}/function/{function}")
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::new(error.reason, error.detail)
    }
}

/// Reads a document of at most 1 MiB.
async fn document<T: serde::de::DeserializeOwned>(body: axum::body::Body) -> Answer<T> {
    let bytes = of_axum(body).collect(DOCUMENT_BYTES_MAX).await?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Failure::new(Reason::BadRequest, format!("the body is not as asked for: {e}")))
}

/// Turns axum's body back into ours; the reason why it broke off is kept.
fn of_axum(body: axum::body::Body) -> Body {
    use http_body_util::BodyExt;
    Body::stream(body.map_err(|error| {
        let inner = error.into_inner();
        match inner.downcast::<faas_model::BodyError>() {
            Ok(ours) => *ours,
            Err(other) => faas_model::BodyError::Broken(other.to_string()),
        }
    }))
}

/// Reads the one revision of an `If-Match` header (RFC 9110 §13.1.1); `*` means whatever is there.
fn if_match(headers: &HeaderMap) -> Answer<Option<RevisionId>> {
    let wrong = || Failure::new(Reason::BadRequest, "If-Match must be one ETag that this API gave, or *");
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().map_err(|_| wrong())?.trim();
    if text == "*" {
        return Ok(None);
    }
    let id = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).ok_or_else(wrong)?;
    serde_json::from_value(id.into()).map(Some).map_err(|_| wrong())
}

/// Returns a document whose ETag is a revision.
fn tagged(json: Value, revision: &RevisionId) -> ([(HeaderName, HeaderValue); 1], Json<Value>) {
    let tag = HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"\""));
    ([(header::ETAG, tag)], Json(json))
}

/// Answers with one of our bodies.
fn stream(response: Response<Body>) -> axum::response::Response {
    response.map(axum::body::Body::new)
}
