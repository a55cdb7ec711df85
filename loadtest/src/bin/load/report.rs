//! A result for people.

use std::fmt::Write;

use faas_loadtest::keep_alive::{Cost, Economy};
use faas_loadtest::latency::Summary;
use faas_loadtest::outcome::Outcome;
use faas_loadtest::tally::Part;

/// Most routes that are printed; the file has them all.
const ROUTES_MAX: usize = 10;

pub(crate) fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    lines(&mut text, outcome).ok();
    text
}

fn lines(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let Outcome { scenario, target, seed, machine, sources, .. } = outcome;
    let dirty = if sources.dirty { " and changes" } else { "" };
    let debug = if sources.optimised { "" } else { " (not optimised)" };
    let commit: String = sources.commit.chars().take(12).collect();
    writeln!(text, "{scenario} against {target}, seed {seed}, commit {commit}{dirty}{debug}")?;
    writeln!(
        text,
        "{} x {}, kernel {}, load {}",
        machine.cores, machine.cpu, machine.kernel, machine.load_average_before
    )?;
    if let Some(capacity) = outcome.capacity_per_second {
        writeln!(text, "capacity {capacity:.0}/s (closed loop)")?;
    }
    writeln!(text, "{:.1} s, {:.1} good answers/s", outcome.seconds, outcome.good_per_second)?;
    let header = ["", "requests", "good", "cold", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"];
    let [name, rest @ ..] = header;
    write!(text, "{name:<24}")?;
    rest.iter().try_for_each(|h| write!(text, " {h:>9}"))?;
    writeln!(text)?;
    row(text, "all", &outcome.total)?;
    if outcome.phases.len() > 1 {
        outcome.phases.iter().try_for_each(|(name, part)| row(text, name, part))?;
    }
    if outcome.routes.len() > 1 {
        outcome.routes.iter().take(ROUTES_MAX).try_for_each(|(name, part)| row(text, name, part))?;
        let more = outcome.routes.len().saturating_sub(ROUTES_MAX);
        if more > 0 {
            writeln!(text, "({more} more in the result file)")?;
        }
    }
    for (kind, summary) in
        [("cold starts", &outcome.total.cold_latency), ("beyond the asked time", &outcome.total.added_latency)]
    {
        if summary.count > 0 {
            write!(text, "{kind:<24} {:>9} {:>9} {:>9}", summary.count, "", "")?;
            quantiles(text, summary)?;
        }
    }
    for (kind, count) in &outcome.total.errors {
        writeln!(text, "failed: {count} {kind}")?;
    }
    if let Some(server) = &outcome.server {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (before, after, peak) =
            (server.resident_bytes_before, server.resident_bytes_after, server.resident_bytes_peak);
        let (before, after, peak) = (mib(before), mib(after), mib(peak));
        let cpu = server.cpu_us_per_request;
        writeln!(text, "server: {cpu:.1} us CPU/request, RSS {before:.1} -> {after:.1} MiB, peak {peak:.1}")?;
    }
    let generator = &outcome.generator;
    let (p50, p99, max) = (generator.lag.p50_us, generator.lag.p99_us, generator.lag.max_us);
    writeln!(text, "generator: lag p50 {p50} p99 {p99} max {max} us, {:.2} of one core", generator.cpu_share)?;
    if let Some(economy) = &outcome.economy {
        compared(text, economy)?;
    }
    generator.flags.iter().try_for_each(|flag| writeln!(text, "DOUBTFUL: {flag}"))
}

fn row(text: &mut String, name: &str, part: &Part) -> std::fmt::Result {
    let name: String = name.chars().take(24).collect();
    write!(text, "{name:<24} {:>9} {:>9} {:>9}", part.requests, part.good, part.cold_starts)?;
    quantiles(text, &part.latency)
}

fn quantiles(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let Summary { p50_us, p90_us, p99_us, p999_us, max_us, .. } = summary;
    writeln!(text, " {p50_us:>9} {p90_us:>9} {p99_us:>9} {p999_us:>9} {max_us:>9}")
}

fn compared(text: &mut String, economy: &Economy) -> std::fmt::Result {
    let mut line = |name: &str, cost: &Cost| {
        writeln!(
            text,
            "{name:<28} cold {:>7.3} % ({}), {:.0} instance-s, {:.0} MiB-s",
            cost.cold_share * 100.0,
            cost.cold_starts,
            cost.instance_seconds,
            cost.instance_mib_seconds
        )
    };
    if let Some(platform) = &economy.platform {
        line("platform, measured", platform)?;
    }
    line("fixed 10 min, simulated", &economy.fixed_ten_minutes)?;
    if let Some(mib_seconds) = economy.platform_resident_mib_seconds {
        writeln!(text, "platform, resident memory: {mib_seconds:.0} MiB-s beyond that at the begin")?;
    }
    let share = economy.oracle_cold_share_at_fixed_memory * 100.0;
    let memory = economy.oracle_mib_seconds_at_fixed_cold_starts;
    writeln!(
        text,
        "oracle: {share:.3} % cold with the memory of the fixed one; {memory:.0} MiB-s with its cold starts"
    )?;
    if let Some(share) = economy.oracle_cold_share_at_platform_memory {
        writeln!(text, "oracle: {:.3} % cold with the MiB-s of the platform", share * 100.0)?;
    }
    Ok(())
}
