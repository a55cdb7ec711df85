//! The whole run before it begins: which request is sent when.
//!
//! Invariant: a scenario, its seed and its capacity give one plan, byte for byte.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use sha2::{Digest, Sha256};

use crate::arrivals::{ARRIVALS_MAX, Arrivals};
use crate::bytes_of::{hex, noise};
use crate::scenario::{Body, Expect, Function, Phase, Request, Scenario};

/// Everything of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What can be sent.
    pub routes: Vec<Route>,
    /// The names of the phases.
    pub phases: Vec<String>,
    /// What is sent, in order of time.
    pub shots: Vec<Shot>,
}

/// One request to one function.
#[derive(Debug, Clone)]
pub struct Route {
    /// Name in the result.
    pub label: String,
    /// Function.
    pub function: String,
    /// Method.
    pub method: http::Method,
    /// Path and query after the function's own; `{n}` and `{us}` are replaced by the shot's.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body; `{n}` is replaced when `numbered`.
    pub body: Bytes,
    /// Whether the body is a text with `{n}`.
    pub numbered: bool,
    /// What a good answer has.
    pub expect: Expect,
}

/// One request to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shot {
    /// When, after the begin.
    pub at: Duration,
    /// Which of the routes.
    pub route: u32,
    /// Which of the phases.
    pub phase: u32,
    /// How long the function is told to take, in microseconds; 0 is no such request.
    pub asked_us: u32,
}

impl Plan {
    /// Makes the plan of a scenario.
    ///
    /// # Errors
    /// When there are too many requests, a file cannot be read, or a needed capacity is missing.
    pub fn of(scenario: &Scenario, capacity: Option<f64>) -> Result<Self> {
        if let Some(shape) = &scenario.azure2019 {
            return Ok(shape.population(scenario.seed)?.plan());
        }
        let mix = Mix::of(scenario)?;
        let mut shots = Vec::new();
        let mut begin = Duration::ZERO;
        for (number, phase) in (0_u32..).zip(&scenario.phases) {
            let before = shots.len();
            mix.phase(scenario, phase, u64::from(number), capacity, &mut shots)?;
            for shot in shots.iter_mut().skip(before) {
                shot.at += begin;
                shot.phase = number;
            }
            ensure!(shots.len() <= ARRIVALS_MAX, "the plan has more than {ARRIVALS_MAX} requests");
            begin += phase.duration;
        }
        let phases = scenario.phases.iter().map(|p| p.name.clone()).collect();
        Ok(Self { routes: mix.routes, phases, shots })
    }

    /// Makes the plan of the time before the first phase, or none.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_warmup(scenario: &Scenario, capacity: Option<f64>) -> Result<Option<Self>> {
        let (Some(first), false) = (scenario.phases.first(), scenario.warmup.is_zero()) else { return Ok(None) };
        let mix = Mix::of(scenario)?;
        let mut shots = Vec::new();
        let phase = Phase { duration: scenario.warmup, ..first.clone() };
        mix.phase(scenario, &phase, u64::MAX, capacity, &mut shots)?;
        shots.retain(|s| s.at < scenario.warmup);
        Ok(Some(Self { routes: mix.routes, phases: vec!["warmup".into()], shots }))
    }

    /// Returns a digest of what is sent when.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for route in &self.routes {
            hash.update(format!("{} {} {}\n", route.label, route.method, route.path));
        }
        for shot in &self.shots {
            hash.update(shot.at.as_nanos().to_le_bytes());
            hash.update([shot.route.to_le_bytes(), shot.phase.to_le_bytes(), shot.asked_us.to_le_bytes()].concat());
        }
        hex(&hash.finalize())
    }
}

/// Returns the names of a function's copies.
#[must_use]
pub fn copies(function: &Function) -> Vec<String> {
    match function.copies {
        1 => vec![function.name.clone()],
        many => (0..many).map(|n| format!("{}-{n}", function.name)).collect(),
    }
}

/// The request mix: for each kind of request its weight and the routes of its copies.
struct Mix {
    routes: Vec<Route>,
    kinds: Vec<Kind>,
}

struct Kind {
    name: String,
    /// Sum of the weights up to and with this one.
    weights: f64,
    first: u32,
    copies: u32,
}

impl Mix {
    fn of(scenario: &Scenario) -> Result<Self> {
        let mut mix = Self { routes: Vec::new(), kinds: Vec::new() };
        let mut weights = 0.0;
        for request in &scenario.requests {
            let function = scenario.functions.iter().find(|f| f.name == request.function);
            let names = function.map_or_else(|| vec![request.function.clone()], copies);
            weights += request.weight;
            mix.kinds.push(Kind {
                name: request.name.clone().unwrap_or_else(|| request.function.clone()),
                weights,
                first: u32::try_from(mix.routes.len())?,
                copies: u32::try_from(names.len())?,
            });
            let (body, numbered) = body_of(&request.body, &scenario.folder)?;
            mix.routes.extend(names.into_iter().map(|name| route(request, name, body.clone(), numbered)));
        }
        Ok(mix)
    }

    /// Adds the shots of one phase, their times after its begin.
    fn phase(
        &self,
        scenario: &Scenario,
        phase: &Phase,
        number: u64,
        capacity: Option<f64>,
        shots: &mut Vec<Shot>,
    ) -> Result<()> {
        let Some(arrivals) = &phase.arrivals else { return Ok(()) };
        // A stream of its own for each phase: a longer phase does not move the next one's times.
        let mut rng = ChaCha12Rng::seed_from_u64(scenario.seed);
        rng.set_stream(number);
        let times: Vec<(Duration, Option<u32>)> = match arrivals {
            Arrivals::Trace { file } => self.trace(&scenario.folder.join(file), phase)?,
            other => {
                let times = other.schedule(phase.duration, capacity, &mut rng);
                times.with_context(|| format!("phase {:?}", phase.name))?.into_iter().map(|t| (t, None)).collect()
            }
        };
        for (at, kind) in times {
            let route = self.choose(kind, &mut rng);
            shots.push(Shot { at, route, phase: 0, asked_us: 0 });
        }
        Ok(())
    }

    fn choose(&self, kind: Option<u32>, rng: &mut ChaCha12Rng) -> u32 {
        let total = self.kinds.last().map_or(0.0, |k| k.weights);
        let place = rng.random::<f64>() * total;
        let by_chance = || self.kinds.iter().find(|k| place < k.weights).or_else(|| self.kinds.last());
        let kind = kind.and_then(|k| self.kinds.get(k as usize)).or_else(by_chance);
        kind.map_or(0, |k| k.first + rng.random_range(0..k.copies))
    }

    fn trace(&self, file: &Path, phase: &Phase) -> Result<Vec<(Duration, Option<u32>)>> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read trace {}", file.display()))?;
        let mut times = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
            let wrong = || format!("{}:{}: {line:?} is not MILLISECONDS[,REQUEST]", file.display(), number + 1);
            let (at, name) = line.split_once(',').map_or((line, None), |(at, name)| (at, Some(name.trim())));
            let at: f64 = at.trim().parse().with_context(wrong)?;
            let at = Duration::try_from_secs_f64(at / 1000.0).with_context(wrong)?;
            let kind = match name {
                None => None,
                Some(name) => {
                    let found = self.kinds.iter().position(|k| k.name == name);
                    let found = found.with_context(|| format!("no [[request]] is called {name:?}"));
                    Some(u32::try_from(found.with_context(wrong)?)?)
                }
            };
            times.push((at, kind));
        }
        times.retain(|(at, _)| *at < phase.duration);
        times.sort_by_key(|(at, _)| *at);
        Ok(times)
    }
}

fn route(request: &Request, function: String, body: Bytes, numbered: bool) -> Route {
    let label = request.name.clone().map_or_else(|| function.clone(), |n| format!("{n} ({function})"));
    Route {
        label,
        function,
        method: request.method.parse().unwrap_or_default(),
        path: request.path.clone(),
        headers: request.headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
        body,
        numbered,
        expect: request.expect,
    }
}

fn body_of(body: &Body, folder: &Path) -> Result<(Bytes, bool)> {
    if let Some(file) = &body.file {
        let file = folder.join(file);
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read body {}", file.display()))?;
        return Ok((bytes.into(), false));
    }
    if let Some(text) = &body.text {
        return Ok((text.clone().into(), text.contains("{n}")));
    }
    Ok((noise(1, body.bytes.unwrap_or_default()).into(), false))
}

impl Route {
    /// Returns the path and query of request `number`, which asks for `asked_us`.
    #[must_use]
    pub fn path_of(&self, number: u64, asked_us: u32) -> String {
        if !self.path.contains('{') {
            return self.path.clone();
        }
        self.path.replace("{n}", &number.to_string()).replace("{us}", &asked_us.to_string())
    }

    /// Returns the body of request `number`.
    #[must_use]
    pub fn body_of(&self, number: u64) -> Bytes {
        if !self.numbered {
            return self.body.clone();
        }
        String::from_utf8_lossy(&self.body).replace("{n}", &number.to_string()).into()
    }
}

#[cfg(test)]
mod tests;
