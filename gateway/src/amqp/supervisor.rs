//! Keeps the consumers that the catalogue asks for, no more and no fewer.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use faas_invoke::{CatalogueWatch, Dispatch};
use faas_model::manifest::{AmqpTrigger, Retry};
use faas_model::{AmqpBinding, Catalogue, Name};
use metrics::gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::attempt::Tries;
use super::backoff::{Backoff, mixed};
use super::config::Config;
use super::consumer::Consumer;
use super::convert::Source;
use super::meters::{self, Meters};
use super::queue::Queue;
use super::rabbit::RabbitQueue;
use super::status::{ConsumerId, State, StatusBoard};

/// A broker and how soon it is tried again.
#[derive(Debug, Clone)]
pub struct Link {
    /// The broker.
    pub queue: Arc<dyn Queue>,
    /// First pause before a lost queue is opened again.
    pub reconnect_min: Duration,
    /// Longest of these pauses.
    pub reconnect_max: Duration,
    /// What the jitter of pauses is drawn from: random, but for a simulation.
    pub jitter_seed: u64,
}

/// The running consumers.
#[derive(Debug)]
pub struct Consumers {
    board: StatusBoard,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts a consumer for each queue that a live revision names, now and whenever the catalogue changes.
///
/// Must be called on a tokio runtime. Brokers that are down are waited for.
pub fn start(
    config: Config,
    dispatch: Arc<dyn Dispatch>,
    catalogue: CatalogueWatch,
    stop: CancellationToken,
) -> Consumers {
    let link = |(name, broker): (Name, super::Broker)| {
        let (reconnect_min, reconnect_max) = (broker.reconnect_min.duration(), broker.reconnect_max.duration());
        let queue = Arc::new(RabbitQueue::new(name.clone(), broker));
        let (jitter_seed, _) = Uuid::new_v4().as_u64_pair();
        (name, Link { queue, reconnect_min, reconnect_max, jitter_seed })
    };
    start_on(config.brokers.into_iter().map(link).collect(), dispatch, catalogue, stop)
}

/// As [`start`], on brokers of any form.
pub fn start_on(
    brokers: BTreeMap<Name, Link>,
    dispatch: Arc<dyn Dispatch>,
    catalogue: CatalogueWatch,
    stop: CancellationToken,
) -> Consumers {
    meters::describe();
    let (board, stop) = (StatusBoard::default(), stop.child_token());
    let supervisor = Supervisor {
        brokers,
        dispatch,
        board: board.clone(),
        stop: stop.clone(),
        running: BTreeMap::new(),
        slots: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    Consumers { board, stop, task: tokio::spawn(supervisor.run(catalogue)) }
}

impl Consumers {
    /// Returns what every consumer does; a cheap handle to keep.
    #[must_use]
    pub fn status(&self) -> StatusBoard {
        self.board.clone()
    }

    /// Stops taking messages, waits at most `grace` for the calls under way and
    /// their settlement, then cuts what is left; that goes back to its queue.
    ///
    /// Returns whether everything ended by itself.
    pub async fn drained(mut self, grace: Duration) -> bool {
        self.stop.cancel();
        let ended = timeout(grace, &mut self.task).await.is_ok();
        if !ended {
            warn!("message consumers did not end in time: their messages go back to the queues");
            self.task.abort();
        }
        ended
    }
}

impl Drop for Consumers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a consumer depends on: it is replaced only when this changes.
#[derive(Debug, Clone, PartialEq)]
struct Terms {
    trigger: AmqpTrigger,
    policy: Retry,
    request_bytes: u64,
}

impl Terms {
    fn of(binding: &AmqpBinding) -> Self {
        let spec = &binding.live.spec;
        let (trigger, policy) = (binding.trigger.clone(), spec.retry.clone());
        Self { trigger, policy, request_bytes: spec.limits.request_bytes.0 }
    }
}

struct Supervisor {
    brokers: BTreeMap<Name, Link>,
    dispatch: Arc<dyn Dispatch>,
    board: StatusBoard,
    stop: CancellationToken,
    running: BTreeMap<ConsumerId, (Terms, CancellationToken)>,
    /// Places for calls, with their number: a consumer and the one it replaces have the same ones.
    slots: BTreeMap<ConsumerId, (u16, Weak<Semaphore>)>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    async fn run(mut self, mut catalogue: CatalogueWatch) {
        loop {
            let now = catalogue.borrow_and_update().clone();
            self.reconcile(&now);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                changed = catalogue.changed() => if changed.is_err() {
                    self.stop.cancelled().await;
                    break;
                },
            }
            while self.tasks.try_join_next().is_some() {}
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn reconcile(&mut self, catalogue: &Catalogue) {
        let mut wanted: BTreeMap<ConsumerId, Terms> = BTreeMap::new();
        for binding in catalogue.amqp_bindings() {
            let (function, broker) = (binding.function.clone(), binding.trigger.broker.clone());
            let id = ConsumerId { function, broker, queue: binding.trigger.queue.clone() };
            wanted.entry(id).or_insert_with(|| Terms::of(&binding));
        }
        self.running.retain(|id, (terms, stop)| {
            let stays = wanted.get(id) == Some(terms);
            if !stays {
                info!(function = %id.function, broker = %id.broker, queue = id.queue, "queue consumer stops");
                stop.cancel();
            }
            stays
        });
        self.board.retain(|id| wanted.contains_key(id));
        let mut unknown = 0_u32;
        for (id, terms) in wanted {
            match self.brokers.get(&id.broker).cloned() {
                Some(_) if self.running.contains_key(&id) => {}
                Some(link) => self.add(id, terms, &link),
                None => {
                    unknown += 1;
                    if self.board.set(&id, State::UnknownBroker) {
                        let ConsumerId { function, broker, queue } = &id;
                        warn!(%function, %broker, queue, "trigger names a broker that is not configured");
                    }
                }
            }
        }
        gauge!("faas_amqp_unknown_brokers").set(f64::from(unknown));
    }

    fn add(&mut self, id: ConsumerId, terms: Terms, link: &Link) {
        let stop = self.stop.child_token();
        let source = Source {
            function: id.function.clone(),
            broker: id.broker.to_string(),
            queue: id.queue.clone(),
            request_bytes: terms.request_bytes,
        };
        let jitter_seed = mixed(link.jitter_seed, &id);
        let consumer = Consumer {
            meters: Meters::of(&id.function),
            id: id.clone(),
            slots: self.slots(&id, terms.trigger.prefetch),
            trigger: terms.trigger.clone(),
            policy: terms.policy.clone(),
            source,
            dispatch: self.dispatch.clone(),
            board: self.board.clone(),
            tries: Tries::default(),
            jitter_seed,
            stop: stop.clone(),
        };
        let backoff = Backoff::new(link.reconnect_min, link.reconnect_max, jitter_seed);
        self.tasks.spawn(Arc::new(consumer).run(link.queue.clone(), backoff));
        self.running.insert(id, (terms, stop));
    }

    /// Returns the places of a consumer; calls of the one before it still hold theirs.
    fn slots(&mut self, id: &ConsumerId, prefetch: u16) -> Arc<Semaphore> {
        self.slots.retain(|_, (_, slots)| slots.strong_count() > 0);
        let before = self.slots.get(id).and_then(|(size, slots)| Some((*size, slots.upgrade()?)));
        let slots = match before {
            Some((size, slots)) => {
                slots.add_permits(prefetch.saturating_sub(size).into());
                let surplus = slots.clone().acquire_many_owned(size.saturating_sub(prefetch).into());
                // Those that are taken go away when they come back.
                self.tasks.spawn(async move { surplus.await.map_or((), OwnedSemaphorePermit::forget) });
                slots
            }
            None => Arc::new(Semaphore::new(prefetch.into())),
        };
        self.slots.insert(id.clone(), (prefetch, Arc::downgrade(&slots)));
        slots
    }
}
