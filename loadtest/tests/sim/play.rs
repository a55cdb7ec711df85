//! The plot of a seed: lives that begin and end, and what happens in them.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use faas_gateway::amqp::queue::Message;
use faas_model::FunctionName;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, sleep_until};

use crate::change::{self, Change, Changing};
use crate::checks;
use crate::client::Client;
use crate::store::Weather;
use crate::violations;
use crate::world::{Durable, Life};

/// Steps of one seed, over all its lives.
const STEPS: u64 = 60;
/// Lives of one seed at most; the last one comes to rest.
const LIVES_MAX: u64 = 4;
const FUNCTIONS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

/// How a life ends.
enum End {
    /// Power off, after so many polls of tasks in one instant.
    Crash { at: Duration, polls: u64 },
    /// A graceful stop.
    Drain { steps: u64 },
    /// At rest.
    Rest { steps: u64 },
}

/// Plays a seed to its end; returns its log and the first invariant that did not hold.
pub(crate) fn play(seed: u64) -> (Vec<String>, Option<String>) {
    violations::install();
    let before = violations::seen();
    assert_eq!(before, 0, "an earlier seed of this thread broke an invariant");
    let world = Durable::new(seed);
    let mut former = None;
    for number in 1..=LIVES_MAX {
        let end = if number == LIVES_MAX { End::Rest { steps: STEPS / 4 } } else { end(&world) };
        let last = matches!(end, End::Rest { .. });
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            // One poll of a task at a time, so that a crash comes between any two.
            .event_interval(1)
            .build()
            .expect("a runtime");
        let ended = runtime.block_on(async {
            if let Some(ended) = former {
                world.broker.carry_over(ended);
            }
            world.log.begin_life();
            world.log.line(format_args!("life {number} begins"));
            live(&world, number, end).await;
            world.log.end_life();
            Instant::now()
        });
        former = Some(ended);
        world.broker.down();
        drop(runtime);
        world.broker.up();
        if last || world.log.first_broken().is_some() {
            break;
        }
    }
    (world.log.lines(), world.log.first_broken())
}

fn end(world: &Durable) -> End {
    match world.plot.below(10) {
        0..4 => End::Crash { at: world.plot.millis(0, 60_000), polls: world.plot.below(60) },
        4..6 => End::Crash { at: world.plot.millis(0, 3_000), polls: world.plot.below(60) },
        6..8 => End::Drain { steps: world.plot.below(STEPS / 2) },
        _ => End::Rest { steps: STEPS },
    }
}

async fn live(world: &Durable, number: u64, end: End) {
    let life = match &end {
        End::Crash { at, polls } => {
            let crash = Instant::now() + *at;
            let power_off = async {
                sleep_until(crash).await;
                for _ in 0..*polls {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                () = power_off => {}
                () = async {
                    let life = begin(world, number).await;
                    steps(world, &life, u64::MAX).await;
                } => {}
            }
            world.log.line("power off");
            return;
        }
        _ => begin(world, number).await,
    };
    match end {
        End::Drain { steps: count } => {
            steps(world, &life, count).await;
            drain(world, life).await;
        }
        End::Rest { steps: count } => {
            steps(world, &life, count).await;
            world.log.line("everything goes well from now on");
            life.stage.calm();
            life.store.set(Weather::Fine);
            world.broker.up();
            checks::at_rest(world, &life).await;
        }
        End::Crash { .. } => {}
    }
}

async fn begin(world: &Durable, number: u64) -> Life {
    let life = Life::begin(world, number).await;
    checks::after_start(world, &life).await;
    for name in FUNCTIONS {
        let function = FunctionName::in_default(name).expect("a name");
        if life.service.describe(&function).await.is_err() {
            apply(world, &life, &function, change::deploy(&world.plot, &function, world.number()));
        }
    }
    life
}

async fn drain(world: &Durable, life: Life) {
    world.log.line("drain begins");
    let grace = world.plot.millis(0, 8000);
    let Life { service, consumers, stage, open, .. } = life;
    // As the binary does: the consumers with the listeners, then the calls.
    let all = consumers.drained(grace).await;
    world.log.line(format_args!("consumers ended by themselves: {all}"));
    service.drain(grace).await;
    // The answers of cut calls are on their way to their clients.
    sleep(Duration::from_secs(30)).await;
    let (instances, running) = stage.totals();
    let left: usize = open.lock().map_or(0, |open| open.values().sum());
    world.log.line("drain ended");
    world.log.check(running == 0, format_args!("after a drain nothing runs: {running} calls do"));
    world.log.check(instances == 0, format_args!("after a drain no instance is left: {instances} are"));
    world.log.check(left == 0, format_args!("one answer per held request: {left} have none after a drain"));
}

async fn steps(world: &Durable, life: &Life, count: u64) {
    for _ in 0..count {
        sleep(gap(world)).await;
        step(world, life);
        checks::always(world, life).await;
        if world.log.first_broken().is_some() {
            return;
        }
    }
}

/// Returns the time to the next step: mostly short, at times longer than any idle time.
fn gap(world: &Durable) -> Duration {
    let plot = &world.plot;
    match plot.below(20) {
        0..4 => Duration::ZERO,
        4..13 => plot.millis(1, 60),
        13..18 => plot.millis(60, 2000),
        18 => plot.millis(2000, 9000),
        _ => plot.millis(9000, 90_000),
    }
}

fn step(world: &Durable, life: &Life) {
    let plot = &world.plot;
    let Some(name) = plot.pick(&FUNCTIONS) else { return };
    let function = FunctionName::in_default(name).expect("a name");
    match plot.below(100) {
        0..30 => request(world, life, &function),
        30..45 => (0..=plot.below(16)).for_each(|_| request(world, life, &function)),
        45..58 => (0..=plot.below(6)).for_each(|_| publish(world, name)),
        58..80 => {
            let number = world.number();
            apply(world, life, &function, change::deploy(plot, &function, number));
        }
        80..84 => apply(world, life, &function, Change::Rollback),
        84..87 => apply(world, life, &function, Change::Remove),
        87..90 => {
            world.log.line("broker down");
            world.broker.down();
        }
        90..94 => {
            world.log.line("broker up");
            world.broker.up();
        }
        94..98 => {
            let weather = [Weather::Fine, Weather::Fine, Weather::Shaky, Weather::Away];
            let weather = plot.pick(&weather).copied().unwrap_or(Weather::Fine);
            world.log.line(format_args!("store is {weather:?}"));
            life.store.set(weather);
        }
        _ => {
            world.log.line("memory is short");
            life.service.evict_idle();
        }
    }
}

fn request(world: &Durable, life: &Life, function: &FunctionName) {
    let plot = &world.plot;
    let client = Client {
        name: format!("r{}", world.number()),
        function: function.clone(),
        log: world.log.clone(),
        handler: life.handler.clone(),
        open: life.open.clone(),
        leaves: plot.one_in(4).then(|| plot.millis(0, 1500)),
        upload: plot.one_in(6).then(|| (plot.below(4), plot.millis(0, 100))),
        slowness: if plot.one_in(5) { plot.millis(1, 700) } else { Duration::ZERO },
        models: world.models.clone(),
    };
    life.stage.touch(function);
    world.log.line(format_args!("{} asks {function}", client.name));
    tokio::spawn(client.run());
}

fn publish(world: &Durable, queue: &str) {
    if queue == "alpha" {
        return;
    }
    let name = format!("m{}", world.number());
    world.log.line(format_args!("{name} is published to {queue}"));
    world.ledger.pages().published.insert(name.clone(), queue.to_owned());
    let message = Message { message_id: Some(name), body: Bytes::from_static(b"{}"), ..Message::default() };
    match world.plot.below(10) {
        0 => world.broker.publish_unreadable(queue, message, "its headers cannot be read"),
        1 => {
            let content_type = Some("application/cloudevents+json".into());
            world.broker.publish(queue, Message { content_type, ..message });
        }
        _ => world.broker.publish(queue, message),
    }
}

fn apply(world: &Durable, life: &Life, function: &FunctionName, change: Change) {
    let before: BTreeSet<_> = world.models.of(function).live.clone();
    if let Some(changing) = Changing::begin(world, life, function, change) {
        tokio::spawn(changing.run(before));
    }
}
