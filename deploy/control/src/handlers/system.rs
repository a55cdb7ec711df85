//! Health, readiness, metrics, status and the API's own description.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use faas_model::{FunctionName, Name, Reason};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::{Answer, Shared};
use crate::failure::Failure;
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
pub(crate) async fn metrics(State(state): Shared) -> Answer<impl IntoResponse> {
    let (metrics, catalogue) = (state.parts.metrics.clone(), state.parts.service.catalogue().borrow().clone());
    let deployed = move |label: &str| function(label).is_some_and(|name| catalogue.function(&name).is_some());
    // Megabytes of text for a thousand functions.
    let text = tokio::task::spawn_blocking(move || metrics.text(deployed)).await;
    let text = text.map_err(|e| Failure::new(Reason::Internal, format!("metrics could not be told: {e}")))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

/// Returns the function that a label names: `NAME.NAMESPACE`.
fn function(label: &str) -> Option<FunctionName> {
    let (name, namespace) = label.split_once('.')?;
    Some(FunctionName::new(Name::new(namespace).ok()?, Name::new(name).ok()?))
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

/// Returns how the backend of state is, as it tells itself.
pub(crate) async fn store_status(State(state): Shared) -> Json<Value> {
    Json((state.parts.store_status)().await)
}
