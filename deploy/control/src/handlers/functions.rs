//! Looking at functions and removing them.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, Shared, tagged};
use crate::target::{Function, Namespace};

/// Lists the functions of a namespace in the order of their names.
pub(crate) async fn list(State(state): Shared, Namespace(namespace): Namespace) -> Json<Value> {
    let functions = state.parts.service.list(&namespace).await;
    let documents = functions.iter().map(|summary| with_url(summary, state.url(&summary.function)));
    Json(json!({ "functions": documents.collect::<Vec<_>>() }))
}

/// Describes a function; the ETag is the revision that `live` points to.
pub(crate) async fn describe(State(state): Shared, Function(function): Function) -> Answer<impl IntoResponse> {
    let description = state.parts.service.describe(&function).await?;
    Ok(tagged(with_url(&description, state.url(&function)), &description.live.id))
}

/// Lists the revisions of a function, newest first, and which aliases point to them.
pub(crate) async fn revisions(State(state): Shared, Function(function): Function) -> Answer<Json<Value>> {
    let service = &state.parts.service;
    let (mut revisions, description) = (service.revisions(&function).await?, service.describe(&function).await?);
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.version));
    let documents = revisions.iter().map(|revision| {
        let pointing = description.aliases.iter().filter(|(_, alias)| alias.revision == revision.id);
        let aliases: Vec<_> = pointing.map(|(name, _)| name).collect();
        let mut document = json!(revision);
        if let Some(map) = document.as_object_mut() {
            map.insert("aliases".into(), json!(aliases));
        }
        document
    });
    Ok(Json(json!({ "revisions": documents.collect::<Vec<_>>() })))
}

/// Removes a function with everything that belongs to it, save its state.
pub(crate) async fn remove(State(state): Shared, Function(function): Function) -> Answer<StatusCode> {
    state.parts.service.remove(&function).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn with_url(document: &impl Serialize, url: String) -> Value {
    let mut document = json!(document);
    if let Some(map) = document.as_object_mut() {
        map.insert("url".into(), url.into());
    }
    document
}
