//! What a scenario may say, and how it is refused.

use super::*;
use crate::arrivals::Rate;

const SMALL: &str = r#"
name = "small"
about = "a scenario of a test"
[[function]]
name = "hello"
[[request]]
function = "hello"
[[phase]]
name = "steady"
duration = "10s"
arrivals = { kind = "poisson", rate = 50 }
"#;

fn parse(text: &str) -> Result<Scenario> {
    Scenario::parse(text, PathBuf::from("."))
}

fn refusal(text: &str) -> String {
    format!("{:#}", parse(text).unwrap_err())
}

#[test]
fn a_small_scenario_has_its_defaults() {
    let scenario = parse(SMALL).unwrap();
    assert_eq!((scenario.seed, scenario.outstanding_max, scenario.timeout), (1, 2000, Duration::from_secs(10)));
    assert_eq!(scenario.phases[0].arrivals, Some(Arrivals::Poisson { rate: Rate::PerSecond(50.0) }));
    assert_eq!((scenario.requests[0].method.as_str(), scenario.requests[0].path.as_str()), ("GET", "/"));
    assert_eq!(scenario.length(), Duration::from_secs(10));
    assert_eq!(scenario.digest.len(), 64);
    assert_ne!(parse(&SMALL.replace("50", "51")).unwrap().digest, scenario.digest);
}

#[test]
fn unknown_keys_are_errors_that_name_the_key() {
    for (from, to) in [
        ("about", "colour = 1\nabout"),
        ("[[request]]", "colour = 1\n[[request]]"),
        ("[[phase]]", "colour = 1\n[[phase]]"),
        ("rate = 50", "rate = 50, colour = 1"),
        ("[[function]]", "[target]\ncolour = 1\n[[function]]"),
        ("[[function]]", "[calibrate]\ncolour = 1\n[[function]]"),
        ("[[function]]", "[azure2019]\ncolour = 1\n[[function]]"),
        ("[[phase]]", "body = { colour = 1 }\n[[phase]]"),
        ("[[phase]]", "expect = { colour = 1 }\n[[phase]]"),
    ] {
        let text = SMALL.replacen(from, to, 1);
        assert!(refusal(&text).contains("`colour`"), "{text}: {}", refusal(&text));
    }
}

#[test]
fn wrong_values_are_errors_that_name_the_value() {
    for (from, to, told) in [
        ("\"10s\"", "\"10\"", "\"10\""),
        ("\"10s\"", "\"ten\"", "\"ten\""),
        ("rate = 50", "rate = 0", "a rate is"),
        ("rate = 50", "rate = -1.5", "a rate is"),
        ("rate = 50", "rate = \"fast\"", "a rate is"),
        ("rate = 50", "rate = \"0x\"", "a rate is"),
        ("\"poisson\"", "\"often\"", "often"),
        ("about", "outstanding_max = 0\nabout", "outstanding_max is 0"),
        ("about", "outstanding_max = 20001\nabout", "outstanding_max is 20001"),
        ("about", "connections_ready = 2001\nabout", "connections_ready is 2001"),
        ("about", "timeout = \"0s\"\nabout", "timeout is 0"),
        ("[[request]]", "copies = 0\n[[request]]", "copies of \"hello\" is 0"),
        ("function = \"hello\"", "function = \"other\"", "\"other\""),
        ("[[phase]]", "weight = 0.0\n[[phase]]", "weight"),
        ("[[phase]]", "path = \"x\"\n[[phase]]", "path \"x\""),
        ("[[phase]]", "method = \"G T\"\n[[phase]]", "method \"G T\""),
        ("[[phase]]", "body = { text = \"a\", bytes = 1 }\n[[phase]]", "more than one"),
    ] {
        let text = SMALL.replacen(from, to, 1);
        assert!(refusal(&text).contains(told), "{to}: {}", refusal(&text));
    }
    assert!(refusal("name = \"x\"\nabout = \"y\"").contains("[[request]]"));
    let mixed = format!("{SMALL}[azure2019]\nfunctions = 5\nseconds = \"1s\"\nspeedup = 60.0\n");
    assert!(refusal(&mixed).contains("[azure2019]"));
    let missing = Scenario::read(Path::new("/no/such.toml")).unwrap_err();
    assert!(format!("{missing:#}").contains("/no/such.toml"));
}

#[test]
fn times_have_units() {
    for (text, millis) in [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("3000us", 3)] {
        assert_eq!(time::parse(text), Some(Duration::from_millis(millis)));
    }
    for wrong in ["", "s", "-1s", "1.5s", "1d", "1", "99999999999999999999s", "9999999999999999999h"] {
        assert_eq!(time::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn every_kept_scenario_is_valid_and_has_the_name_of_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::read(&path).unwrap();
        assert_eq!(path.file_stem().unwrap().to_str(), Some(scenario.name.as_str()));
        // Its files are there, and what it sends can be planned.
        crate::plan::Plan::of(&scenario, Some(100.0)).unwrap();
        names.push(scenario.name);
    }
    for name in
        ["hello-steady", "orders-writes", "thumbnail", "burst-1000", "scale-to-zero-edge", "overload-3x", "azure2019"]
    {
        assert!(names.iter().any(|n| n == name), "{name} is missing");
    }
}
