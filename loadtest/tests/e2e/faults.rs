//! The fault suites in short: the same program as the long runs, a few rounds
//! of each. It prints what it counted and ends with 1 when a promise broke.

use std::path::PathBuf;

use faas_loadtest::platform::binary;
use tokio::process::Command;

async fn suite(arguments: &[&str]) {
    let program = binary().unwrap().with_file_name("faas-faults");
    let output = Command::new(program).args(arguments).output().await.unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?} ended with {}:\n{said}\n{error}", output.status);
}

#[tokio::test]
async fn no_request_fails_at_the_moment_of_scaling_to_zero() {
    suite(&["scale", "--cycles", "40", "--requests", "800"]).await;
}

#[tokio::test]
async fn stops_under_load_cut_no_request_and_lose_no_message() {
    suite(&["drain", "--rounds", "2"]).await;
}

#[tokio::test]
async fn restarts_with_passed_sockets_fail_no_request_at_all() {
    suite(&["drain", "--rounds", "3", "--sockets"]).await;
}

#[tokio::test]
async fn a_change_cut_off_at_any_step_is_made_or_not_made() {
    // Once through every step.
    suite(&["failpoints", "--rounds", "35"]).await;
}

#[tokio::test]
async fn everything_at_once_survives_kills_at_random_times() {
    suite(&["chaos", "--rounds", "3"]).await;
}

#[tokio::test]
async fn traps_and_failing_starts_are_told_and_bounded() {
    suite(&["crashes", "--calls", "400"]).await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    suite(&["disk", "--rounds", "3"]).await;
}

#[tokio::test]
async fn jumps_of_the_wall_clock_break_no_promise() {
    suite(&["clock", "--rounds", "1"]).await;
}

#[test]
fn the_product_has_no_step_to_die_at() {
    let has_steps = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        ["blob-folder-synced", "cwasm-synced", "catalogue-published", "faas dies at step"]
            .map(|text| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    let product = binary().unwrap();
    let special = product.with_file_name("faas-failpoints");
    assert!(special.exists(), "{} is missing: run deploy/failpoints.sh", special.display());
    assert_eq!(has_steps(product), [false; 4]);
    assert_eq!(has_steps(special), [true; 4]);
}
