//! The deployed functions in memory: their lanes, and the catalogue made of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::{DashMap, DashSet};
use faas_invoke::CatalogueWatch;
use faas_model::{ALIAS_LIVE, Catalogue, Digest, Entry, FunctionName, Name, Reason, Revision};
use faas_repo::{AliasRecord, FunctionRecord, RepoError};
use fail::fail_point;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::heard::Heard;
use crate::lane::Lane;
use crate::locks::Locks;
use crate::pool::Farewell;
use crate::target::{Shared, Target};
use crate::tasks::Tasks;
use crate::{AliasView, Description, ServiceError, Summary};

/// Everything behind the handle.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tasks: Arc<Tasks>,
    /// Installs that starts wait for.
    pub(crate) installing: Arc<Tasks>,
    /// Who listens to other processes.
    pub(crate) following: Tasks,
    functions: DashMap<FunctionName, Arc<Function>>,
    catalogue: watch::Sender<Arc<Catalogue>>,
    /// Held by whoever changes a function.
    pub(crate) changing: Locks<FunctionName>,
    /// Held from the check of routes to the publication of the catalogue.
    pub(crate) publishing: Mutex<()>,
    /// What was heard of the changes of other processes.
    pub(crate) heard: std::sync::Mutex<Heard>,
    /// Functions that are being removed.
    leaving: DashSet<FunctionName>,
    draining: AtomicBool,
}

/// A deployed function. Replaced whole at every change; lanes that did not change are shared.
#[derive(Debug)]
pub(crate) struct Function {
    name: FunctionName,
    /// In the order of their names. No map: its smallest node has room for eleven, and there are
    /// thousands of functions with one alias each.
    aliases: Box<[Alias]>,
}

/// An alias of a function.
#[derive(Debug)]
pub(crate) struct Alias {
    name: Name,
    pub(crate) at: AliasRecord,
    lane: Arc<Lane>,
}

/// Marks a function as being removed.
pub(crate) struct Leaving<'a> {
    name: &'a FunctionName,
    all: &'a DashSet<FunctionName>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.all.remove(self.name);
    }
}

impl Registry {
    pub(crate) fn new(shared: Shared, installing: Arc<Tasks>) -> Self {
        Self {
            shared: Arc::new(shared),
            tasks: Arc::new(Tasks::new()),
            installing,
            following: Tasks::new(),
            functions: DashMap::new(),
            catalogue: watch::Sender::new(Arc::default()),
            changing: Locks::default(),
            publishing: Mutex::default(),
            heard: std::sync::Mutex::default(),
            leaving: DashSet::new(),
            draining: AtomicBool::new(false),
        }
    }

    pub(crate) fn watch(&self) -> CatalogueWatch {
        self.catalogue.subscribe()
    }

    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.borrow().clone()
    }

    pub(crate) fn function(&self, name: &FunctionName) -> Result<Arc<Function>, ServiceError> {
        let missing = || ServiceError::new(Reason::NotFound, format!("there is no function {name}"));
        self.functions.get(name).map(|f| f.clone()).ok_or_else(missing)
    }

    /// Returns the lane of an alias.
    pub(crate) fn lane(&self, name: &FunctionName, alias: &Name) -> Option<Arc<Lane>> {
        self.functions.get(name)?.alias(alias).map(|alias| alias.lane.clone())
    }

    /// Returns the names of all functions.
    pub(crate) fn names(&self) -> Vec<FunctionName> {
        self.functions.iter().map(|f| f.name.clone()).collect()
    }

    /// Marks a function as being removed until the mark is dropped.
    pub(crate) fn mark_leaving<'a>(&'a self, name: &'a FunctionName) -> Leaving<'a> {
        self.leaving.insert(name.clone());
        Leaving { name, all: &self.leaving }
    }

    pub(crate) fn is_leaving(&self, name: &FunctionName) -> bool {
        self.leaving.contains(name)
    }

    /// Brings the lanes of a function to its record. With a `fresh` target for
    /// the alias that changed, the store is not read: what was written is shown.
    pub(crate) async fn apply(&self, record: FunctionRecord, fresh: Option<Target>) -> Result<(), RepoError> {
        let old = self.functions.get(&record.function).map(|f| f.clone());
        let mut known: Vec<_> = old.iter().flat_map(|f| f.lanes()).map(|lane| lane.target()).collect();
        known.extend(fresh.map(Arc::new));
        let mut targets = BTreeMap::new();
        for (alias, at) in &record.aliases {
            let same = |t: &&Arc<Target>| t.revision.id == at.revision;
            let target = match known.iter().filter(same).find(|t| t.settings == at.settings) {
                Some(target) => target.clone(),
                None => {
                    let revision = match known.iter().find(same) {
                        Some(target) => target.revision.clone(),
                        None => self.shared.repo.revision(&record.function, &at.revision).await?,
                    };
                    Arc::new(Target::new(revision, at.settings.clone()))
                }
            };
            targets.insert(alias.clone(), target);
        }
        self.install(record, targets, old.as_deref());
        Ok(())
    }

    /// Shows that an alias changed. The caller holds `publishing`.
    pub(crate) async fn show(
        &self,
        name: &FunctionName,
        alias: &Name,
        at: AliasRecord,
        target: Target,
    ) -> Result<(), RepoError> {
        let fresh = || FunctionRecord { function: name.clone(), aliases: BTreeMap::new() };
        let mut record = self.functions.get(name).map_or_else(fresh, |f| f.record());
        record.aliases.insert(alias.clone(), at);
        self.apply(record, Some(target)).await?;
        fail_point!("pool-rolled");
        self.publish_one(name);
        fail_point!("catalogue-published");
        Ok(())
    }

    fn install(&self, record: FunctionRecord, targets: BTreeMap<Name, Arc<Target>>, old: Option<&Function>) {
        if !record.aliases.contains_key(&Name::alias_live()) {
            tracing::error!(function = %record.function, "function has no alias `live`, it is left out");
            return;
        }
        let FunctionRecord { function: name, aliases: mut records } = record;
        let mut aliases = Vec::with_capacity(targets.len());
        for (alias, target) in targets {
            let Some(at) = records.remove(&alias) else { continue };
            let lane = match old.and_then(|f| f.alias(&alias)) {
                Some(Alias { lane, .. }) => {
                    let now = lane.target();
                    if now.revision.id != target.revision.id || now.settings != target.settings {
                        lane.roll(target);
                    }
                    lane.clone()
                }
                None => Lane::new(&self.shared, &self.tasks, target),
            };
            aliases.push(Alias { name: alias, at, lane });
        }
        let function = Function { name: name.clone(), aliases: aliases.into() };
        let gone = old.into_iter().flat_map(|f| &f.aliases).filter(|alias| function.alias(&alias.name).is_none());
        gone.for_each(|alias| alias.lane.drain(Farewell::Removed));
        let function = Arc::new(function);
        self.functions.insert(name, function.clone());
        // Looked at when the function is to be seen: a drain that begins now either finds it or was seen here.
        if self.draining.load(Ordering::SeqCst) {
            function.lanes().for_each(|lane| lane.drain(Farewell::Stopping));
        }
    }

    /// Puts a function back whose removal failed.
    pub(crate) fn reinstate(&self, function: &Function) {
        let fresh = |lane: &Lane| {
            let target = lane.target();
            Arc::new(Target::new(target.revision.clone(), target.settings.clone()))
        };
        let targets = function.aliases.iter().map(|alias| (alias.name.clone(), fresh(&alias.lane))).collect();
        self.install(function.record(), targets, None);
    }

    /// Takes a function out of sight.
    pub(crate) fn take(&self, name: &FunctionName) -> Option<Arc<Function>> {
        self.functions.remove(name).map(|(_, function)| function)
    }

    /// Publishes the catalogue of all functions as they are now. The caller holds `publishing`.
    pub(crate) fn publish(&self) {
        let entries: Vec<_> = self.functions.iter().filter_map(|f| f.entry()).collect();
        self.catalogue.send_replace(Arc::new(Catalogue::new(entries)));
    }

    /// Publishes the catalogue with one function as it is now, or without it. The caller holds `publishing`.
    pub(crate) fn publish_one(&self, name: &FunctionName) {
        let entry = self.functions.get(name).and_then(|f| f.entry());
        let before = self.catalogue();
        let now = entry.map_or_else(|| before.without(name), |entry| before.with(entry));
        self.catalogue.send_replace(Arc::new(now));
    }

    /// Removes compiled code and code that nobody uses.
    ///
    /// Compiled code goes first: what is compiled is then always beside its
    /// code, and the collection at the next start finds both.
    pub(crate) async fn forget(&self, code: &Digest) {
        let _turn = self.shared.codes.lock(code).await;
        let outcome = async {
            if self.shared.repo.orphans().await?.contains(code) {
                for runtime in self.shared.runtimes.values() {
                    runtime.forget(code).await;
                }
                self.shared.repo.discard(code).await?;
            }
            Ok::<_, RepoError>(())
        };
        if let Err(error) = outcome.await {
            tracing::warn!(%error, "unused code could not be removed; the next start does it");
        }
    }

    /// Ends removals that a crash cut off, and removes all code that nobody uses.
    pub(crate) async fn collect(&self) -> Result<(), RepoError> {
        // Before the orphans are listed: the compiled code of what it frees is among them.
        self.shared.repo.sweep().await?;
        let orphans = self.shared.repo.orphans().await?;
        if orphans.is_empty() {
            // Looking costs a read per function; once is enough.
            return Ok(());
        }
        for code in &orphans {
            for runtime in self.shared.runtimes.values() {
                runtime.forget(code).await;
            }
        }
        fail_point!("collect-begin");
        let removed = self.shared.repo.collect().await?.code.len();
        if removed > 0 {
            tracing::info!(removed, "removed code that no revision uses");
        }
        Ok(())
    }

    pub(crate) fn summaries(&self, namespace: &Name) -> Vec<Summary> {
        let of = self.functions.iter().filter(|f| f.name.namespace == *namespace);
        let mut summaries: Vec<_> = of.filter_map(|f| f.summary()).collect();
        summaries.sort_by(|a, b| a.function.cmp(&b.function));
        summaries
    }

    /// Returns every lane, in the order of functions and aliases.
    pub(crate) fn lanes(&self) -> Vec<Arc<Lane>> {
        let mut functions: Vec<_> = self.functions.iter().map(|f| Arc::clone(&f)).collect();
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        functions.iter().flat_map(|f| f.lanes().cloned()).collect()
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.lanes().iter().for_each(|lane| lane.drain(Farewell::Stopping));
    }
}

impl Function {
    /// Returns an alias.
    pub(crate) fn alias(&self, name: &Name) -> Option<&Alias> {
        self.aliases.iter().find(|alias| alias.name == *name)
    }

    /// Returns the alias that triggers invoke.
    pub(crate) fn live(&self) -> Option<&Alias> {
        self.aliases.iter().find(|alias| alias.name.as_str() == ALIAS_LIVE)
    }

    /// Returns the lanes of all aliases.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.aliases.iter().map(|alias| &alias.lane)
    }

    pub(crate) fn name(&self) -> &FunctionName {
        &self.name
    }

    /// Drains the lanes, and cuts what still runs after the longest grace.
    pub(crate) async fn leave(&self) {
        let grace = self.lanes().map(|l| l.target().revision.spec.timeout.grace.duration()).max();
        for lane in self.lanes() {
            lane.drain(Farewell::Removed);
        }
        for lane in self.lanes() {
            if timeout(grace.unwrap_or_default(), lane.rested()).await.is_err() {
                lane.cut().await;
            }
        }
    }

    pub(crate) fn record(&self) -> FunctionRecord {
        let aliases = self.aliases.iter().map(|alias| (alias.name.clone(), alias.at.clone())).collect();
        FunctionRecord { function: self.name.clone(), aliases }
    }

    fn entry(&self) -> Option<Entry> {
        let live = self.live()?;
        let others = self.aliases.iter().filter(|alias| alias.name != live.name);
        Some(Entry {
            function: self.name.clone(),
            live: live.revision(),
            settings: live.at.settings.clone(),
            aliases: others.map(|alias| (alias.name.clone(), alias.revision())).collect(),
        })
    }

    fn summary(&self) -> Option<Summary> {
        let Alias { at, lane, .. } = self.live()?;
        Some(Summary {
            function: self.name.clone(),
            revision: at.revision,
            version: at.version,
            runtime: lane.target().revision.spec.runtime,
            changed_ms: at.changed_ms,
            pool: lane.stats(),
        })
    }

    /// Describes the function.
    pub(crate) fn describe(&self) -> Option<Description> {
        let view = |Alias { name, at, lane }: &Alias| {
            let view = AliasView {
                revision: at.revision,
                version: at.version,
                settings: at.settings.clone(),
                previous: at.previous,
                changed_ms: at.changed_ms,
                pool: lane.stats(),
            };
            (name.clone(), view)
        };
        Some(Description {
            function: self.name.clone(),
            live: Revision::clone(&*self.live()?.revision()),
            aliases: self.aliases.iter().map(view).collect(),
        })
    }
}

impl Alias {
    fn revision(&self) -> Arc<Revision> {
        self.lane.target().revision.clone()
    }
}
