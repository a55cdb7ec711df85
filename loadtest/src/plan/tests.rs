//! Plans: determinism, the mix, traces.

use std::path::PathBuf;

use super::*;

const MIX: &str = r#"
name = "mix"
about = "a test"
seed = 9
warmup = "2s"
[[function]]
name = "hello"
copies = 5
[[function]]
name = "orders"
[[request]]
function = "hello"
weight = 3
[[request]]
name = "order"
function = "orders"
method = "POST"
path = "/orders/{n}"
body = { text = "{\"id\":\"{n}\"}" }
[[phase]]
name = "steady"
duration = "20s"
arrivals = { kind = "poisson", rate = 200 }
[[phase]]
name = "quiet"
duration = "5s"
[[phase]]
name = "burst"
duration = "1s"
arrivals = { kind = "burst", count = 100 }
"#;

fn scenario(text: &str) -> Scenario {
    Scenario::parse(text, PathBuf::from(".")).unwrap()
}

#[test]
fn a_scenario_and_a_seed_give_one_plan() {
    let digest = |text: &str| Plan::of(&scenario(text), None).unwrap().digest();
    assert_eq!(digest(MIX), digest(MIX));
    assert_ne!(digest(MIX), digest(&MIX.replace("seed = 9", "seed = 10")));
    // The generator of random numbers is part of the promise: a result file can be run again.
    let known = "6113a9f277514e23";
    assert!(digest(MIX).starts_with(known), "the plan became {}", digest(MIX));
}

#[test]
fn phases_follow_each_other_and_a_longer_one_moves_no_other_draw() {
    let plan = Plan::of(&scenario(MIX), None).unwrap();
    assert!(plan.shots.is_sorted_by_key(|s| s.at));
    let burst: Vec<_> = plan.shots.iter().filter(|s| s.phase == 2).copied().collect();
    assert!(burst.len() == 100 && burst.iter().all(|s| s.at == Duration::from_secs(25)), "{:?}", burst.first());
    assert!(plan.shots.iter().all(|s| s.phase != 1));
    let longer = Plan::of(&scenario(&MIX.replace("20s", "30s")), None).unwrap();
    let routes = |shots: &[Shot]| shots.iter().filter(|s| s.phase == 2).map(|s| s.route).collect::<Vec<_>>();
    assert_eq!(routes(&plan.shots), routes(&longer.shots));
}

#[test]
fn the_mix_follows_the_weights_and_copies_are_alike() {
    let plan = Plan::of(&scenario(MIX), None).unwrap();
    let labels: Vec<_> = plan.routes.iter().map(|r| r.label.as_str()).collect();
    assert_eq!(labels, ["hello-0", "hello-1", "hello-2", "hello-3", "hello-4", "order (orders)"]);
    let share = |route| plan.shots.iter().filter(|s| s.route == route).count() as f64 / plan.shots.len() as f64;
    assert!((share(5) - 0.25).abs() < 0.03, "{}", share(5));
    for copy in 0..5 {
        assert!((share(copy) - 0.15).abs() < 0.03, "{copy}: {}", share(copy));
    }
    let order = &plan.routes[5];
    assert_eq!((order.path_of(7, 0).as_str(), &order.body_of(7)[..]), ("/orders/7", &b"{\"id\":\"7\"}"[..]));
}

#[test]
fn a_warm_up_sends_as_the_first_phase_for_its_own_time() {
    let plan = Plan::of_warmup(&scenario(MIX), None).unwrap().unwrap();
    assert!(plan.shots.iter().all(|s| s.at < Duration::from_secs(2)));
    assert!((300..500).contains(&plan.shots.len()), "{}", plan.shots.len());
    assert!(Plan::of_warmup(&scenario(&MIX.replace("warmup = \"2s\"", "")), None).unwrap().is_none());
}

#[test]
fn a_trace_file_gives_times_and_requests_or_says_which_line_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let text = MIX.replace("{ kind = \"poisson\", rate = 200 }", "{ kind = \"trace\", file = \"times.csv\" }");
    let plan = |trace: &str| {
        std::fs::write(folder.path().join("times.csv"), trace).unwrap();
        Plan::of(&Scenario::parse(&text, folder.path().to_owned()).unwrap(), None)
    };
    let shots = plan("# milliseconds\n100.5, order\n7\n\n99999999\n").unwrap().shots;
    let first: Vec<_> = shots.iter().filter(|s| s.phase == 0).map(|s| s.at).collect();
    assert_eq!(first, [Duration::from_millis(7), Duration::from_micros(100_500)], "sorted, and cut at the phase's end");
    assert_eq!(shots[1].route, 5);
    for (trace, told) in [("1\nx\n", "times.csv:2"), ("-1\n", "times.csv:1"), ("1,nobody\n", "\"nobody\"")] {
        let error = format!("{:#}", plan(trace).unwrap_err());
        assert!(error.contains(told), "{trace:?}: {error}");
    }
    std::fs::remove_file(folder.path().join("times.csv")).unwrap();
    let error = Plan::of(&Scenario::parse(&text, folder.path().to_owned()).unwrap(), None).unwrap_err();
    assert!(format!("{error:#}").contains("times.csv"));
}
