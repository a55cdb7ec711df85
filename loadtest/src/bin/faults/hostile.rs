//! Hostile guests beside neighbours, and the table of what came of them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use faas_loadtest::hostile::{self, Latency, Report, Settings};

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
    /// Kinds one after the other, with the neighbours' p99 beside each.
    #[arg(long)]
    apart: bool,
    /// Seconds for which the neighbours are measured alone, and beside plain busy processes.
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
        apart: arguments.apart,
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
        let beside: Vec<_> = row.beside.iter().map(|seen| format!("{:.1}", seen.p99_ms)).collect();
        let beside = row.left.map_or_else(String::new, |left| {
            format!("  neighbours' p99 {} ms, {} MiB", beside.join(", "), left.resident_bytes >> 20)
        });
        let mark = if row.broken.is_empty() { "" } else { "  BROKEN" };
        println!("{:<4} {:<34} {:>8}  {ends}{beside}{mark}", row.row, row.kind, row.worst_ms);
    }
    for n in &report.neighbours {
        println!(
            "neighbour {}: {:.0} calls/s, {} good calls beside the guests, {} errors; alone, beside busy loops, beside the guests:",
            n.name,
            n.rate,
            n.calls,
            n.errors.len()
        );
        let row = |name: &str, of: fn(&Latency) -> f64| {
            let [quiet, floor, loaded] = [&n.quiet, &n.floor, &n.loaded].map(of);
            let times = |base: f64| loaded / base.max(0.001);
            println!("  {name} {quiet:.2}, {floor:.2}, {loaded:.2} ms ({:.2}x, {:.2}x)", times(quiet), times(floor));
        };
        row("p50", |latency| latency.p50_ms);
        row("p99", |latency| latency.p99_ms);
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
