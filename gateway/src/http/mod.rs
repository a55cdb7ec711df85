//! The functions listener: holds a request, makes it an event, dispatches it and
//! answers with the function's reply or with the platform's problem.
//!
//! Never more than the function's `limits.request_bytes` of a body and
//! `query_parameters_max` parameters are taken. Names of functions are matched
//! as they stand in the path: nothing is decoded before it is routed.

mod answer;
mod event;
mod fields;
mod known;
mod target;
#[cfg(test)]
mod tests;
mod upload;

use std::future::poll_fn;
use std::sync::Arc;

use ::http::{HeaderValue, Request, Response, header};
use faas_invoke::{CatalogueWatch, Dispatch, Invocation, InvokeError, Reply};
use faas_model::{
    ALIAS_LIVE, Body, BodyError, CallId, Component, Entry, FunctionName, Name, Problem, Reason, Revision, RouteMatch,
    TriggerKind,
};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tracing::debug;

use self::known::{Directory, Known, Observed};
use self::target::Target;
use self::upload::Upload;
use crate::front::{Handler, Peer};

/// How requests become events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether `Forwarded` and `X-Forwarded-*` of clients are kept and added to,
    /// which is right only behind a proxy that sets them; default false.
    pub trust_forwarded: bool,
    /// Most parameters of a query; default 100.
    pub query_parameters_max: usize,
    /// Most header fields of a function's answer, those of the platform not counted; default 100,
    /// which is as many as common clients take.
    pub answer_headers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { trust_forwarded: false, query_parameters_max: 100, answer_headers_max: 100 }
    }
}

/// Returns the handler of the functions listener.
pub fn handler(config: Config, dispatch: Arc<dyn Dispatch>, catalogue: CatalogueWatch) -> Handler {
    let live = Name::alias_live();
    let door = Arc::new(Door { config, dispatch, catalogue, live, known: Directory::default() });
    Arc::new(move |request, peer| {
        let door = door.clone();
        Box::pin(async move { door.answer(request, peer).await })
    })
}

struct Door {
    config: Config,
    dispatch: Arc<dyn Dispatch>,
    catalogue: CatalogueWatch,
    live: Name,
    known: Directory,
}

/// What a request is for.
struct Found {
    entry: Arc<Entry>,
    revision: Arc<Revision>,
    alias: Name,
    /// Bytes of the path that name the function; the rest is the function's own path.
    mount: usize,
}

/// A refusal, boxed because answers are large and refusals rare.
type Refused = Box<Response<Body>>;

fn refuse(call: CallId, reason: Reason, detail: impl Into<String>) -> Refused {
    Box::new(Problem::new(Component::Gateway, reason, detail).with_call(call).into_response())
}

impl Door {
    async fn answer(&self, request: Request<Body>, peer: Peer) -> Response<Body> {
        let call = CallId::fresh();
        let found = match self.find(call, &request) {
            Ok(found) => found,
            Err(refused) => {
                debug!(%call, status = refused.status().as_u16(), "request has no function");
                Observed::new(self.known.nobody()).end(refused.status());
                return *refused;
            }
        };
        let known = self.known.get(&found.entry.function, &self.catalogue);
        let observed = Observed::new(known.clone());
        let head = *request.method() == ::http::Method::HEAD;
        let response = match self.invoke(call, request, peer, &found, &known).await {
            Ok((reply, call_text)) => answer::from_reply(&self.config, call, call_text, reply, head),
            Err(refused) => *refused,
        };
        debug!(%call, function = %found.entry.function, status = response.status().as_u16(), "request answered");
        observed.end(response.status());
        response
    }

    /// Makes the event and dispatches it; also returns the call id as a header value.
    async fn invoke(
        &self,
        call: CallId,
        request: Request<Body>,
        peer: Peer,
        found: &Found,
        known: &Known,
    ) -> Result<(Reply, HeaderValue), Refused> {
        let limit = found.revision.spec.limits.request_bytes.0;
        let (parts, body) = request.into_parts();
        let (body, upload) = upload::bounded(body, limit).map_err(|fault| refuse_body(call, &fault))?;
        let event = event::Source { call, peer, mount: found.mount, authority: &known.authority };
        let (parts, call_text) =
            event::make(parts, &event, &self.config).map_err(|detail| refuse(call, Reason::BadRequest, detail))?;
        let invocation = Invocation {
            call,
            function: found.entry.function.clone(),
            alias: found.alias.clone(),
            trigger: TriggerKind::Http,
            request: Request::from_parts(parts, body),
        };
        let dispatching = self.dispatch.dispatch(invocation);
        let outcome = match upload {
            None => dispatching.await.map_err(Fault::Invoke),
            Some(upload) => beside(dispatching, &upload).await,
        };
        match outcome {
            Ok(reply) => Ok((reply, call_text)),
            Err(Fault::Invoke(error)) => Err(Box::new(answer::from_error(call, &error))),
            Err(Fault::Upload(fault)) => Err(refuse_body(call, &fault)),
        }
    }

    /// Finds the function of a request.
    fn find<B>(&self, call: CallId, request: &Request<B>) -> Result<Found, Refused> {
        let path = request.uri().path();
        let parameters = request.uri().query().map_or(0, |q| q.bytes().filter(|b| *b == b'&').count() + 1);
        if parameters > self.config.query_parameters_max {
            let max = self.config.query_parameters_max;
            let detail = format!("the query has {parameters} parameters, the bound query_parameters_max is {max}");
            return Err(refuse(call, Reason::BadRequest, detail));
        }
        if fields::prefers_async(request.headers()) {
            return Err(refuse(call, Reason::NotImplemented, ASYNC_LATER));
        }
        match Target::parse(path) {
            Target::Function { name, namespace, alias, mount } => self.named(call, name, namespace, alias, mount),
            Target::Async => Err(refuse(call, Reason::NotImplemented, ASYNC_LATER)),
            Target::Other => self.routed(call, request),
        }
    }

    /// Finds a function by its name in the path.
    fn named(
        &self,
        call: CallId,
        name: &str,
        namespace: Option<&str>,
        alias: Option<&str>,
        mount: usize,
    ) -> Result<Found, Refused> {
        let no_name = |e: faas_model::NameError| refuse(call, Reason::NotFound, e.to_string());
        let namespace = namespace.map_or_else(|| Ok(Name::namespace_default()), Name::new).map_err(no_name)?;
        let function = FunctionName::new(namespace, Name::new(name).map_err(no_name)?);
        let catalogue = self.catalogue.borrow();
        let Some(entry) = catalogue.function(&function) else {
            return Err(refuse(call, Reason::NotFound, format!("there is no function {function}")));
        };
        let (alias, revision) = match alias {
            None | Some(ALIAS_LIVE) => (self.live.clone(), &entry.live),
            Some(text) => {
                let alias = Name::new(text).map_err(no_name)?;
                let Some(revision) = entry.aliases.get(&alias) else {
                    let detail = format!("function {function} has no alias {alias}");
                    return Err(refuse(call, Reason::NotFound, detail));
                };
                (alias, revision)
            }
        };
        Ok(Found { entry: entry.clone(), revision: revision.clone(), alias, mount })
    }

    /// Finds a function by the routes of manifests.
    fn routed<B>(&self, call: CallId, request: &Request<B>) -> Result<Found, Refused> {
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let host = target::host_without_port(host);
        let catalogue = self.catalogue.borrow();
        match catalogue.route(&host, request.uri().path(), request.method().as_str()) {
            RouteMatch::Function(entry) => {
                let revision = entry.live.clone();
                Ok(Found { entry, revision, alias: self.live.clone(), mount: 0 })
            }
            RouteMatch::Method(allowed) => {
                let allowed = allowed.join(", ");
                let mut refused = refuse(call, Reason::Method, format!("this route takes {allowed}"));
                if let Ok(value) = HeaderValue::try_from(allowed) {
                    refused.headers_mut().insert(header::ALLOW, value);
                }
                Err(refused)
            }
            RouteMatch::None => Err(refuse(call, Reason::NotFound, "no function has a route for this host and path")),
        }
    }
}

const ASYNC_LATER: &str = "asynchronous invocation is not offered by this version: send the request without it";

/// Why there is no reply.
enum Fault {
    Invoke(InvokeError),
    Upload(BodyError),
}

/// Waits for the reply while the request's body is still coming; a body that
/// fails ends the call at once, not when the function notices.
async fn beside(mut dispatching: BoxFuture<'_, Result<Reply, InvokeError>>, upload: &Upload) -> Result<Reply, Fault> {
    poll_fn(|cx| {
        let outcome = dispatching.as_mut().poll(cx);
        if let std::task::Poll::Ready(Ok(reply)) = outcome {
            return std::task::Poll::Ready(Ok(reply));
        }
        // A function that fails because its body did is not to blame.
        if let Some(fault) = upload.poll_fault(cx) {
            return std::task::Poll::Ready(Err(Fault::Upload(fault)));
        }
        outcome.map_err(Fault::Invoke)
    })
    .await
}

fn refuse_body(call: CallId, fault: &BodyError) -> Refused {
    let reason = match fault {
        BodyError::TooLarge { max } => {
            let detail = format!("the body is over the function's bound limits.request_bytes of {max} bytes");
            return refuse(call, Reason::BodyTooLarge, detail);
        }
        BodyError::Idle { .. } | BodyError::Deadline { .. } => Reason::RequestTimeout,
        BodyError::Function(_) | BodyError::Broken(_) => Reason::BadRequest,
    };
    refuse(call, reason, fault.to_string())
}
