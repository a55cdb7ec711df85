//! From a reply, or from the failure to get one, to the answer.

use faas_invoke::{InvokeError, Reply, Timings};
use faas_model::{Body, CallId, Component, Problem, Reason, headers};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;

use super::{Config, fields};

const CALL_ID: HeaderName = HeaderName::from_static(headers::CALL_ID);
const ORIGIN: HeaderName = HeaderName::from_static(headers::ORIGIN);
const REVISION: HeaderName = HeaderName::from_static(headers::REVISION);
const SERVER_TIMING: HeaderName = HeaderName::from_static(headers::SERVER_TIMING);
const FUNCTION: HeaderValue = HeaderValue::from_static("function");

/// Answers with what the function replied. `head` says that the request was a HEAD.
pub(super) fn from_reply(
    config: &Config,
    call: CallId,
    call_text: HeaderValue,
    reply: Reply,
    head: bool,
) -> Response<Body> {
    let Reply { mut response, timings, revision } = reply;
    if let Some(detail) = unfit(&response, config) {
        let problem = Problem::new(Component::Function, Reason::BadReply, detail).with_call(call);
        return with_timings(problem.into_response(), &timings);
    }
    fields::strip(response.headers_mut(), |_| false);
    settle_length(&mut response, head);
    response.headers_mut().insert(CALL_ID, call_text);
    response.headers_mut().insert(ORIGIN, FUNCTION);
    if let Ok(revision) = HeaderValue::try_from(revision.0.short()) {
        response.headers_mut().insert(REVISION, revision);
    }
    with_timings(response, &timings)
}

/// Returns why the head of an answer cannot be passed on.
fn unfit(response: &Response<Body>, config: &Config) -> Option<String> {
    let (status, fields, max) = (response.status(), response.headers().len(), config.answer_headers_max);
    if status.is_informational() {
        return Some(format!("the function answered {}, which ends no request", status.as_u16()));
    }
    let over = || format!("the function's answer has {fields} header fields, the bound answer_headers_max is {max}");
    (fields > max).then(over)
}

/// Answers with why there is no reply.
pub(super) fn from_error(call: CallId, error: &InvokeError) -> Response<Body> {
    with_timings(error.problem(call).into_response(), &error.timings)
}

/// Makes the announced length true: a wrong one would shift every later answer
/// on the connection. hyper itself announces lengths that are known, and counts
/// the bytes of a stream against the announced one.
fn settle_length(response: &mut Response<Body>, head: bool) {
    let never_a_body =
        matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    if never_a_body {
        // A 304 may announce the length it would have had, but need not.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::Empty;
        return;
    }
    let known = response.body().size_hint().exact().is_some();
    let announced = response.headers().contains_key(header::CONTENT_LENGTH);
    if announced && ((known && !head) || !length_is_valid(response.headers())) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    } else if head && (announced || !known) {
        // Only the announcement counts; whatever body there is would contradict it, or is not sent.
        *response.body_mut() = Body::Empty;
    }
}

fn length_is_valid(map: &HeaderMap) -> bool {
    let mut values = map.get_all(header::CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => (1..=18).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// Adds `Server-Timing` after what the function says about itself.
fn with_timings(mut response: Response<Body>, timings: &Timings) -> Response<Body> {
    let mut text = String::with_capacity(48 + 32 * timings.cold.len());
    let phases = [("queue", timings.queue)].into_iter().chain(timings.cold.iter().copied());
    for (name, time) in phases.chain([("run", timings.run)]) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name);
        text.push_str(";dur=");
        push_millis(&mut text, time.as_micros());
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().append(SERVER_TIMING, value);
    }
    response
}

/// Writes microseconds as milliseconds with three decimals.
fn push_millis(text: &mut String, micros: u128) {
    let micros = u64::try_from(micros).unwrap_or(u64::MAX);
    let mut digits = [b'0'; 24];
    let (mut left, mut used) = (micros, 0_usize);
    for (place, slot) in digits.iter_mut().rev().enumerate() {
        if place == 3 {
            *slot = b'.';
        } else {
            *slot = b'0' + u8::try_from(left % 10).unwrap_or_default();
            left /= 10;
        }
        used = place + 1;
        if left == 0 && place > 3 {
            break;
        }
    }
    let start = digits.len() - used;
    text.extend(digits.iter().skip(start).map(|b| char::from(*b)));
}

#[cfg(test)]
mod tests {
    use faas_model::{Digest, RevisionId};

    use super::*;

    #[test]
    fn an_answer_with_more_header_fields_than_the_bound_is_no_valid_answer() {
        let config = Config { answer_headers_max: 3, ..Config::default() };
        let answer = |fields: usize| {
            let mut response = Response::new(Body::Empty);
            for n in 0..fields {
                // Values of one name count one by one.
                response.headers_mut().append("x-same", HeaderValue::from(n));
            }
            let revision = RevisionId(Digest::of(b"revision"));
            let reply = Reply { response, timings: Timings::default(), revision };
            from_reply(&config, CallId::fresh(), HeaderValue::from_static("call"), reply, false)
        };
        assert_eq!(answer(3).status(), StatusCode::OK);
        let refused = answer(4);
        assert_eq!(refused.status(), StatusCode::BAD_GATEWAY);
        let Body::Full(bytes) = refused.into_body() else { panic!("a problem is small") };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(
            text.contains("bad_reply") && text.contains("4 header fields, the bound answer_headers_max is 3"),
            "{text}"
        );
    }

    #[test]
    fn times_are_milliseconds_with_three_decimals() {
        for (micros, expected) in [
            (0, "0.000"),
            (1, "0.001"),
            (999, "0.999"),
            (1000, "1.000"),
            (10_050, "10.050"),
            (1_234_567_890, "1234567.890"),
        ] {
            let mut text = String::new();
            push_millis(&mut text, micros);
            assert_eq!(text, expected);
        }
        let mut text = String::new();
        push_millis(&mut text, u128::MAX);
        assert_eq!(text, "18446744073709551.615");
    }
}
