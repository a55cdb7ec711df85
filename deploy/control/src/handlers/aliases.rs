//! Moving aliases by compare-and-set.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use faas_function_service::RevisionRef;
use faas_model::Reason;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Shared, document, if_match, tagged};
use crate::failure::Failure;
use crate::target::{Alias, Function};

/// Where an alias shall point.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    /// A version number or the beginning of a revision id, as text or as a number.
    revision: Reference,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Reference {
    Number(u64),
    Text(String),
}

impl Reference {
    fn parse(self) -> Answer<RevisionRef> {
        match self {
            Self::Number(version) => Ok(RevisionRef::Version(version)),
            Self::Text(text) => text.parse().map_err(|e| Failure::new(Reason::BadRequest, format!("{e}"))),
        }
    }
}

/// Points an alias at a revision; with `If-Match` only if it points there now.
pub(crate) async fn point(
    State(state): Shared,
    Alias(function, alias): Alias,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Answer<impl IntoResponse> {
    let expected = if_match(&headers)?;
    let to = document::<Point>(body).await?.revision.parse()?;
    let pointed = state.parts.service.point(&function, &alias, to, expected).await?;
    Ok(tagged(json!(pointed), &pointed.revision))
}

/// Points `live` at the revision it pointed to before.
pub(crate) async fn rollback(State(state): Shared, Function(function): Function) -> Answer<impl IntoResponse> {
    let pointed = state.parts.service.rollback(&function).await?;
    Ok(tagged(json!(pointed), &pointed.revision))
}
