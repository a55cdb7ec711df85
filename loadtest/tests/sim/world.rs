//! One seed's world: what survives a crash, and the platform of one life over it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use faas_function_service::{Config, FunctionService};
use faas_gateway::amqp::{Consumers, Link, MemoryQueue, start_on};
use faas_gateway::front::Handler;
use faas_invoke::Dispatch;
use faas_model::manifest::AmqpTrigger;
use faas_model::{FunctionName, FunctionSpec, Name, Revision, RevisionId};
use faas_repo::FolderRepo;
use faas_runtime::Runtime;
use faas_runtime::logs::LogBook;
use faas_store::bucket::Buckets;
use faas_store::{Memory, Store, WallClock, WallTime};
use tokio_util::sync::CancellationToken;

use crate::broker::Watched;
use crate::chance::Chance;
use crate::guest::Guest;
use crate::ledger::Ledger;
use crate::log::Log;
use crate::stage::Stage;
use crate::store::Flaky;

/// What survives a crash, and what the simulation itself knows.
pub(crate) struct Durable {
    pub(crate) seed: u64,
    pub(crate) log: Log,
    /// What happens and when.
    pub(crate) plot: Chance,
    pub(crate) memory: Arc<Memory>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) broker: MemoryQueue,
    pub(crate) ledger: Ledger,
    pub(crate) models: Models,
    /// Numbers requests, messages and deploys over all lives.
    pub(crate) names: Arc<Mutex<u64>>,
}

/// What must be true of each function's records.
#[derive(Clone, Default)]
pub(crate) struct Models(Arc<Mutex<BTreeMap<FunctionName, Model>>>);

#[derive(Default)]
pub(crate) struct Model {
    /// Revisions as they were first seen. A removed function's are forgotten.
    pub(crate) revisions: BTreeMap<RevisionId, Revision>,
    /// Revisions that fail their probe.
    pub(crate) bad: BTreeSet<RevisionId>,
    /// Where `live` may point; one place unless an outcome is unknown.
    pub(crate) live: BTreeSet<Option<RevisionId>>,
    /// Whether a change is under way.
    pub(crate) changing: bool,
    /// Longest wait for an instance, run to the head, and stream to the end of an answer that were ever in force.
    wait: Duration,
    run: Duration,
    pub(crate) stream: Duration,
    pub(crate) depth: u32,
    pub(crate) queue: Option<AmqpTrigger>,
}

impl Models {
    pub(crate) fn of(&self, function: &FunctionName) -> ModelGuard<'_> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(function.clone()).or_insert_with(|| Model { live: [None].into(), ..Model::default() });
        ModelGuard { all, function: function.clone() }
    }

    pub(crate) fn functions(&self) -> Vec<FunctionName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

pub(crate) struct ModelGuard<'m> {
    all: MutexGuard<'m, BTreeMap<FunctionName, Model>>,
    function: FunctionName,
}

impl std::ops::Deref for ModelGuard<'_> {
    type Target = Model;
    fn deref(&self) -> &Model {
        &self.all[&self.function]
    }
}

impl std::ops::DerefMut for ModelGuard<'_> {
    fn deref_mut(&mut self) -> &mut Model {
        self.all.get_mut(&self.function).expect("made with the guard")
    }
}

impl Model {
    /// Returns the longest time to the head of an answer. A call that waited under one revision may run under the next.
    pub(crate) fn head(&self) -> Duration {
        self.wait + self.run
    }

    /// Takes the bounds of a spec into account that may be in force from now on.
    pub(crate) fn widen(&mut self, spec: &FunctionSpec) {
        let time = &spec.timeout;
        let wait = spec.queue.wait.duration().max(time.cold.duration());
        self.wait = self.wait.max(wait);
        self.run = self.run.max(time.run.duration());
        self.stream = self.stream.max(time.stream.duration());
        self.depth = self.depth.max(spec.queue.depth);
    }
}

impl Durable {
    pub(crate) fn new(seed: u64) -> Self {
        let clock = WallClock::manual(WallTime(1_800_000_000_000));
        Self {
            seed,
            log: Log::default(),
            plot: Chance::new(seed, 0),
            memory: Arc::new(Memory::with_clock(clock)),
            folder: folder(),
            broker: MemoryQueue::new(),
            ledger: Ledger::default(),
            models: Models::default(),
            names: Arc::default(),
        }
    }

    /// Returns a number that no other name of this seed has.
    pub(crate) fn number(&self) -> u64 {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        *names += 1;
        *names
    }
}

/// Returns a folder for the code. It survives only the crashes that are played: where there is one in
/// memory, syncing it costs nothing, which is most of a seed otherwise.
fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder for the code")
}

/// The platform of one life.
pub(crate) struct Life {
    pub(crate) service: FunctionService,
    pub(crate) handler: Handler,
    pub(crate) consumers: Consumers,
    pub(crate) stage: Stage,
    pub(crate) store: Arc<Flaky>,
    /// Requests without their whole answer, by function.
    pub(crate) open: Arc<Mutex<BTreeMap<FunctionName, usize>>>,
}

impl Life {
    /// Starts the platform over what is durable, as a process does.
    pub(crate) async fn begin(world: &Durable, number: u64) -> Self {
        let chance = |part| Chance::new(world.seed, number * 16 + part);
        let store = Arc::new(Flaky::new(world.memory.clone(), chance(1)));
        let as_store: Arc<dyn Store> = store.clone();
        let (log, ledger) = (world.log.clone(), world.ledger.clone());
        let guest = Guest {
            log: log.clone(),
            chance: chance(2),
            ledger: ledger.clone(),
            buckets: Buckets::new(as_store.clone()),
            calm: Arc::new(AtomicBool::new(false)),
        };
        let stage = Stage::new(log.clone(), chance(3), guest);
        let repo = FolderRepo::open(world.folder.path().join("blobs"), faas_repo::Config::default(), as_store).await;
        let repo = repo.expect("the folder opens").on_this_thread();
        let runtimes: Vec<Arc<dyn Runtime>> = vec![Arc::new(stage.clone())];
        let service = FunctionService::open(Config::default(), Arc::new(repo), runtimes, LogBook::discard()).await;
        let service = service.expect("the service opens over a sound store");
        for function in world.models.functions() {
            if let Ok(found) = service.describe(&function).await {
                for alias in found.aliases.values() {
                    stage.allow(&function, &alias.settings.scale);
                }
            }
        }
        let dispatch: Arc<dyn Dispatch> = Arc::new(service.clone());
        let handler =
            faas_gateway::http::handler(faas_gateway::http::Config::default(), dispatch.clone(), service.catalogue());
        let broker = Watched { inner: world.broker.clone(), log, chance: chance(4), ledger };
        let link = Link {
            queue: Arc::new(broker),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(2),
            jitter_seed: world.seed,
        };
        let brokers = BTreeMap::from([(Name::namespace_default(), link)]);
        let consumers = start_on(brokers, dispatch, service.catalogue(), CancellationToken::new());
        Self { service, handler, consumers, stage, store, open: Arc::default() }
    }

    pub(crate) fn open_requests(&self, function: &FunctionName) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(function).copied().unwrap_or_default()
    }

    pub(crate) fn open_total(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}
