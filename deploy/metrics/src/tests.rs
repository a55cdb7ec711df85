//! What is told of functions that come, go, and are more than there are places.

use std::time::Duration;

use metrics::{Label, Level, Metadata};
use tokio::time::advance;

use super::*;

const METADATA: Metadata<'static> = Metadata::new("test", Level::INFO, None);

fn key(name: &'static str, function: &str) -> Key {
    Key::from_parts(name, vec![Label::new("function", function.to_owned())])
}

fn metrics(functions_max: u32) -> Metrics {
    Metrics::new(&Config { functions_max, ..Config::default() })
}

fn calls(metrics: &Metrics, function: &str) -> Counter {
    metrics.register_counter(&key("calls_total", function), &METADATA)
}

/// Returns the lines about calls.
fn told(metrics: &Metrics, deployed: impl Fn(&str) -> bool) -> Vec<String> {
    let text = metrics.text(deployed);
    text.lines().filter_map(|line| line.strip_prefix("calls_total{function=")).map(str::to_owned).collect()
}

fn all(_: &str) -> bool {
    true
}

#[tokio::test]
async fn the_text_is_that_of_prometheus() {
    let metrics = metrics(10);
    metrics.describe_counter("calls_total".into(), None, "Calls,\nby \\ outcome".into());
    let labels = vec![Label::new("function", "a.default"), Label::new("outcome", "say \"no\"\\\n")];
    let count = metrics.register_counter(&Key::from_parts("calls_total", labels), &METADATA);
    count.increment(3);
    metrics.register_gauge(&Key::from_name("open"), &METADATA).set(-1.5);
    let spread = metrics.register_histogram(&Key::from_name("took_seconds"), &METADATA);
    [0.0, 0.0001, 0.00011, 60.0, 60.1].into_iter().for_each(|value| spread.record(value));
    let text = metrics.text(all);
    assert!(text.starts_with("# HELP calls_total Calls,\\nby \\\\ outcome\n# TYPE calls_total counter\n"), "{text}");
    for line in [
        "calls_total{function=\"a.default\",outcome=\"say \\\"no\\\"\\\\\\n\"} 3",
        "# TYPE open gauge\nopen -1.5",
        "# TYPE took_seconds histogram\ntook_seconds_bucket{le=\"0.0001\"} 2\ntook_seconds_bucket{le=\"0.00025\"} 3",
        "took_seconds_bucket{le=\"30\"} 3\ntook_seconds_bucket{le=\"60\"} 4\ntook_seconds_bucket{le=\"+Inf\"} 5",
        "took_seconds_count 5\n",
        "faas_metrics_functions 1\n",
        "faas_metrics_functions_max 10\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(text.matches("# TYPE calls_total").count(), 1);
}

#[tokio::test]
async fn one_key_is_one_series_whoever_asks_for_it() {
    let metrics = metrics(10);
    calls(&metrics, "a").increment(1);
    let second = calls(&metrics, "a");
    second.increment(2);
    assert_eq!(told(&metrics, all), ["\"a\"} 3"]);
    second.absolute(2);
    assert_eq!(told(&metrics, all), ["\"a\"} 3"], "a counter never goes back");
}

#[tokio::test]
async fn more_functions_than_places_are_told_together_and_each_call_once() {
    let metrics = metrics(2);
    let handles = ["a", "b", "c"].map(|function| calls(&metrics, function));
    handles[0].increment(5);
    handles[2].increment(7);
    assert_eq!(told(&metrics, all), ["\"a\"} 5", "\"c\"} 7"], "as many as there are places are told by name");
    handles[1].increment(100);
    assert_eq!(told(&metrics, all), ["\"a\"} 5", "\"c\"} 7", "\"_other\"} 100"], "those that are told stay");
    handles.iter().for_each(|handle| handle.increment(1));
    assert_eq!(told(&metrics, all), ["\"a\"} 6", "\"c\"} 8", "\"_other\"} 101"]);
    assert_eq!(told(&metrics, all), ["\"a\"} 6", "\"c\"} 8", "\"_other\"} 101"], "what was moved is not moved again");
    assert!(metrics.text(all).contains("faas_metrics_functions 2\n"));
}

#[tokio::test]
async fn the_busiest_get_the_free_places() {
    let metrics = metrics(1);
    let handles = [calls(&metrics, "a"), calls(&metrics, "b")];
    handles[0].increment(10);
    handles[1].increment(11);
    // Nobody holds this one when it is looked for; what it counted is told all the same.
    calls(&metrics, "gone").increment(3);
    assert_eq!(told(&metrics, all), ["\"b\"} 11", "\"_other\"} 13"]);
}

#[tokio::test]
async fn without_places_every_function_is_other() {
    let metrics = metrics(0);
    let handles = ["a", "b"].map(|function| calls(&metrics, function));
    handles.iter().for_each(|handle| handle.increment(1));
    assert_eq!(told(&metrics, all), ["\"_other\"} 2"]);
}

#[tokio::test]
async fn a_function_that_is_removed_is_not_told_and_begins_at_zero_when_it_comes_back() {
    let metrics = metrics(10);
    let (a, b) = (calls(&metrics, "a"), calls(&metrics, "b"));
    a.increment(1);
    b.increment(2);
    assert_eq!(told(&metrics, all), ["\"a\"} 1", "\"b\"} 2"]);
    assert_eq!(told(&metrics, |function| function == "b"), ["\"b\"} 2"], "although its handle is held");
    a.increment(4);
    assert_eq!(told(&metrics, all), ["\"a\"} 4", "\"b\"} 2"]);
    drop(b);
    told(&metrics, |function| function == "a");
    assert_eq!(metrics.lock().functions(), 1, "nothing is kept of a function whose handles are gone");
    assert_eq!(told(&metrics, all), ["\"a\"} 4"]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_function_gives_its_place_away_after_its_time_and_not_before() {
    let metrics = metrics(1);
    let (first, second) = (calls(&metrics, "first"), calls(&metrics, "second"));
    first.increment(1);
    assert_eq!(told(&metrics, all), ["\"first\"} 1"]);
    let idle = Config::default().function_idle.duration();
    advance(idle - Duration::from_millis(1)).await;
    second.increment(1);
    assert_eq!(told(&metrics, all), ["\"first\"} 1", "\"_other\"} 1"]);
    advance(Duration::from_millis(1)).await;
    second.increment(1);
    assert_eq!(told(&metrics, all), ["\"second\"} 1", "\"_other\"} 1"]);
    first.increment(5);
    assert_eq!(told(&metrics, all), ["\"second\"} 1", "\"_other\"} 6"], "it counts on, among the others");
}

#[tokio::test(start_paused = true)]
async fn an_idle_function_stays_while_nobody_wants_its_place_or_it_has_an_instance() {
    let metrics = metrics(1);
    let (calls, instances) = (calls(&metrics, "first"), metrics.register_gauge(&key("instances", "first"), &METADATA));
    calls.increment(1);
    instances.increment(1.0);
    told(&metrics, all);
    let second = super::tests::calls(&metrics, "second");
    advance(Duration::from_secs(86_400)).await;
    second.increment(1);
    assert_eq!(told(&metrics, all), ["\"first\"} 1", "\"_other\"} 1"]);
    instances.decrement(1.0);
    advance(Duration::from_secs(86_400)).await;
    assert_eq!(told(&metrics, all), ["\"first\"} 1", "\"_other\"} 1"], "nobody wants it");
    second.increment(1);
    assert_eq!(told(&metrics, all), ["\"second\"} 1", "\"_other\"} 1"]);
}

#[tokio::test]
async fn levels_and_spreads_of_the_others_are_added_up() {
    let metrics = metrics(0);
    let gauges = ["a", "b"].map(|function| metrics.register_gauge(&key("instances", function), &METADATA));
    let spreads = ["a", "b"].map(|function| metrics.register_histogram(&key("group_writes", function), &METADATA));
    gauges.iter().for_each(|gauge| gauge.increment(2.0));
    spreads.iter().for_each(|spread| spread.record(3.0));
    for _ in 0..2 {
        let text = metrics.text(all);
        assert!(text.contains("instances{function=\"_other\"} 4\n"), "{text}");
        assert!(text.contains("group_writes_bucket{function=\"_other\",le=\"2\"} 0\n"), "{text}");
        assert!(text.contains("group_writes_bucket{function=\"_other\",le=\"4\"} 2\n"), "{text}");
        assert!(text.contains("group_writes_sum{function=\"_other\"} 6\n"), "{text}");
    }
    gauges.iter().for_each(|gauge| gauge.decrement(2.0));
    assert!(!metrics.text(all).contains("instances{"), "what no function has is not told");
}

#[tokio::test]
async fn what_stands_for_no_function_has_its_own_series_always() {
    let metrics = metrics(0);
    calls(&metrics, "_none").increment(1);
    assert_eq!(told(&metrics, |_| false), ["\"_none\"} 1"]);
}
