//! Targets in turns, or result files side by side.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use faas_loadtest::outcome::Outcome;
use faas_loadtest::ratios;
use faas_loadtest::runner;
use faas_loadtest::target::{Choice, Target};

use crate::Changes;

/// What to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArguments {
    /// Two or more result files; or, with `--target`, one scenario.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// `NAME=TARGET`, as `run --target` takes it; two or more, the first is what the others are compared with.
    #[arg(long = "target", value_name = "NAME=TARGET")]
    targets: Vec<String>,
    /// Rounds; in each, every target runs once, the order rotates.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Keep all results in this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    changes: Changes,
}

pub(crate) async fn run(arguments: &CompareArguments) -> Result<()> {
    if arguments.targets.is_empty() {
        return files(&arguments.files);
    }
    let [scenario] = arguments.files.as_slice() else {
        anyhow::bail!("`compare --target` runs one scenario, {} are given", arguments.files.len());
    };
    ensure!(arguments.targets.len() >= 2, "a comparison needs two --target");
    ensure!(arguments.rounds >= 1, "--rounds is 0");
    let scenario = crate::scenario(scenario, &arguments.changes)?;
    let mut names = Vec::new();
    let mut started = Vec::new();
    for text in &arguments.targets {
        let (name, choice) = text.split_once('=').with_context(|| format!("--target {text:?} is not NAME=TARGET"))?;
        let choice = Choice::parse(choice)?;
        let target = Target::start(&choice, &scenario).await.with_context(|| format!("target {name}"))?;
        names.push(name.to_owned());
        started.push((choice, target));
    }
    let mut runs: Vec<Vec<Outcome>> = vec![Vec::new(); names.len()];
    for round in 0..arguments.rounds {
        for place in 0..names.len() {
            let number = turn(round, place, names.len());
            let (Some((choice, target)), Some(name), Some(outcomes)) =
                (started.get(number), names.get(number), runs.get_mut(number))
            else {
                continue;
            };
            let outcome = runner::run(&scenario, choice, target).await.with_context(|| format!("target {name}"))?;
            if let Some(folder) = &arguments.out {
                std::fs::create_dir_all(folder)?;
                outcome.write(&folder.join(format!("{}-{name}-{round}.json", scenario.name)))?;
            }
            outcomes.push(outcome);
        }
    }
    println!("{}, {} rounds, median (range), ratio to {}", scenario.name, arguments.rounds, names.join(", "));
    print!("{}", ratios::table(&names, &runs));
    Ok(())
}

/// Returns which target is at `place` of a round: each round begins with the next one.
fn turn(round: usize, place: usize, targets: usize) -> usize {
    (round + place) % targets
}

fn files(files: &[PathBuf]) -> Result<()> {
    ensure!(files.len() >= 2, "a comparison needs two result files, or --target twice");
    let outcomes = files.iter().map(|f| Outcome::read(f).map(|o| vec![o])).collect::<Result<Vec<_>>>()?;
    let name = |path: &PathBuf| Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<_> = files.iter().map(name).collect();
    print!("{}", ratios::table(&names, &outcomes));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_runs_once_a_round_and_begins_in_turn() {
        let order = |round| (0..3).map(|place| super::turn(round, place, 3)).collect::<Vec<_>>();
        assert_eq!([order(0), order(1), order(2)], [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }
}
