//! The routes, and what each answers.

use serde::Serialize;

use crate::http::{Request, Response};
use crate::ledger::{EventId, Recorded, json_of, record};
use crate::order::{Draft, DraftError, Order, is_id};
use crate::problem;
use crate::state::{Bucket, Page, State, StateError};
use crate::totals::totals;

const LIST_DEFAULT: usize = 20;
const LIST_MAX: usize = 100;

const USAGE: &str = "\
POST /orders            {\"id\": \"a-1\", \"customer\": \"Ada\", \"items\": [ITEM, ...]}
                        where ITEM is {\"sku\": \"tea\", \"quantity\": 2, \"price_cents\": 450}
GET  /orders/ID         one order
GET  /orders            orders taken by HTTP; ?limit=20&after=TOKEN
GET  /totals            number and revenue, over all and by customer; ?customer=NAME lists one
Messages of type order.placed from the queue are orders too, each counted once per event id.
";

/// Answers one call; `new_id` names an order that has no id.
#[must_use]
pub fn handle(request: &Request, state: &dyn State, new_id: &dyn Fn() -> String) -> Response {
    let answer = match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/") if request.header("x-faas-trigger") == Some("amqp") => apply(request, state),
        ("GET" | "HEAD", "/") => Ok(Response::new(200, "text/plain; charset=utf-8", USAGE)),
        ("POST", "/orders") => place(request, state, new_id),
        ("GET" | "HEAD", "/orders") => list(request, state),
        ("GET" | "HEAD", "/totals") => {
            totals(state, request.parameter("customer").as_deref()).map(|totals| json(200, &totals))
        }
        ("GET" | "HEAD", path) if path.starts_with("/orders/") => read(path, state),
        (_, "/orders") => Ok(not_allowed("GET, HEAD, POST")),
        (_, path) if path == "/" || path == "/totals" || path.starts_with("/orders/") => Ok(not_allowed("GET, HEAD")),
        _ => Ok(problem(404, "not found", "the paths are /orders, /orders/ID and /totals")),
    };
    answer.unwrap_or_else(|error| failed(&error))
}

/// Takes an order by HTTP. The order's id is the key, so the same id again is
/// the same order or a conflict, also when two come at once.
fn place(request: &Request, state: &dyn State, new_id: &dyn Fn() -> String) -> Result<Response, StateError> {
    let order = Draft::parse(&request.body).and_then(|mut draft| {
        let id = draft.id.get_or_insert_with(new_id).clone();
        draft.check().map(|order| (id, order))
    });
    let (id, order) = match order {
        Ok(order) => order,
        Err(error) => return Ok(no_order(&error)),
    };
    let body = encode(&order);
    let status = match record(state, Bucket::Orders, &id, &order, &body)? {
        Recorded::Now => 201,
        Recorded::Before(present) if present == body => 200,
        Recorded::Before(_) => {
            let detail = format!("there is another order with the id {id}");
            return Ok(problem(409, "conflict", &detail));
        }
    };
    // Relative, so that it is right below every route that leads here.
    Ok(Response::new(status, "application/json", body).with("location", format!("orders/{id}")))
}

/// Applies an `order.placed` message. The event's identity is the key: a
/// redelivery finds it and changes nothing, a crash before leaves nothing behind.
fn apply(request: &Request, state: &dyn State) -> Result<Response, StateError> {
    #[derive(Serialize)]
    struct Event<'a> {
        event: EventId<'a>,
        order: &'a Order,
    }
    let attribute = |name| request.header(name).filter(|value| !value.is_empty());
    let (Some(source), Some(id), Some(kind)) = (attribute("ce-source"), attribute("ce-id"), attribute("ce-type"))
    else {
        return Ok(problem(422, "no event", "ce-source, ce-id and ce-type are needed"));
    };
    // A plain message, which has no type of its own, is taken for what the queue is there for.
    if !(kind == "order.placed" || kind.ends_with(".order.placed") || kind == "io.faas.amqp.message") {
        return Ok(problem(422, "unknown event", "the type must be order.placed or end with .order.placed"));
    }
    let event = EventId { source, id };
    let Some(key) = event.key() else {
        return Ok(problem(422, "no event", "ce-source and ce-id are too long for a key"));
    };
    let order = match Draft::parse(&request.body).and_then(Draft::check) {
        Ok(order) => order,
        // Dead-letters at once: the same message will never be an order.
        Err(DraftError::Syntax(detail)) => return Ok(problem(422, "no order", &detail)),
        Err(error) => return Ok(no_order(&error)),
    };
    let body = encode(&Event { event, order: &order });
    let duplicate = record(state, Bucket::Events, &key, &order, &body)? != Recorded::Now;
    Ok(json(200, &serde_json::json!({ "duplicate": duplicate })))
}

fn read(path: &str, state: &dyn State) -> Result<Response, StateError> {
    let found = match path.strip_prefix("/orders/") {
        Some(id) if is_id(id) => state.get(Bucket::Orders, id)?,
        _ => None,
    };
    Ok(match found {
        Some(record) => Response::new(200, "application/json", json_of(&record)),
        None => problem(404, "not found", "there is no order with this id"),
    })
}

/// Where a listing goes on: the page of keys it had reached, and the last id it listed of it.
struct After {
    page: Option<String>,
    last: String,
}

impl After {
    /// Reads `HEX_OF_PAGE.LAST`.
    fn parse(token: &str) -> Option<Self> {
        let (page, last) = token.split_once('.').filter(|(page, _)| page.len() % 2 == 0)?;
        let digits: Option<Vec<u8>> = page
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let page = String::from_utf8(digits?).ok()?;
        Some(Self { page: Some(page).filter(|page| !page.is_empty()), last: last.to_owned() })
    }

    fn token(&self) -> String {
        let page = self.page.iter().flat_map(|page| page.bytes());
        page.map(|byte| format!("{byte:02x}")).collect::<String>() + "." + &self.last
    }
}

fn list(request: &Request, state: &dyn State) -> Result<Response, StateError> {
    #[derive(Serialize)]
    struct Listing {
        orders: Vec<Box<serde_json::value::RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let limit = request.parameter("limit").map_or(Some(LIST_DEFAULT), |limit| limit.parse().ok());
    let Some(limit) = limit.filter(|limit| (1..=LIST_MAX).contains(limit)) else {
        return Ok(problem(400, "bad request", &format!("limit is a whole number from 1 to {LIST_MAX}")));
    };
    let after = match request.parameter("after") {
        None => After { page: None, last: String::new() },
        Some(token) => match After::parse(&token) {
            Some(after) => after,
            None => return Ok(problem(400, "bad request", "after is the next of the page before")),
        },
    };
    let (keys, next) = some_keys(state, after, limit)?;
    let records = state.get_many(Bucket::Orders, &keys)?;
    let orders = records.iter().flatten().filter_map(|record| serde_json::from_slice(json_of(record)).ok()).collect();
    Ok(json(200, &Listing { orders, next: next.map(|after| after.token()) }))
}

/// Returns at most `limit` keys after `after`, and where to go on if there may be more.
fn some_keys(state: &dyn State, after: After, limit: usize) -> Result<(Vec<String>, Option<After>), StateError> {
    let mut found = Vec::new();
    let After { mut page, mut last } = after;
    loop {
        let Page { mut keys, next } = state.keys(Bucket::Orders, page.as_deref())?;
        keys.retain(|key| *key > last);
        keys.sort_unstable();
        let room = limit - found.len();
        if keys.len() > room || (keys.len() == room && next.is_some()) {
            keys.truncate(room);
            let last = keys.last().cloned().unwrap_or(last);
            found.append(&mut keys);
            return Ok((found, Some(After { page, last })));
        }
        found.append(&mut keys);
        match next {
            // The next page is a new one: nothing of it has been listed.
            Some(next) => (page, last) = (Some(next), String::new()),
            None => return Ok((found, None)),
        }
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with text keys")
}

fn json(status: u16, value: &impl Serialize) -> Response {
    Response::new(status, "application/json", encode(value))
}

fn no_order(error: &DraftError) -> Response {
    match error {
        DraftError::Syntax(detail) => problem(400, "no JSON", detail),
        DraftError::Shape(detail) => problem(422, "no order", detail),
        DraftError::Faults(faults) => {
            let body = serde_json::json!({
                "type": "about:blank", "status": 422, "title": "no order",
                "detail": "fields are out of bounds", "errors": faults,
            });
            Response::new(422, "application/problem+json", encode(&body))
        }
    }
}

fn not_allowed(methods: &str) -> Response {
    problem(405, "method not allowed", &format!("the methods here are {methods}")).with("allow", methods)
}

fn failed(error: &StateError) -> Response {
    match error {
        StateError::NotGranted(_) => problem(500, "not granted", &error.to_string()),
        StateError::Unavailable(_) => problem(503, "store unavailable", &error.to_string()).with("retry-after", "1"),
    }
}
