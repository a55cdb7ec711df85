//! From outcomes to responses; the one place that gives errors their status.

use std::time::Duration;

use faas_model::{Body, BodyError, Component, Problem, Reason};
use faas_store::{Bound, StoreError, Version};
use http::{HeaderValue, Response, StatusCode, header};

pub(crate) fn problem(reason: Reason, detail: impl Into<String>) -> Problem {
    Problem::new(Component::Baas, reason, detail)
}

/// Returns the problem's response, boxed problems being rare.
pub(crate) fn refused(reason: Reason, detail: impl Into<String>) -> Response<Body> {
    problem(reason, detail).into_response()
}

/// Returns an empty response.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// Adds the version as entity tag.
pub(crate) fn tagged(mut response: Response<Body>, version: Version) -> Response<Body> {
    response.headers_mut().insert(header::ETAG, etag(version));
    response
}

/// Returns the quoted version, as [`Version`]'s `Display` writes it, without the formatting machinery.
fn etag(version: Version) -> HeaderValue {
    let mut text = [b'"'; 34];
    let number = u128::from_be_bytes(version.0);
    let mut rest = number;
    let mut at = 33;
    loop {
        at -= 1;
        let digit = u8::try_from(rest & 15).unwrap_or_default();
        if let Some(slot) = text.get_mut(at) {
            *slot = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        }
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    let quoted = text.get(at - 1..).unwrap_or_default();
    HeaderValue::from_bytes(quoted).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// Returns the response to a failed store call.
pub(crate) fn failed(error: StoreError) -> Response<Body> {
    match error {
        StoreError::Conflict(None) => refused(Reason::PreconditionFailed, "the key does not exist"),
        StoreError::Conflict(Some(row)) => {
            tagged(refused(Reason::PreconditionFailed, "the key has another version, see ETag"), row.version)
        }
        StoreError::Unknown(_) => refused(Reason::OutcomeUnknown, "read the key to see whether the write took effect"),
        StoreError::Unavailable { after } => later(Reason::StoreUnavailable, "the store is not available", after),
        StoreError::Deadline => {
            later(Reason::StoreUnavailable, "the store did not answer in time, nothing was written", Duration::ZERO)
        }
        StoreError::TooLarge { what, max } => refused(too_large(what), format!("{what} is over its limit of {max}")),
        StoreError::Invalid(detail) => refused(Reason::BadRequest, detail),
        StoreError::Full => refused(Reason::DiskFull, "the disk is full, nothing was written"),
        StoreError::Gone => refused(Reason::BadRequest, "the cursor is older than what is kept"),
        // What is damaged is the operator's to know.
        StoreError::Corrupt(what) => {
            tracing::error!(what, "stored data is damaged");
            refused(Reason::Internal, "stored data is damaged")
        }
    }
}

fn too_large(what: Bound) -> Reason {
    match what {
        Bound::KeyBytes | Bound::PartitionBytes | Bound::SortBytes => Reason::UriTooLong,
        Bound::ValueBytes | Bound::WriteBytes => Reason::BodyTooLarge,
        Bound::Changes | Bound::Keys | Bound::ReadBytes => Reason::BadRequest,
    }
}

fn later(reason: Reason, detail: &str, after: Duration) -> Response<Body> {
    let mut problem = problem(reason, detail);
    problem.retry_after_s = Some(after.as_secs().max(1));
    problem.into_response()
}

/// Returns the response to a body that did not come whole.
pub(crate) fn body_failed(error: &BodyError) -> Response<Body> {
    match error {
        BodyError::TooLarge { max } => {
            refused(Reason::BodyTooLarge, format!("the body is over its limit of {max} bytes"))
        }
        BodyError::Idle { .. } | BodyError::Deadline { .. } => refused(Reason::RequestTimeout, error.to_string()),
        BodyError::Function(_) | BodyError::Broken(_) => refused(Reason::BadRequest, "the body broke off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_the_quoted_version() {
        for number in [0, 1, 0xABC, u128::from(u64::MAX), u128::MAX] {
            let version = Version(number.to_be_bytes());
            assert_eq!(etag(version), format!("\"{version}\""));
        }
    }

    #[test]
    fn every_store_error_has_its_status() {
        let id = faas_store::WriteId::fresh();
        let too_large = |what| StoreError::TooLarge { what, max: 1 };
        let cases = [
            (StoreError::Conflict(None), 412),
            (StoreError::Unknown(id), 504),
            (StoreError::Unavailable { after: Duration::from_secs(3) }, 503),
            (StoreError::Deadline, 503),
            (too_large(Bound::KeyBytes), 414),
            (too_large(Bound::ValueBytes), 413),
            (too_large(Bound::WriteBytes), 413),
            (too_large(Bound::Keys), 400),
            (too_large(Bound::ReadBytes), 400),
            (StoreError::Invalid("x"), 400),
            (StoreError::Full, 507),
            (StoreError::Gone, 400),
            (StoreError::Corrupt("secret".into()), 500),
        ];
        for (error, status) in cases {
            let response = failed(error.clone());
            assert_eq!(response.status(), status, "{error:?}");
            if status == 503 {
                assert!(response.headers().contains_key(header::RETRY_AFTER));
            }
            let Body::Full(bytes) = response.into_body() else { panic!("a problem has a body") };
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(text.contains("\"component\":\"baas\"") && !text.contains("secret"), "{text}");
        }
    }
}
