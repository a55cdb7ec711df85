//! `faas-load` itself: a short scenario against the real binary, and how it refuses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use faas_loadtest::outcome::Outcome;

const SCENARIO: &str = r#"
name = "short"
about = "a test"
warmup = "200ms"
[[function]]
name = "hello"
copies = 3
[[request]]
function = "hello"
path = "/?name=Ada"
expect = { status = 200, bytes = 12 }
[[phase]]
name = "steady"
duration = "1s"
arrivals = { kind = "poisson", rate = 50 }
[[phase]]
name = "burst"
duration = "500ms"
arrivals = { kind = "burst", count = 50 }
"#;

fn load(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_faas-load")).args(arguments).current_dir(folder).output().unwrap()
}

#[test]
fn a_scenario_runs_against_the_real_platform_and_its_results_compare() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("short.toml"), SCENARIO).unwrap();
    let run = |out: &str| {
        let output = load(folder.path(), &["run", "short.toml", "--out", out]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        (Outcome::read(&folder.path().join(out)).unwrap(), text)
    };
    let ((first, text), (second, _)) = (run("a.json"), run("b.json"));
    assert_eq!(first.failed(), 0, "{text}");
    assert_eq!(first.plan_digest, second.plan_digest, "a seed gives one plan");
    assert_eq!((first.phases["burst"].good, first.routes.len()), (50, 3), "{text}");
    let server = first.server.unwrap();
    assert!(server.cpu_us_per_request > 0.0 && server.resident_bytes_peak > 1 << 20, "{server:?}");
    assert!(text.contains("hello-2") && text.contains("generator: lag"), "{text}");

    let compared = load(folder.path(), &["compare", "a.json", "b.json"]);
    let text = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(compared.status.success() && text.contains("p99 us") && text.contains("x ("), "{text}");
}

#[test]
fn what_cannot_be_run_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("short.toml"), SCENARIO).unwrap();
    std::fs::write(folder.path().join("odd.toml"), format!("colour = 1\n{SCENARIO}")).unwrap();
    for (arguments, told) in [
        (&["run", "nowhere"][..], "nowhere.toml"),
        (&["run", "odd.toml"], "colour"),
        (&["run", "short.toml", "--functions", "5"], "azure2019"),
        (&["run", "short.toml", "--target", "nginx"], "nginx"),
        (&["compare", "short.toml"], "two"),
        (&["compare", "short.toml", "short.toml"], "short.toml"),
        (&["compare", "short.toml", "--target", "a=faas"], "two --target"),
    ] {
        let output = load(folder.path(), arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(told), "{arguments:?}: {error}");
    }
}
