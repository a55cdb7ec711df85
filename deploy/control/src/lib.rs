//! The control API: deploy, look, move aliases, remove, read logs and call
//! functions, for whoever holds the token.
//!
//! **Never knows** Wasm, containers, AMQP, or how functions are run.
//!
//! Invariants:
//! - Every request without the token gets 401, on routes that do not exist as
//!   well, save `GET /healthz` and `GET /readyz`.
//! - Every name is checked by one grammar before anything is done with it.
//! - Never more than [`Config::code_bytes_max`] bytes of code and 1 MiB of
//!   anything else are taken from a request, save the body of an invocation,
//!   which streams to the function under the function's own limit.
//! - The token is never logged, and only its hash is kept in memory.

mod failure;
mod handlers;
mod metrics;
mod ready;
mod routes;
mod target;
pub mod token;

use std::fmt;
use std::sync::Arc;

use faas_function_service::FunctionService;
use faas_metrics::Metrics;
use faas_model::units::ByteSize;
use faas_model::{AliasSettings, Body, BodyError, Component, FunctionName, FunctionSpec, Name, Problem, Reason};
use futures_util::future::BoxFuture;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};

pub use ready::{Phase, Readiness};
pub use token::Tokens;

/// The OpenAPI 3.1 document of the control API.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Bounds of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Largest code of one deploy, 1 MiB to 1 GiB; default 128 MiB.
    pub code_bytes_max: ByteSize,
    /// Followers of logs at once, 1 to 10,000; default 64.
    pub followers_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { code_bytes_max: ByteSize::mib(128), followers_max: 64 }
    }
}

/// What a deploy asks for, beside the code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// What the revision is.
    pub spec: FunctionSpec,
    /// What the alias `live` adds to it.
    #[serde(default)]
    pub settings: AliasSettings,
}

/// Calls a function's alias with a request whose URI is only path and query.
pub type Invoke = Arc<dyn Fn(FunctionName, Name, Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Asks the backend of state how it is; answers in time whatever that does, with a document of its own making.
pub type StoreStatus = Arc<dyn Fn() -> BoxFuture<'static, serde_json::Value> + Send + Sync>;

/// What the control API stands on.
#[derive(Clone)]
pub struct Parts {
    /// Runs functions and keeps their revisions.
    pub service: FunctionService,
    /// Calls functions.
    pub invoke: Invoke,
    /// Who may come in.
    pub token: Tokens,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What `/metrics` prints.
    pub metrics: Metrics,
    /// What `/v1/baas/status` says.
    pub store_status: StoreStatus,
    /// Base URL of the functions' listener, without a `/` at its end.
    pub functions_url: String,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("functions_url", &self.functions_url).finish_non_exhaustive()
    }
}

/// The control API. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    router: TowerToHyperService<axum::Router>,
    token: Tokens,
}

impl Control {
    /// Returns the API over `parts`.
    #[must_use]
    pub fn new(config: Config, parts: Parts) -> Self {
        let token = parts.token.clone();
        let state = Arc::new(handlers::State::new(config, parts));
        Self { router: TowerToHyperService::new(routes::router(state)), token }
    }

    /// Answers a request.
    ///
    /// # Cancel safety
    /// A deploy whose client leaves is given up before it goes live, or is complete.
    pub fn handle(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let allowed = routes::is_public(request.method(), request.uri().path()) || self.token.allows(request.headers());
        let router = self.router.clone();
        Box::pin(async move {
            let started = tokio::time::Instant::now();
            let method = request.method().clone();
            let response = if allowed { answer(&router, request).await } else { unauthorized() };
            metrics::observe(&method, response.status(), started.elapsed());
            response
        })
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

async fn answer(router: &TowerToHyperService<axum::Router>, request: Request<Body>) -> Response<Body> {
    match router.call(request).await {
        Ok(response) => response.map(|body| Body::stream(body.map_err(|e| BodyError::Broken(e.to_string())))),
        Err(never) => match never {},
    }
}

/// RFC 9110 §15.5.2 asks for the challenge.
fn unauthorized() -> Response<Body> {
    let detail = "the control API needs `Authorization: Bearer TOKEN` on every route but /healthz and /readyz";
    let mut response = Problem::new(Component::Control, Reason::Unauthorized, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer realm=\"faas\""));
    response
}

#[cfg(test)]
mod tests;
