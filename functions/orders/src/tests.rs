//! The whole application on a store in memory that fails when told to.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::api;
use crate::http::{Request, Response};
use crate::state::{Bucket, Page, State, StateError};

/// What the next creation does beside, or instead of, its work.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The store fails before it writes.
    Before,
    /// It writes and the answer is lost: a crash, a broken connection.
    After,
}

#[derive(Default)]
struct Memory {
    data: RefCell<BTreeMap<(Bucket, String), Vec<u8>>>,
    fault: Cell<Option<Fault>>,
    calls: Cell<u32>,
    granted: Cell<Option<Bucket>>,
}

const PAGE: usize = 7;

impl Memory {
    fn call(&self, bucket: Bucket) -> Result<(), StateError> {
        self.calls.set(self.calls.get() + 1);
        if self.granted.get().is_some_and(|only| only != bucket) { Err(StateError::NotGranted(bucket)) } else { Ok(()) }
    }
}

impl State for Memory {
    fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.call(bucket)?;
        Ok(self.data.borrow().get(&(bucket, key.to_owned())).cloned())
    }

    fn create(&self, bucket: Bucket, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let lost = || Err(StateError::Unavailable("outcome_unknown".into()));
        assert!(!key.is_empty() && key.len() <= 1024 && key.is_ascii());
        let fault = self.fault.take();
        if fault == Some(Fault::Before) {
            return lost();
        }
        let present = self.get(bucket, key)?;
        if present.is_none() {
            self.data.borrow_mut().insert((bucket, key.to_owned()), value.to_vec());
        }
        if fault == Some(Fault::After) { lost() } else { Ok(present) }
    }

    fn keys(&self, bucket: Bucket, from: Option<&str>) -> Result<Page, StateError> {
        self.call(bucket)?;
        let data = self.data.borrow();
        let mut keys = data.keys().filter(|(b, key)| *b == bucket && Some(key.as_str()) > from).map(|(_, key)| key);
        let page: Vec<String> = keys.by_ref().take(PAGE).cloned().collect();
        // Backwards, because the interface promises no order within a page.
        let next = keys.next().and(page.last().cloned());
        Ok(Page { keys: page.into_iter().rev().collect(), next })
    }

    fn get_many(&self, bucket: Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        self.call(bucket)?;
        let data = self.data.borrow();
        Ok(keys.iter().map(|key| data.get(&(bucket, key.clone())).cloned()).collect())
    }
}

fn call(state: &Memory, method: &str, target: &str, body: &str) -> Response {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request {
        method: method.into(),
        path: path.into(),
        query: query.into(),
        body: body.into(),
        ..Request::default()
    };
    api::handle(&request, state, &|| format!("new-{}", state.calls.get()))
}

fn get(state: &Memory, target: &str) -> Value {
    let response = call(state, "GET", target, "");
    assert_eq!(response.status, 200, "{target}");
    serde_json::from_slice(&response.body).unwrap()
}

fn message(state: &Memory, headers: &[(&str, &str)], body: &str) -> Response {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    let request = Request { method: "POST".into(), path: "/".into(), headers, body: body.into(), ..Request::default() };
    api::handle(&request, state, &|| unreachable!("a message has its identity"))
}

fn event(state: &Memory, id: &str, body: &str) -> Response {
    let kind = ("ce-type", "com.example.order.placed");
    message(state, &[("x-faas-trigger", "amqp"), ("ce-source", "/shop"), ("ce-id", id), kind], body)
}

fn order(id: &str, customer: &str, quantity: u32) -> String {
    json!({ "id": id, "customer": customer, "items": [{ "sku": "tea", "quantity": quantity, "price_cents": 450 }] })
        .to_string()
}

#[test]
fn an_order_is_created_read_and_named_by_its_location() {
    let state = Memory::default();
    let response = call(&state, "POST", "/orders", &order("a-1", "Ada", 2));
    assert_eq!(response.status, 201);
    assert!(response.headers.contains(&("location", "orders/a-1".to_owned())));
    let expected = json!({
        "id": "a-1", "customer": "Ada", "items": [{ "sku": "tea", "quantity": 2, "price_cents": 450 }],
        "total_cents": 900,
    });
    assert_eq!(serde_json::from_slice::<Value>(&response.body).unwrap(), expected);
    assert_eq!(get(&state, "/orders/a-1"), expected);
    assert_eq!(call(&state, "GET", "/orders/a-2", "").status, 404);
}

#[test]
fn the_same_order_again_is_the_same_and_another_one_a_conflict() {
    let state = Memory::default();
    assert_eq!(call(&state, "POST", "/orders", &order("a-1", "Ada", 2)).status, 201);
    let again = call(&state, "POST", "/orders", &order("a-1", "Ada", 2));
    assert_eq!((again.status, again.headers[1].1.as_str()), (200, "orders/a-1"));
    assert_eq!(call(&state, "POST", "/orders", &order("a-1", "Ada", 3)).status, 409);
    assert_eq!(get(&state, "/totals")["revenue_cents"], 900);
}

#[test]
fn an_order_without_an_id_gets_a_new_one() {
    let state = Memory::default();
    let body = r#"{"customer":"Ada","items":[{"sku":"tea","quantity":1,"price_cents":5}]}"#;
    let first = call(&state, "POST", "/orders", body);
    let second = call(&state, "POST", "/orders", body);
    assert_eq!((first.status, second.status), (201, 201));
    assert_ne!(first.headers, second.headers);
}

#[test]
fn a_lost_answer_is_503_and_the_same_call_settles_it() {
    for fault in [Fault::Before, Fault::After] {
        let state = Memory::default();
        state.fault.set(Some(fault));
        let lost = call(&state, "POST", "/orders", &order("a-1", "Ada", 2));
        assert_eq!((lost.status, lost.headers[1].0), (503, "retry-after"));
        let status = call(&state, "POST", "/orders", &order("a-1", "Ada", 2)).status;
        assert_eq!(status, if fault == Fault::Before { 201 } else { 200 });
        assert_eq!(get(&state, "/totals")["count"], 1);
    }
}

#[test]
fn what_is_no_order_says_what_is_wrong_with_it() {
    let state = Memory::default();
    let status = |body: &str| call(&state, "POST", "/orders", body).status;
    assert_eq!(status(""), 400);
    assert_eq!(status("{\"id\":"), 400);
    assert_eq!(status("[]"), 422);
    assert_eq!(status("{}"), 422);
    assert_eq!(status(r#"{"customer":"Ada","items":[{"sku":"tea","quantity":-1,"price_cents":5}]}"#), 422);
    assert_eq!(status(r#"{"customer":"Ada","items":[{"sku":"tea","quantity":1.5,"price_cents":5}]}"#), 422);

    let body = r#"{"id":"../x","customer":" ","items":[{"sku":"tea","quantity":0,"price_cents":100000001}]}"#;
    let refused: Value = serde_json::from_slice(&call(&state, "POST", "/orders", body).body).unwrap();
    let pointers: Vec<&str> =
        refused["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["#/id", "#/customer", "#/items/0/quantity", "#/items/0/price_cents"]);

    for id in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a%2fb", &"a".repeat(65)] {
        assert_eq!(status(&order(id, "Ada", 1)), 422, "id {id:?}");
    }
    assert_eq!(status(&order("x", "a\nb", 1)), 422, "a line break would forge a record's first line");
    assert_eq!(status(r#"{"customer":"Ada","items":[]}"#), 422);
    let many = vec![json!({ "sku": "x", "quantity": 1, "price_cents": 1 }); 101];
    assert_eq!(status(&json!({ "customer": "Ada", "items": many }).to_string()), 422);
    assert!(state.data.borrow().is_empty());
}

#[test]
fn the_largest_order_does_not_overflow() {
    let state = Memory::default();
    let items = vec![json!({ "sku": "x", "quantity": 10_000, "price_cents": 100_000_000 }); 100];
    assert_eq!(call(&state, "POST", "/orders", &json!({ "customer": "Ada", "items": items }).to_string()).status, 201);
    assert_eq!(get(&state, "/totals")["revenue_cents"], 100_000_000_000_000_u64);
}

#[test]
fn a_listing_gives_every_order_once_whatever_its_limit() {
    let state = Memory::default();
    let all: BTreeSet<String> = (0..50).map(|n| format!("order-{n}")).collect();
    for id in &all {
        call(&state, "POST", "/orders", &order(id, "Ada", 1));
    }
    for limit in [1, 2, 6, 7, 8, 14, 49, 50, 51, 100] {
        let (mut seen, mut pages, mut after) = (Vec::new(), 0, String::new());
        loop {
            let page = get(&state, &format!("/orders?limit={limit}{after}"));
            let orders = page["orders"].as_array().unwrap();
            assert!(orders.len() <= limit);
            seen.extend(orders.iter().map(|order| order["id"].as_str().unwrap().to_owned()));
            pages += 1;
            assert!(pages <= 60, "limit {limit} ends");
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(seen, all.iter().cloned().collect::<Vec<_>>(), "limit {limit}");
    }
    assert_eq!(get(&state, "/orders")["orders"].as_array().unwrap().len(), 20);
}

#[test]
fn a_listing_refuses_what_it_did_not_give_out() {
    let state = Memory::default();
    for query in ["limit=0", "limit=101", "limit=x", "limit=", "after=x", "after=zz.a", "after=f.a", "after=ff.a"] {
        assert_eq!(call(&state, "GET", &format!("/orders?{query}"), "").status, 400, "{query}");
    }
}

#[test]
fn a_message_counts_once_however_often_it_comes() {
    let state = Memory::default();
    let body = order("a-1", "Ada", 2);
    for n in 0..5 {
        let response = event(&state, "e-1", &body);
        assert_eq!(response.status, 200);
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(answer, json!({ "duplicate": n > 0 }));
    }
    event(&state, "e-2", &body);
    let totals = get(&state, "/totals");
    assert_eq!((&totals["count"], &totals["revenue_cents"]), (&json!(2), &json!(1800)));
    assert_eq!(totals["amqp"], json!({ "count": 2, "revenue_cents": 1800 }));
}

#[test]
fn the_source_is_part_of_an_events_identity_and_no_two_identities_share_a_key() {
    let state = Memory::default();
    let kind = ("ce-type", "order.placed");
    let identities =
        [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b%2Fc"), ("A", "b/c"), ("a", "{b}"), ("ä", " ")];
    for (source, id) in identities {
        let headers = [("x-faas-trigger", "amqp"), ("ce-source", source), ("ce-id", id), kind];
        assert_eq!(message(&state, &headers, &order("x", "Ada", 1)).status, 200);
    }
    assert_eq!(get(&state, "/totals")["count"], identities.len());
    let long = "ä".repeat(200);
    let headers = [("x-faas-trigger", "amqp"), ("ce-source", "s"), ("ce-id", &long), kind];
    assert_eq!(message(&state, &headers, &order("x", "Ada", 1)).status, 422);
}

#[test]
fn only_the_platform_can_say_that_a_request_is_a_message() {
    let state = Memory::default();
    let ce = [("ce-source", "/shop"), ("ce-id", "e-1"), ("ce-type", "order.placed")];
    for trigger in [None, Some(("x-faas-trigger", "http")), Some(("x-faas-trigger", "AMQP"))] {
        let headers: Vec<_> = ce.into_iter().chain(trigger).collect();
        assert_eq!(message(&state, &headers, &order("a-1", "Ada", 1)).status, 405);
    }
    assert!(state.data.borrow().is_empty());
}

#[test]
fn a_message_that_can_never_be_an_order_is_422_and_a_failing_store_503() {
    let state = Memory::default();
    for body in ["", "poison", "{\"customer\":", "{}", "null", &order("", "Ada", 1), &order("x", "Ada", 0)] {
        assert_eq!(event(&state, "e-1", body).status, 422, "{body}");
    }
    let trigger = ("x-faas-trigger", "amqp");
    let (source, id, kind) = (("ce-source", "s"), ("ce-id", "1"), ("ce-type", "order.placed"));
    let good = order("x", "Ada", 1);
    assert_eq!(message(&state, &[trigger, source, id, ("ce-type", "order.paid")], &good).status, 422);
    assert_eq!(message(&state, &[trigger, source, kind], &good).status, 422);
    assert_eq!(message(&state, &[trigger, source, ("ce-id", ""), kind], &good).status, 422);
    assert_eq!(message(&state, &[trigger, id, kind], &good).status, 422);
    assert!(state.data.borrow().is_empty(), "a poison message leaves nothing behind");
    state.fault.set(Some(Fault::After));
    assert_eq!(event(&state, "e-1", &good).status, 503);
    assert_eq!(message(&state, &[trigger, source, id, ("ce-type", "io.faas.amqp.message")], &good).status, 200);
}

#[test]
fn totals_are_by_customer_and_by_the_way_an_order_came() {
    let state = Memory::default();
    call(&state, "POST", "/orders", &order("a-1", "Ada", 2));
    call(&state, "POST", "/orders", &order("a-2", "Charles Babbage", 1));
    event(&state, "e-1", &order("a-1", "Ada", 4));
    let totals = get(&state, "/totals");
    let expected = json!({
        "count": 3, "revenue_cents": 3150,
        "http": { "count": 2, "revenue_cents": 1350 }, "amqp": { "count": 1, "revenue_cents": 1800 },
        "customers": 2,
        "by_customer": {
            "Ada": { "count": 2, "revenue_cents": 2700 }, "Charles Babbage": { "count": 1, "revenue_cents": 450 },
        },
    });
    assert_eq!(totals, expected);
    let one = get(&state, "/totals?customer=Charles+Babbage");
    assert_eq!(one["by_customer"], json!({ "Charles Babbage": { "count": 1, "revenue_cents": 450 } }));
    assert_eq!(one["count"], 3);
    assert_eq!(get(&state, "/totals?customer=nobody")["by_customer"], json!({}));
}

#[test]
fn values_of_others_are_counted_not_summed() {
    let state = Memory::default();
    state.data.borrow_mut().insert((Bucket::Events, "stray".into()), b"hello".to_vec());
    state.data.borrow_mut().insert((Bucket::Orders, "stray".into()), vec![0xff]);
    event(&state, "e-1", &order("a-1", "Ada", 1));
    let totals = get(&state, "/totals");
    assert_eq!((&totals["count"], &totals["unreadable"]), (&json!(1), &json!(2)));
    assert_eq!(get(&state, "/orders")["orders"], json!([]));
}

#[test]
fn only_the_largest_customers_are_listed_and_all_are_counted() {
    let state = Memory::default();
    for n in 0..1100 {
        event(&state, &format!("e-{n}"), &order("x", &format!("customer {n}"), n + 1));
    }
    let totals = get(&state, "/totals");
    assert_eq!((&totals["count"], &totals["customers"]), (&json!(1100), &json!(1100)));
    let listed = totals["by_customer"].as_object().unwrap();
    assert_eq!(listed.len(), 1000);
    assert!(listed.contains_key("customer 1099") && listed.contains_key("customer 100"));
    assert!(!listed.contains_key("customer 99"));
}

/// A stream of messages with redeliveries and failing stores: totals must be
/// those of the distinct messages that were answered with success.
#[test]
fn totals_stay_exact_through_crashes_and_redeliveries() {
    for seed in 1..=20_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let state = Memory::default();
        let mut queue: Vec<u64> = (0..300).collect();
        let mut steps = 0;
        while !queue.is_empty() {
            steps += 1;
            assert!(steps < 10_000, "seed {seed} ends");
            let at = usize::try_from(next(queue.len() as u64)).unwrap();
            let n = queue[at];
            let quantity = u32::try_from(n + 1).unwrap();
            state.fault.set([None, None, Some(Fault::Before), Some(Fault::After)][usize::try_from(next(4)).unwrap()]);
            let response = event(&state, &format!("e-{n}"), &order("x", &format!("c{}", n % 5), quantity));
            // The broker takes a message away after success only, and not even then if the acknowledgement is lost.
            if response.status == 200 && next(3) > 0 {
                queue.swap_remove(at);
            }
        }
        let totals = get(&state, "/totals");
        assert_eq!(totals["count"], 300, "seed {seed}");
        assert_eq!(totals["revenue_cents"], 450 * (1..=300_u64).sum::<u64>(), "seed {seed}");
        for customer in 0..5_u64 {
            let worth: u64 = (0..300).filter(|n| n % 5 == customer).map(|n| 450 * (n + 1)).sum();
            assert_eq!(totals["by_customer"][format!("c{customer}")]["revenue_cents"], worth, "seed {seed}");
        }
    }
}

#[test]
fn a_message_costs_one_write_and_totals_two_calls_a_page() {
    let state = Memory::default();
    event(&state, "e-0", &order("x", "Ada", 1));
    assert_eq!(state.calls.get(), 1);
    for n in 1..70 {
        event(&state, &format!("e-{n}"), &order("x", "Ada", 1));
    }
    state.calls.set(0);
    assert_eq!(get(&state, "/totals")["count"], 70);
    assert_eq!(state.calls.get(), 1 + 2 * 10, "one empty page of orders, ten of events");
}

#[test]
fn what_is_not_granted_is_named() {
    let state = Memory::default();
    state.granted.set(Some(Bucket::Orders));
    let response = event(&state, "e-1", &order("x", "Ada", 1));
    assert_eq!(response.status, 500);
    assert!(String::from_utf8(response.body).unwrap().contains("order-events"));
}

#[test]
fn the_edges_of_the_api_explain_themselves() {
    let state = Memory::default();
    assert_eq!(call(&state, "GET", "/", "").status, 200);
    let status = |method: &str, path: &str| call(&state, method, path, "").status;
    for (method, path) in [("DELETE", "/orders"), ("PUT", "/orders/a"), ("POST", "/totals"), ("POST", "/")] {
        let response = call(&state, method, path, "");
        assert_eq!(response.status, 405, "{method} {path}");
        assert_eq!(response.headers[1].0, "allow");
    }
    assert_eq!(status("GET", "/nowhere"), 404);
    assert_eq!(status("GET", "/orders/"), 404);
    assert_eq!(status("GET", "/orders/../totals"), 404);
    assert_eq!(status("GET", "/orders//orders/a"), 404);
}
