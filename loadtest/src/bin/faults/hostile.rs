//! Hostile guests beside neighbours, and the table of what came of them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use faas_loadtest::hostile::{self, Report, Settings};

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Calls of each kind.
    #[arg(long, default_value_t = 100)]
    calls: usize,
    /// Only kinds whose name contains this, or of this row.
    #[arg(long, default_value = "")]
    only: String,
    /// Share of what the machine can do that the neighbours are loaded with.
    #[arg(long, default_value_t = 0.35)]
    share: f64,
    /// Seconds for which the neighbours are measured alone.
    #[arg(long, default_value_t = 15)]
    quiet: u64,
    /// Write the report here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = Settings {
        calls: arguments.calls,
        only: arguments.only,
        skip: Vec::new(),
        share: arguments.share,
        quiet: Duration::from_secs(arguments.quiet),
    };
    let report = hostile::run(folder.path(), &settings).await?;
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    print(&report);
    let violations = report.violations();
    if !violations.is_empty() {
        bail!("{} promises broke:\n{}", violations.len(), violations.join("\n"));
    }
    Ok(())
}

fn print(report: &Report) {
    println!("{:<4} {:<34} {:>8}  ended", "row", "kind", "worst ms");
    for row in &report.rows {
        let ends: Vec<_> = row.ends.iter().map(|(end, count)| format!("{end} {count}")).collect();
        let ends = if ends.is_empty() { format!("refused: {:.110}", row.deploy) } else { ends.join(", ") };
        let mark = if row.broken.is_empty() { "" } else { "  BROKEN" };
        println!("{:<4} {:<34} {:>8}  {ends}{mark}", row.row, row.kind, row.worst_ms);
    }
    for n in &report.neighbours {
        println!(
            "neighbour {}: {:.0} calls/s, p50 {:.2} -> {:.2} ms, p99 {:.2} -> {:.2} ms ({:.2}x), {} good calls, {} errors",
            n.name,
            n.rate,
            n.quiet_p50_ms,
            n.loaded_p50_ms,
            n.quiet_p99_ms,
            n.loaded_p99_ms,
            n.loaded_p99_ms / n.quiet_p99_ms.max(0.001),
            n.calls,
            n.errors.len()
        );
    }
    let (before, after) = report.level;
    println!(
        "the process before and after: {} -> {} MiB resident, {} -> {} descriptors, {} -> {} threads",
        before.resident_bytes >> 20,
        after.resident_bytes >> 20,
        before.descriptors,
        after.descriptors,
        before.threads,
        after.threads
    );
}
