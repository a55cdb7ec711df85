//! The faults, one after the other, in an order that the seed decides.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faas_loadtest::broker::Broker;
use faas_loadtest::cassandra::{RING, Ring};
use faas_loadtest::platform::Platform;
use http::Method;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::book::RECOVERY;
use super::loads::Shared;
use super::sides::{Asked, Caller, Listener, Sent};

/// How long a fault of nodes or of the broker lasts.
const LASTS_MS: std::ops::Range<u64> = 4_000..12_000;
/// Longest wait until state works again, before the suite gives up: far over the bound that is judged.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks whether the loads have got far enough for the next fault.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `kill -9` of so many nodes, and their start.
    KillNodes(usize),
    /// SIGSTOP of so many nodes, and SIGCONT.
    HoldNodes(usize),
    /// `kill -9` of a process, and its start.
    KillSide,
    /// SIGTERM of a process, and its start.
    EndSide,
    /// `kill -9` of the broker, and its start.
    KillBroker,
}

const ONE_NODE: [Fault; 5] =
    [Fault::KillNodes(1), Fault::HoldNodes(1), Fault::KillSide, Fault::EndSide, Fault::KillBroker];
const TWO_NODES: [Fault; 5] =
    [Fault::KillNodes(2), Fault::HoldNodes(2), Fault::KillSide, Fault::EndSide, Fault::KillBroker];

/// Returns `count` faults: each kind in turn, in shuffled order, of two nodes in the second half.
fn plan(count: usize, random: &mut ChaCha8Rng) -> Vec<Fault> {
    let mut plan = Vec::new();
    while plan.len() < count {
        let mut round = if plan.len() * 2 < count { ONE_NODE } else { TWO_NODES };
        round.shuffle(random);
        plan.extend(round);
    }
    plan.truncate(count);
    plan
}

/// What faults are made to.
pub(crate) struct House {
    pub(crate) ring: Arc<Ring>,
    pub(crate) broker: Broker,
    pub(crate) platforms: [Option<Platform>; 2],
}

impl House {
    /// Makes every fault, each when the loads have got far enough.
    pub(crate) async fn make_all(&mut self, shared: &Arc<Shared>) -> Result<()> {
        let arguments = &shared.arguments;
        let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
        let plan = plan(arguments.faults, &mut random);
        let slots = arguments.histories.div_ceil(shared.lanes());
        for (n, fault) in plan.into_iter().enumerate() {
            while shared.progress() * (arguments.faults as f64) < n as f64 + 0.5 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            shared.slot.store(n * slots / arguments.faults, Ordering::SeqCst);
            let (begun, failed) = (shared.book.seconds(), shared.book.failed());
            let name = self.make(fault, shared, &mut random).await.with_context(|| format!("fault {n}, {fault:?}"))?;
            let lasted = shared.book.seconds() - begun;
            let recovery = recover(shared, n as u64).await?;
            shared.book.recovered(&format!("fault {n}, {name}"), recovery);
            println!(
                "{begun:>7.1} s  {name}, over after {lasted:.1} s; state worked again after {:.1} s; {} requests failed; {} writes, {} requests, {} messages so far",
                recovery.as_secs_f64(),
                shared.book.failed() - failed,
                shared.writes.load(Ordering::SeqCst),
                shared.requests.load(Ordering::SeqCst),
                shared.published.load(Ordering::SeqCst),
            );
        }
        Ok(())
    }

    async fn make(&mut self, fault: Fault, shared: &Shared, random: &mut ChaCha8Rng) -> Result<String> {
        let lasts = Duration::from_millis(random.random_range(LASTS_MS));
        let (node, side) = (random.random_range(0..RING), random.random_range(0..2));
        let of_store = matches!(fault, Fault::KillNodes(_) | Fault::HoldNodes(_));
        shared.book.fault(of_store);
        let name = match fault {
            Fault::KillNodes(count) => {
                self.nodes(node, count, "kill").await?;
                tokio::time::sleep(lasts).await;
                self.nodes(node, count, "start").await?;
                // On a busy machine a node may give up to find the others: then it is started again, as in production.
                if self.nodes(node, count, "wait").await.is_err() {
                    self.nodes(node, count, "start").await?;
                    self.nodes(node, count, "wait").await?;
                }
                let ring = self.ring.clone();
                tokio::task::spawn_blocking(move || ring.wait_whole()).await??;
                format!("{count} nodes of Cassandra from {node} on killed and started")
            }
            Fault::HoldNodes(count) => {
                self.nodes(node, count, "pause").await?;
                tokio::time::sleep(lasts).await;
                self.nodes(node, count, "resume").await?;
                format!("{count} nodes of Cassandra from {node} on held still")
            }
            Fault::KillSide => {
                self.stop(side, shared, true).await?;
                format!("process {side} killed and started")
            }
            Fault::EndSide => {
                self.stop(side, shared, false).await?;
                format!("process {side} ended and started")
            }
            Fault::KillBroker => {
                self.broker.kill().await?;
                // On a busy machine a start can take longer than the script waits.
                if self.broker.restart().await.is_err() {
                    self.broker.restart().await?;
                }
                "broker killed and started".to_owned()
            }
        };
        shared.book.fault_over();
        Ok(name)
    }

    /// Does something to nodes, at the same time.
    async fn nodes(&self, first: usize, count: usize, verb: &'static str) -> Result<()> {
        let run = |at| {
            let ring = self.ring.clone();
            tokio::task::spawn_blocking(move || ring.node(at).run(verb))
        };
        for done in (first..first + count).map(run).collect::<Vec<_>>() {
            done.await??;
        }
        Ok(())
    }

    async fn stop(&mut self, at: usize, shared: &Shared, kill: bool) -> Result<()> {
        let side = shared.sides.side(at);
        let place = self.platforms.get_mut(at % 2).context("there are two processes")?;
        let mut platform = place.take().context("the process does not run")?;
        if kill {
            side.kills.fetch_add(1, Ordering::SeqCst);
            side.down.store(true, Ordering::SeqCst);
            platform.kill().await?;
        } else {
            side.ending.store(true, Ordering::SeqCst);
            let code = platform.terminate().await?;
            ensure!(code == Some(0), "SIGTERM ended with {code:?}: {}", platform.log_tail());
        }
        *place = Some(platform.start_again().await?);
        side.down.store(false, Ordering::SeqCst);
        side.ending.store(false, Ordering::SeqCst);
        Ok(())
    }
}

/// Waits until a write through each process is acknowledged; returns how long that took.
async fn recover(shared: &Arc<Shared>, n: u64) -> Result<Duration> {
    let begun = Instant::now();
    let mut caller = Caller::new(shared.sides.clone(), Listener::State, n);
    for side in 0..2 {
        loop {
            let asked = Asked {
                method: Method::PUT,
                target: "/kv/probe/state".into(),
                headers: Vec::new(),
                body: begun.elapsed().as_millis().to_string(),
            };
            // A refusal is judged where the loads meet it; here only the first success counts.
            let sent = caller.ask_from(side, &asked).await;
            if matches!(&sent, (at, Sent::Answered(answer)) if *at == side && answer.status == 204) {
                break;
            }
            ensure!(begun.elapsed() < RECOVERY_PATIENCE, "state does not work again: {sent:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    let took = begun.elapsed();
    // The next fault comes when this one is over for good.
    tokio::time::sleep(RECOVERY.saturating_sub(took)).await;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_every_kind_two_nodes_in_its_second_half_and_is_the_same_for_a_seed() {
        let made = |seed| plan(20, &mut ChaCha8Rng::seed_from_u64(seed));
        let one = made(1);
        assert!(one == made(1) && one != made(2));
        let two_nodes = |fault: &Fault| matches!(fault, Fault::KillNodes(2) | Fault::HoldNodes(2));
        assert_eq!(one.iter().filter(|fault| two_nodes(fault)).count(), 4);
        assert!(!one[..10].iter().any(two_nodes));
        for kind in ONE_NODE.iter().chain(&TWO_NODES) {
            assert!(one.contains(kind), "{kind:?}");
        }
        assert_eq!(plan(3, &mut ChaCha8Rng::seed_from_u64(1)).len(), 3);
    }
}
