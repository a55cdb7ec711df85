//! Health, readiness, metrics, status and the API's own description.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::{Answer, Shared};
use crate::{OPENAPI, Phase};

/// Says that the process answers.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether the process wants traffic.
pub(crate) async fn readyz(State(state): Shared) -> (StatusCode, String) {
    let phase = state.parts.readiness.phase();
    let status = if phase == Phase::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", phase.as_str()))
}

/// Prints the metrics in the Prometheus text format 0.0.4.
pub(crate) async fn metrics(State(state): Shared) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, state.parts.metrics.render())
}

/// Returns the OpenAPI document.
pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// Returns what runs here.
pub(crate) async fn status(State(state): Shared) -> Answer<Json<Value>> {
    let functions = state.parts.service.catalogue().borrow().functions().count();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "phase": state.parts.readiness.phase().as_str(),
        "functions": functions,
        "functions_url": state.parts.functions_url,
    })))
}
