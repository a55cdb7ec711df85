//! The closed set of reasons why the platform, not the function, said no,
//! each with one status code, and the problem document that carries it.

use std::fmt;

use http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{Body, CallId, headers};

macro_rules! reasons {
    ($($variant:ident $text:literal $status:literal $retry:literal $title:literal,)*) => {
        /// Why the platform refused or failed. Closed: clients may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $(#[doc = $title] $variant,)* }

        impl Reason {
            /// Every reason, in the order of their status codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the stable text of the reason.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Returns the one status code of the reason.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => status($status),)* }
            }

            /// Returns whether the same request may succeed later unchanged.
            #[must_use]
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }

            /// Returns a short title for people.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

reasons! {
    BadRequest "bad_request" 400 false "The request is malformed",
    Unauthorized "unauthorized" 401 false "A valid credential is needed",
    Forbidden "forbidden" 403 false "The credential does not allow this",
    NotFound "not_found" 404 false "There is no such thing",
    Method "method" 405 false "The method is not allowed here",
    RequestTimeout "request_timeout" 408 true "The request did not arrive in time",
    Conflict "conflict" 409 false "The current state forbids this",
    LengthRequired "length_required" 411 false "A Content-Length is needed",
    PreconditionFailed "precondition_failed" 412 false "The precondition does not hold",
    BodyTooLarge "body_too_large" 413 false "The body is over its limit",
    UriTooLong "uri_too_long" 414 false "The target is over its limit",
    Unprocessable "unprocessable" 422 false "The content cannot be accepted",
    HeadersTooLarge "headers_too_large" 431 false "The headers are over their limit",
    QueueFull "queue_full" 429 true "The function's queue is full",
    RateLimited "rate_limited" 429 true "Too many requests",
    Quota "quota" 429 true "A quota is used up",
    Cancelled "cancelled" 499 true "The client left",
    Internal "internal" 500 true "The platform failed",
    NotImplemented "not_implemented" 501 false "Not offered by this version",
    Crashed "crashed" 502 false "The function crashed",
    BadReply "bad_reply" 502 false "The function gave no valid answer",
    ReplyTooLarge "reply_too_large" 502 false "The function's answer is over its limit",
    MemoryLimit "memory_limit" 502 false "The function is over its memory limit",
    StartFailed "start_failed" 503 true "No instance could be started",
    CrashLoop "crash_loop" 503 true "The function keeps crashing",
    Draining "draining" 503 true "The platform is stopping",
    StoreUnavailable "store_unavailable" 503 true "The state store cannot be reached",
    QueueTimeout "queue_timeout" 504 true "No instance became free in time",
    ColdTimeout "cold_timeout" 504 true "No instance started in time",
    RunTimeout "run_timeout" 504 false "The function did not answer in time",
    CpuLimit "cpu_limit" 504 false "The function is over its CPU limit",
    OutcomeUnknown "outcome_unknown" 504 false "It is not known whether this took effect",
    VersionNotSupported "version_not_supported" 505 false "The HTTP version is not spoken here",
    DiskFull "disk_full" 507 true "The disk is full",
}

/// `499` is nginx's code for a client that left; that client never sees it.
fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which part of the platform speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// The trigger gateway.
    Gateway,
    /// The waiting queue and pool of the function service.
    Queue,
    /// The runtime that starts instances.
    Runtime,
    /// The user's function.
    Function,
    /// The state back-end.
    Baas,
    /// The control API.
    Control,
}

/// A refusal or failure as RFC 9457 `application/problem+json`.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Who speaks.
    pub component: Component,
    /// Why.
    pub reason: Reason,
    /// What failed and with which value, for people; cut at 600 characters.
    pub detail: String,
    /// The call, if there is one.
    pub call: Option<CallId>,
    /// Seconds after which a retry makes sense.
    pub retry_after_s: Option<u64>,
}

impl Problem {
    /// Content type of the document.
    pub const CONTENT_TYPE: &str = "application/problem+json";

    /// Returns a problem without call id.
    pub fn new(component: Component, reason: Reason, detail: impl Into<String>) -> Self {
        Self { component, reason, detail: detail.into(), call: None, retry_after_s: None }
    }

    /// Returns the problem with its call id.
    #[must_use]
    pub fn with_call(mut self, call: CallId) -> Self {
        self.call = Some(call);
        self
    }

    /// Returns the document: `type, title, status, detail, instance, component, reason, retryable`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let detail: String = self.detail.chars().take(600).collect();
        let mut json = serde_json::json!({
            "type": format!("urn:faas:reason:{}", self.reason),
            "title": self.reason.title(),
            "status": self.reason.status().as_u16(),
            "detail": detail,
            "component": self.component,
            "reason": self.reason,
            "retryable": self.reason.retryable(),
        });
        if let (Some(call), Some(map)) = (self.call, json.as_object_mut()) {
            map.insert("instance".into(), call.to_string().into());
        }
        json
    }

    /// Returns the HTTP answer with its headers (`X-Call-Id`, `x-faas-origin`, `Retry-After`).
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.reason.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Self::CONTENT_TYPE));
        headers.insert(headers::ORIGIN, HeaderValue::from_static("platform"));
        if let Some(value) = self.call.and_then(|c| HeaderValue::from_str(&c.to_string()).ok()) {
            headers.insert(headers::CALL_ID, value);
        }
        let again = self.retry_after_s.or_else(|| {
            matches!(self.reason.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE).then_some(1)
        });
        if let Some(seconds) = again {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_text_and_a_real_error_status() {
        let mut texts: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.status().as_u16() >= 400, "{reason}");
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        assert_eq!(Reason::Cancelled.status().as_u16(), 499);
    }

    #[test]
    fn a_problem_says_who_why_and_what() {
        let call = CallId::fresh();
        let response = Problem::new(Component::Queue, Reason::QueueFull, "64 wait, queue.depth is 64")
            .with_call(call)
            .into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[headers::CALL_ID], call.to_string());
        assert_eq!(response.headers()[headers::ORIGIN], "platform");
        let Body::Full(bytes) = response.into_body() else { panic!("a problem is small") };
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["reason"], "queue_full");
        assert_eq!(json["component"], "queue");
        assert_eq!(json["instance"], call.to_string());
        assert_eq!(json["retryable"], true);
    }
}
