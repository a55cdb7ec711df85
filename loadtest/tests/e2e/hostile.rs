//! The short form of the hostile suite; `faas-faults hostile` is the long one.

use std::time::Duration;

use faas_loadtest::hostile::{Settings, run};

/// Every kind that takes little time is deployed and called three times beside two neighbours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_guests_end_as_promised_and_their_neighbours_notice_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let skip = ["code-compile-bomb", "code-huge-function", "code-100000-imports", "code-50000", "code-deep-blocks"];
    let settings = Settings {
        calls: 3,
        only: String::new(),
        skip: skip.map(str::to_owned).to_vec(),
        share: 0.1,
        quiet: Duration::from_secs(2),
        apart: false,
    };
    let report = run(folder.path(), &settings).await.unwrap();
    assert!(report.rows.len() >= 90, "{} kinds", report.rows.len());
    assert_eq!(report.violations(), Vec::<String>::new());
    assert!(report.neighbours.iter().all(|neighbour| neighbour.calls > 0), "{:?}", report.neighbours);
}
