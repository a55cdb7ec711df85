//! Reads the repository itself: the dependency arrows, the length of files,
//! and that every crate says what it never knows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// No Rust file is longer, in lines.
const FILE_LINES_MAX: usize = 500;
/// The binary is wiring and CLI only, in lines.
const BINARY_LINES_MAX: usize = 3000;
/// No committed file is larger, in bytes.
const FILE_BYTES_MAX: u64 = 300 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn committed_files() -> Vec<PathBuf> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split('\0').filter(|p| !p.is_empty()).map(|p| root().join(p)).filter(|p| p.exists()).collect()
}

/// The arrows that ARCHITECTURE.md allows: lines `crate -> other, other` of its block.
fn allowed_arrows() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let lines = text.lines().filter(|l| l.starts_with("faas") && l.contains("->"));
    lines
        .map(|line| {
            let (from, to) = line.split_once("->").unwrap();
            let to = to.split(',').map(|t| t.trim().to_owned()).filter(|t| t.starts_with("faas")).collect();
            (from.trim().to_owned(), to)
        })
        .collect()
}

#[test]
fn dependencies_follow_the_arrows_of_the_architecture() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed = allowed_arrows();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), allowed.len(), "every crate has its line of arrows in ARCHITECTURE.md");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let own = allowed.get(name).unwrap_or_else(|| panic!("{name} has no line of arrows in ARCHITECTURE.md"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if other.starts_with("faas-") && !for_tests {
                assert!(own.contains(other), "{name} -> {other} is not an arrow of ARCHITECTURE.md");
            }
        }
    }
}

#[test]
fn files_are_short_enough_to_have_one_idea() {
    let mut binary_lines = 0;
    for path in committed_files() {
        let bytes = path.metadata().unwrap().len();
        assert!(bytes <= FILE_BYTES_MAX, "{} has {bytes} bytes, over {FILE_BYTES_MAX}", path.display());
        if path.extension().is_some_and(|e| e == "rs") {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines, over {FILE_LINES_MAX}", path.display());
            if path.starts_with(root().join("deploy/faas/src")) {
                binary_lines += lines;
            }
        }
    }
    assert!(binary_lines <= BINARY_LINES_MAX, "the binary has {binary_lines} lines, over {BINARY_LINES_MAX}");
}

#[test]
fn every_library_says_what_it_never_knows() {
    for path in committed_files() {
        let is_library = path.ends_with("src/lib.rs") && !path.components().any(|c| c.as_os_str() == "guests");
        let in_sample = ["hello", "orders", "thumbnail", "template"]
            .iter()
            .any(|s| path.starts_with(root().join("functions").join(s)));
        if is_library && !in_sample {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!"), "{} has no module doc", path.display());
            assert!(text.contains("**Never knows**"), "{} does not say what it never knows", path.display());
        }
    }
}

#[test]
fn the_repository_names_no_registry_host_and_no_drawer() {
    for path in committed_files() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let drawers = ["common.rs", "utils.rs", "util.rs", "helpers.rs", "misc.rs"];
        assert!(!drawers.contains(&name.as_str()), "{} is a drawer", path.display());
    }
}

#[test]
fn every_reason_has_its_line_in_the_guide() {
    let source = std::fs::read_to_string(root().join("functions/model/src/reason.rs")).unwrap();
    let guide = std::fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let table = source.split("reasons! {").nth(1).unwrap().split("\n}").next().unwrap();
    let reasons: Vec<_> = table.lines().filter_map(|l| l.split('"').nth(1)).collect();
    assert!(reasons.len() > 30, "{reasons:?}");
    for reason in reasons {
        assert!(guide.contains(&format!("`{reason}`")), "docs/errors.md does not explain {reason}");
    }
}

#[test]
fn every_test_that_the_specification_names_exists() {
    let specification = std::fs::read_to_string(root().join("SPECIFICATION.md")).unwrap();
    let sources: Vec<_> = committed_files()
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .map(|p| std::fs::read_to_string(p).unwrap())
        .collect();
    let named = specification.split('`').skip(1).step_by(2);
    for name in
        named.filter(|n| n.contains('_') && n.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()))
    {
        let is_code =
            ["invariant", "faas_", "queue_full", "cpu_limit", "bad_reply", "memory_limit", "run_timeout", "crash_loop"]
                .iter()
                .any(|p| name.contains(p));
        assert!(
            is_code || sources.iter().any(|s| s.contains(&format!("fn {name}("))),
            "SPECIFICATION.md names {name}, which is no test"
        );
    }
    for path in specification.split('`').skip(1).step_by(2).filter(|n| n.contains('/') && n.ends_with(".rs")) {
        assert!(root().join(path).exists(), "SPECIFICATION.md names {path}, which does not exist");
    }
}
