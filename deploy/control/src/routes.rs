//! The routes as data: the router, the tests and the OpenAPI document agree on one table.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, any, delete, get, post, put};
use faas_model::Reason;
use http::Method;

use crate::failure::Failure;
use crate::handlers::{self, State};

/// One operation of the API.
pub(crate) struct Route {
    /// The method in lower case as in OpenAPI, or `any`.
    pub(crate) method: &'static str,
    /// The path, with `{parameters}` as in OpenAPI and axum alike.
    pub(crate) path: &'static str,
    /// Whether it answers without the token.
    pub(crate) public: bool,
    handler: fn() -> MethodRouter<Arc<State>>,
}

const FUNCTION: &str = "/v1/namespaces/{ns}/functions/{name}";

const fn route(method: &'static str, path: &'static str, handler: fn() -> MethodRouter<Arc<State>>) -> Route {
    Route { method, path, public: false, handler }
}

const fn public(path: &'static str, handler: fn() -> MethodRouter<Arc<State>>) -> Route {
    Route { method: "get", path, public: true, handler }
}

/// Every route there is.
pub(crate) const ROUTES: &[Route] = &[
    public("/healthz", || get(handlers::system::healthz)),
    public("/readyz", || get(handlers::system::readyz)),
    route("get", "/metrics", || get(handlers::system::metrics)),
    route("get", "/openapi.json", || get(handlers::system::openapi)),
    route("get", "/v1/status", || get(handlers::system::status)),
    route("get", "/v1/baas/status", || get(handlers::system::store_status)),
    route("get", "/v1/namespaces/{ns}/functions", || get(handlers::functions::list)),
    route("get", FUNCTION, || get(handlers::functions::describe)),
    route("put", FUNCTION, || put(handlers::deploy::deploy)),
    route("delete", FUNCTION, || delete(handlers::functions::remove)),
    route("get", "/v1/namespaces/{ns}/functions/{name}/revisions", || get(handlers::functions::revisions)),
    route("put", "/v1/namespaces/{ns}/functions/{name}/aliases/{alias}", || put(handlers::aliases::point)),
    route("post", "/v1/namespaces/{ns}/functions/{name}/rollback", || post(handlers::aliases::rollback)),
    route("get", "/v1/namespaces/{ns}/functions/{name}/logs", || get(handlers::logs::logs)),
    route("any", "/v1/namespaces/{ns}/functions/{name}/invoke", || any(handlers::invoke::invoke)),
    // A rest of the path is never empty in the router's eyes.
    route("any", "/v1/namespaces/{ns}/functions/{name}/invoke/", || any(handlers::invoke::invoke)),
    route("any", "/v1/namespaces/{ns}/functions/{name}/invoke/{*path}", || any(handlers::invoke::invoke)),
];

/// Returns the router of every route; what it does not know is a problem document as well.
pub(crate) fn router(state: Arc<State>) -> Router {
    let known = ROUTES.iter().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()));
    known
        .fallback(async || Failure::new(Reason::NotFound, "there is no such route; see /openapi.json"))
        .method_not_allowed_fallback(async || {
            Failure::new(Reason::Method, "see /openapi.json for the methods of a route")
        })
        // The handlers bound what they read; axum's own bound knows no problem document.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
}

/// Returns whether a request needs no token. Only the exact path counts, before any decoding.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    let fits = |route: &Route| *method == Method::HEAD || route.method.eq_ignore_ascii_case(method.as_str());
    ROUTES.iter().any(|route| route.public && fits(route) && route.path == path)
}
