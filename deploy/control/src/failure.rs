//! The one place where errors become answers.

use axum::response::{IntoResponse, Response};
use faas_model::{BodyError, Component, Problem, Reason};
use http::{HeaderValue, header};

/// A refused or failed request.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: Reason,
    detail: String,
    /// Which phase of a deploy failed.
    phase: Option<&'static str>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), phase: None }
    }

    pub(crate) fn in_phase(self, phase: &'static str) -> Self {
        Self { phase: Some(phase), ..self }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = Problem::new(Component::Control, self.reason, self.detail);
        let mut json = problem.to_json();
        if let (Some(phase), Some(map)) = (self.phase, json.as_object_mut()) {
            map.insert("phase".into(), phase.into());
        }
        let mut response = problem.into_response().map(|_| axum::body::Body::from(json.to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
        response
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        let reason = match error {
            BodyError::TooLarge { .. } => Reason::BodyTooLarge,
            BodyError::Idle { .. } | BodyError::Deadline { .. } => Reason::RequestTimeout,
            BodyError::Function(_) | BodyError::Broken(_) => Reason::BadRequest,
        };
        Self::new(reason, error.to_string())
    }
}
