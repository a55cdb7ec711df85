//! One run of a scenario against a target, from the warm-up to the result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::azure::FIXED_KEEP_ALIVE_S;
use crate::cpu;
use crate::keep_alive::{self, Cost, Economy};
use crate::machine::{Machine, Sources};
use crate::open_loop::{self, Bounds, Report};
use crate::outcome::{FORMAT, Outcome, Server};
use crate::plan::Plan;
use crate::platform;
use crate::scenario::Scenario;
use crate::target::{self, Choice, Target};
use crate::watch::{Metrics, Seen, Watch};

/// Runs `scenario` against `target`, which was started for it as `choice` says.
///
/// # Errors
/// When the target is gone, or the scenario asks for more than a run may have.
pub async fn run(scenario: &Scenario, choice: &Choice, target: &Target) -> Result<Outcome> {
    let machine = Machine::read()?;
    let bounds = Bounds {
        timeout: scenario.timeout,
        outstanding_max: scenario.outstanding_max,
        connections_ready: scenario.connections_ready,
    };
    let capacity = target::capacity(scenario, &target.address).await?;
    if let Some(warmup) = Plan::of_warmup(scenario, capacity)? {
        open_loop::run(Arc::new(warmup), &target.address, bounds).await?;
    }
    let plan = Arc::new(Plan::of(scenario, capacity)?);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let before = target.pid.map(usage).transpose()?;
    let metrics = match &target.platform {
        Some(platform) if scenario.azure2019.is_some() => Some(Metrics::of(platform)?),
        _ => None,
    };
    let watch = target.pid.map(|pid| Watch::begin(pid, metrics));
    let report = open_loop::run(plan.clone(), &target.address, bounds).await?;
    let seen = match watch {
        Some(watch) => Some(watch.end().await),
        None => None,
    };
    let sent = plan.shots.len() as u64 - report.generator.not_sent;
    let server = match (target.pid, before, &seen) {
        (Some(pid), Some(before), Some(seen)) => Some(server(before, usage(pid)?, sent, seen)),
        _ => None,
    };
    let economy = economy(scenario, &report, seen.as_ref())?;
    let seconds = report.elapsed.as_secs_f64();
    let total = report.tallies.total();
    Ok(Outcome {
        format: FORMAT,
        scenario: scenario.name.clone(),
        scenario_digest: scenario.digest.clone(),
        plan_digest: plan.digest(),
        seed: scenario.seed,
        target: describe(choice),
        started_unix_ms: u64::try_from(started.as_millis())?,
        machine,
        sources: Sources::read(program(choice).as_deref()),
        seconds,
        good_per_second: total.good as f64 / seconds,
        capacity_per_second: capacity,
        phases: report.tallies.phases(&plan),
        routes: report.tallies.routes(&plan),
        generator: report.generator,
        total,
        server,
        economy,
    })
}

fn usage(pid: u32) -> Result<(Duration, u64)> {
    let gone = || format!("the server, process {pid}, is gone");
    Ok((cpu::time_of(pid).with_context(gone)?, cpu::resident_bytes(pid).with_context(gone)?))
}

fn server(before: (Duration, u64), after: (Duration, u64), sent: u64, seen: &Seen) -> Server {
    Server {
        cpu_us_per_request: after.0.saturating_sub(before.0).as_secs_f64() * 1e6 / sent.max(1) as f64,
        resident_bytes_before: before.1,
        resident_bytes_after: after.1,
        resident_bytes_peak: seen.resident_bytes_peak.max(after.1),
    }
}

fn economy(scenario: &Scenario, report: &Report, seen: Option<&Seen>) -> Result<Option<Economy>> {
    let Some(shape) = &scenario.azure2019 else { return Ok(None) };
    let population = shape.population(scenario.seed)?;
    let lives = population.lives();
    let memory: BTreeMap<&str, f64> = population.functions.iter().map(|f| (f.name.as_str(), f.memory_mib)).collect();
    let platform = seen.filter(|s| !s.instance_seconds.is_empty()).map(|seen| {
        let cold_starts = report.tallies.total().cold_starts;
        let mut cost = Cost { cold_starts, cold_share: keep_alive::cold_share(&lives, cold_starts), ..Cost::default() };
        for (function, seconds) in &seen.instance_seconds {
            let memory = memory.get(function.as_str());
            let memory =
                memory.with_context(|| format!("the platform tells of function {function:?}, which is none"))?;
            cost.instance_seconds += seconds;
            cost.instance_mib_seconds += seconds * memory;
        }
        anyhow::Ok(cost)
    });
    let platform = platform.transpose()?;
    let keep_s = FIXED_KEEP_ALIVE_S / shape.speedup;
    let mut economy = keep_alive::economy(&lives, keep_s, shape.seconds.as_secs_f64(), platform);
    economy.platform_resident_mib_seconds = seen.map(|s| s.resident_mib_seconds);
    Ok(Some(economy))
}

fn program(choice: &Choice) -> Option<PathBuf> {
    match choice {
        Choice::Faas(program, _) => program.clone().or_else(|| platform::binary().ok()),
        Choice::Wasmtime(program, _) => Some(program.clone()),
        Choice::Url(_) => None,
    }
}

fn describe(choice: &Choice) -> String {
    let with = |name: &str, flags: &[String]| [&[name.to_owned()], flags].concat().join(" ");
    match choice {
        Choice::Faas(_, flags) => with("faas up", flags),
        Choice::Wasmtime(_, flags) => with("wasmtime serve", flags),
        Choice::Url(url) => url.clone(),
    }
}
