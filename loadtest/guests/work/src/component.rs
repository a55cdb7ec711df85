//! The edge to `wasi:http`: one call of `handle` per request.

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Work;

wasip2::http::proxy::export!(Work);

impl Guest for Work {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let order = match crate::order(&request.path_with_query().unwrap_or_default()) {
            Ok(order) => order,
            Err(refusal) => return answer(out, 400, &refusal),
        };
        let memory = crate::touch(order.touch_kib);
        let result = crate::compute(order.rounds);
        if order.sleep_us > 0 {
            subscribe_duration(order.sleep_us * 1000).block();
        }
        // The memory is held while the call waits, as a function's working set is.
        answer(out, 200, &format!("done {result:016x} {}\n", memory.len() >> 10));
    }
}

/// Answers with a short text.
fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let length = text.len().to_string().into_bytes();
    let fields = [("content-type".to_owned(), b"text/plain".to_vec()), ("content-length".to_owned(), length)];
    let head = OutgoingResponse::new(Fields::from_list(&fields).expect("the header fields are valid"));
    head.set_status_code(status).expect("the status is valid");
    let body = head.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(head));
    let stream = body.write().expect("the stream is taken once");
    stream.blocking_write_and_flush(text.as_bytes()).ok();
    drop(stream);
    OutgoingBody::finish(body, None).ok();
}
