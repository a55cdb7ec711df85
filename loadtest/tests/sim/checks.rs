//! The invariants that are looked at from outside, after each step and at rest.

use std::time::Duration;

use faas_model::{FunctionName, Name};
use faas_store::Read;
use faas_store::bucket::Buckets;
use tokio::time::{Instant, sleep};

use crate::broker::name;
use crate::change::shown;
use crate::guest::bucket;
use crate::violations;
use crate::world::{Durable, Life};

/// Checks what must hold at any time.
pub(crate) async fn always(world: &Durable, life: &Life) {
    world.log.check(violations::seen() == 0, "faas_invariant_violations_total stays 0");
    for function in world.models.functions() {
        pool(world, life, &function).await;
        records(world, life, &function).await;
    }
    life.stage.check_idle(|function| life.open_requests(function) > 0 || world.models.of(function).changing);
    messages(world);
}

async fn pool(world: &Durable, life: &Life, function: &FunctionName) {
    let Ok(found) = life.service.describe(function).await else { return };
    let Some(live) = found.aliases.get(&Name::alias_live()) else { return };
    let (pool, depth) = (&live.pool, world.models.of(function).depth.max(1));
    world.log.check(
        pool.waiting <= depth,
        format_args!("waiting <= queue bound: {} calls of {function} wait, bound {depth}", pool.waiting),
    );
    let comes = pool.instances + pool.starting > 0 || pool.crash_loop;
    world.log.check(
        pool.waiting == 0 || comes,
        format_args!(
            "waiting > 0 means something runs or starts: {} calls of {function} wait for nothing",
            pool.waiting
        ),
    );
}

/// Checks that `live` is where it may be and that no revision has changed.
async fn records(world: &Durable, life: &Life, function: &FunctionName) {
    // What is in memory, which the platform answers with.
    let live = life.service.describe(function).await.ok().map(|found| found.live);
    let mut model = world.models.of(function);
    let id = live.as_ref().map(|revision| revision.id);
    if !model.changing && model.live.len() == 1 && !model.live.contains(&id) {
        let wanted: Vec<_> = model.live.iter().map(|id| shown(*id)).collect();
        world.log.broken(format_args!("live is where it was put: {function} is at {}, not {wanted:?}", shown(id)));
    }
    if let Some(revision) = live {
        let first = model.revisions.entry(revision.id).or_insert_with(|| revision.clone()).clone();
        world.log.check(first == revision, format_args!("a revision never changes: {first:?} became {revision:?}"));
    }
}

/// Checks that no message is lost.
fn messages(world: &Durable) {
    let pages = world.ledger.pages();
    for queue in ["beta", "gamma", "delta"] {
        let there: Vec<_> = world.broker.holds(queue).iter().map(name).collect();
        let dead: Vec<_> = world.broker.dead_letters(&format!("{queue}.dlx")).iter().map(name).collect();
        for (message, _) in pages.published.iter().filter(|(_, of)| *of == queue) {
            let found = pages.effects.contains(message) || there.contains(message) || dead.contains(message);
            world.log.check(found, format_args!("no message is lost: {message} of {queue}"));
        }
    }
}

/// Checks after a start that each function is where it was left, or where an unfinished change took it.
pub(crate) async fn after_start(world: &Durable, life: &Life) {
    for function in world.models.functions() {
        let live = life.service.describe(&function).await.ok().map(|found| found.live.id);
        let mut model = world.models.of(&function);
        world.log.line(format_args!("{function} is at {}", shown(live)));
        let may: Vec<_> = model.live.iter().map(|id| shown(*id)).collect();
        let holds = model.live.contains(&live);
        world.log.check(holds, format_args!("after a crash the old or the new state: {function}, one of {may:?}"));
        model.live = [live].into();
        model.changing = false;
        drop(model);
        revisions(world, life, &function).await;
    }
}

/// Checks every stored revision of a function.
async fn revisions(world: &Durable, life: &Life, function: &FunctionName) {
    let Ok(stored) = life.service.revisions(function).await else { return };
    let mut model = world.models.of(function);
    for revision in stored {
        let first = model.revisions.entry(revision.id).or_insert_with(|| revision.clone()).clone();
        world.log.check(first == revision, format_args!("a revision never changes: {first:?} became {revision:?}"));
        let bad = model.bad.contains(&revision.id);
        world.log.check(!bad, format_args!("a revision that fails its probe is not published: {function}"));
    }
}

/// Lets everything come to rest in fine weather and checks what must then be left: nothing.
pub(crate) async fn at_rest(world: &Durable, life: &Life) {
    let until = Instant::now() + Duration::from_secs(2 * 3600);
    while !is_settled(world, life) && Instant::now() < until {
        sleep(Duration::from_secs(1)).await;
    }
    sleep(Duration::from_secs(60)).await;
    always(world, life).await;
    let (log, (_, running)) = (&world.log, life.stage.totals());
    log.check(
        life.open_total() == 0,
        format_args!("each dispatch ends: {} requests are open at rest", life.open_total()),
    );
    log.check(running == 0, format_args!("at rest nothing runs: {running} calls do"));
    for function in world.models.functions() {
        let found = life.service.describe(&function).await.ok();
        let live = found.as_ref().and_then(|found| found.aliases.get(&Name::alias_live()));
        let (min, held) = live.map_or((0, 0), |live| (live.settings.scale.min, live.pool.busy + live.pool.waiting));
        let left = life.stage.instances(&function);
        log.check(
            left == min as usize,
            format_args!("at rest the minimum is left: {function} has {left} instances, minimum {min}"),
        );
        log.check(held == 0, format_args!("at rest no place is held: {held} of {function}"));
        revisions(world, life, &function).await;
        let waits = world.broker.depth(function.name.as_str());
        let consumed = found.is_some_and(|found| !found.live.spec.trigger.amqp.is_empty());
        log.check(!consumed || waits == (0, 0), format_args!("each message is settled: {waits:?} left of {function}"));
    }
    counters(world).await;
}

fn is_settled(world: &Durable, life: &Life) -> bool {
    let queues = ["beta", "gamma", "delta"].iter().all(|queue| world.broker.depth(queue) == (0, 0));
    queues && life.open_total() == 0 && life.stage.totals().1 == 0
}

/// Checks the counters that the guests kept against what was acknowledged to them.
async fn counters(world: &Durable) {
    let buckets = Buckets::new(world.memory.clone());
    let by = Instant::now() + Duration::from_secs(1);
    let mut numbers = [0_i64; 2];
    for (number, key) in numbers.iter_mut().zip(["count", "swap"]) {
        let found = buckets.get(&bucket(), key, Read::Linearizable, by).await.expect("the store itself is sound");
        let text = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        *number = text.and_then(|text| text.parse().ok()).unwrap_or_default();
    }
    let [count, swap] = numbers;
    let pages = world.ledger.pages();
    let (asked, acknowledged) = (pages.asked, pages.acknowledged);
    world.log.line(format_args!("count {count} of {acknowledged} to {asked}, swap {swap}"));
    world.log.check(
        (acknowledged..=asked).contains(&count),
        format_args!("acknowledged writes are there: count {count}, acknowledged {acknowledged}, asked {asked}"),
    );
    let last = pages.swapped.last().copied().unwrap_or_default();
    world.log.check(
        swap >= last && swap <= pages.swaps_asked,
        format_args!(
            "conditional writes are linearizable: {swap} stored, {last} acknowledged, {} asked",
            pages.swaps_asked
        ),
    );
}
