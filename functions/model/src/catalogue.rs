//! What triggers need to know of the deployed functions, as plain values:
//! one immutable snapshot, replaced whole on every change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::manifest::{AmqpTrigger, HttpTrigger, Scale};
use crate::{FunctionName, Name, Revision};

/// Settings that belong to an alias and change without a new revision.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AliasSettings {
    /// How many instances and parallel calls there may be.
    pub scale: Scale,
}

/// One deployed function as triggers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The function.
    pub function: FunctionName,
    /// The revision that `live` points to.
    pub live: Arc<Revision>,
    /// The settings of `live`.
    pub settings: AliasSettings,
    /// The other aliases and the revisions they point to.
    pub aliases: BTreeMap<Name, Arc<Revision>>,
}

/// Parts that a catalogue is replaced by.
const SHARDS: usize = 256;

type Shard = HashMap<FunctionName, Arc<Entry>>;

/// All deployed functions. Only the revision behind `live` has active triggers.
///
/// A change makes a new catalogue that shares all but one in 256 parts of the functions with
/// the old one, and the routes and queues unless the function has some.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// By a hash of the name.
    shards: Vec<Arc<Shard>>,
    len: usize,
    routes: Arc<Routes>,
    /// The functions that consume queues.
    consumers: Arc<BTreeMap<FunctionName, Arc<Entry>>>,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS], len: 0, routes: Arc::default(), consumers: Arc::default() }
    }
}

#[derive(Debug, Clone)]
struct Route {
    trigger: HttpTrigger,
    entry: Arc<Entry>,
}

/// The outcome of a look-up by host, path and method.
#[derive(Debug, Clone)]
pub enum RouteMatch {
    /// The function that serves the route.
    Function(Arc<Entry>),
    /// The path has routes, but none for the method; the allowed methods.
    Method(Vec<String>),
    /// No route.
    None,
}

/// One queue that a function consumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpBinding {
    /// The function.
    pub function: FunctionName,
    /// The live revision it belongs to.
    pub live: Arc<Revision>,
    /// The queue and how it is consumed.
    pub trigger: AmqpTrigger,
}

impl Catalogue {
    /// Returns the catalogue of `entries`.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut catalogue = Self::default();
        entries.into_iter().for_each(|entry| catalogue.put(Arc::new(entry)));
        catalogue
    }

    /// Returns this catalogue with a function added or replaced.
    #[must_use]
    pub fn with(&self, entry: Entry) -> Self {
        let mut changed = self.without(&entry.function);
        changed.put(Arc::new(entry));
        changed
    }

    /// Returns this catalogue without a function.
    #[must_use]
    pub fn without(&self, function: &FunctionName) -> Self {
        let mut changed = self.clone();
        if let Some(entry) = self.function(function).cloned() {
            changed.take(&entry);
        }
        changed
    }

    fn put(&mut self, entry: Arc<Entry>) {
        if let Some(shard) = self.shards.get_mut(shard_of(&entry.function)) {
            let before = Arc::make_mut(shard).insert(entry.function.clone(), entry.clone());
            self.len += usize::from(before.is_none());
        }
        if !entry.live.spec.trigger.http.is_empty() {
            Arc::make_mut(&mut self.routes).put(&entry);
        }
        if !entry.live.spec.trigger.amqp.is_empty() {
            Arc::make_mut(&mut self.consumers).insert(entry.function.clone(), entry);
        }
    }

    fn take(&mut self, entry: &Entry) {
        if let Some(shard) = self.shards.get_mut(shard_of(&entry.function)) {
            let before = Arc::make_mut(shard).remove(&entry.function);
            self.len -= usize::from(before.is_some());
        }
        if !entry.live.spec.trigger.http.is_empty() {
            Arc::make_mut(&mut self.routes).take(entry);
        }
        if !entry.live.spec.trigger.amqp.is_empty() {
            Arc::make_mut(&mut self.consumers).remove(&entry.function);
        }
    }

    /// Returns the function of that name.
    #[must_use]
    pub fn function(&self, name: &FunctionName) -> Option<&Arc<Entry>> {
        self.shards.get(shard_of(name))?.get(name)
    }

    /// Returns every function, in no order.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    /// Returns how many functions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no function.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Finds the function whose route fits. `host` is lower-case without port, `path` without query.
    #[must_use]
    pub fn route(&self, host: &str, path: &str, method: &str) -> RouteMatch {
        let mut allowed: Vec<String> = Vec::new();
        for route in self.routes.of(host, path) {
            if route.trigger.methods.is_empty() || route.trigger.methods.iter().any(|m| m == method) {
                return RouteMatch::Function(route.entry.clone());
            }
            allowed.extend(route.trigger.methods.iter().cloned());
        }
        allowed.sort_unstable();
        allowed.dedup();
        if allowed.is_empty() { RouteMatch::None } else { RouteMatch::Method(allowed) }
    }

    /// Returns the first other function that already holds one of `triggers`' routes.
    #[must_use]
    pub fn route_conflict(
        &self,
        function: &FunctionName,
        triggers: &[HttpTrigger],
    ) -> Option<(&HttpTrigger, &FunctionName)> {
        let shares = |x: &[String], y: &[String]| (x.is_empty() && y.is_empty()) || x.iter().any(|v| y.contains(v));
        let clashes = |a: &HttpTrigger, b: &HttpTrigger| {
            let methods = a.methods.is_empty() || b.methods.is_empty() || shares(&a.methods, &b.methods);
            shares(&a.hosts, &b.hosts) && methods
        };
        let others = |t: &HttpTrigger| self.routes.same(&t.route).iter().filter(|r| r.entry.function != *function);
        triggers
            .iter()
            .find_map(|t| others(t).find(|r| clashes(t, &r.trigger)))
            .map(|r| (&r.trigger, &r.entry.function))
    }

    /// Returns every queue that a live revision consumes, in the order of function names.
    #[must_use]
    pub fn amqp_bindings(&self) -> Vec<AmqpBinding> {
        let bindings = |e: &Arc<Entry>| {
            let binding = |t: &AmqpTrigger| AmqpBinding {
                function: e.function.clone(),
                live: e.live.clone(),
                trigger: t.clone(),
            };
            e.live.spec.trigger.amqp.iter().map(binding).collect::<Vec<_>>()
        };
        self.consumers.values().flat_map(bindings).collect()
    }
}

/// Returns the part of a function: FNV-1a, which is the same in every process and needs no key,
/// since a part that many names share costs a change a little more and a look-up nothing.
fn shard_of(function: &FunctionName) -> usize {
    let bytes = function.name.as_str().bytes();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    usize::try_from((hash ^ (hash >> 32)) % SHARDS as u64).unwrap_or_default()
}

/// The routes of all functions, found by their paths rather than by trying each.
#[derive(Debug, Clone, Default)]
struct Routes {
    /// `/orders` by its path.
    exact: HashMap<String, Arc<[Route]>>,
    /// `/orders/*` by the path without `/*`.
    below: HashMap<String, Arc<[Route]>>,
    /// Slashes of the deepest path in `below`.
    depth: usize,
}

impl Routes {
    /// Returns the routes that fit, most specific first: with host before without, longer before
    /// shorter, exact before prefix.
    fn of<'a>(&'a self, host: &'a str, path: &'a str) -> impl Iterator<Item = &'a Route> {
        [true, false].into_iter().flat_map(move |hosted| {
            let exact = self.exact.get(path).into_iter();
            let below = self.prefixes(path).filter_map(|prefix| self.below.get(prefix));
            exact.chain(below).flat_map(|routes| routes.iter()).filter(move |route| {
                let hosts = &route.trigger.hosts;
                if hosted { hosts.iter().any(|h| h == host) } else { hosts.is_empty() }
            })
        })
    }

    /// Returns what may stand before `/*` in a route that fits, the longest first. No more of them than
    /// the deepest route has parts, however many slashes a client sends.
    fn prefixes<'a>(&self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let slashes = path.bytes().enumerate().filter(|(_, b)| *b == b'/').map(|(at, _)| at);
        let mut ends: Vec<usize> = slashes.chain([path.len()]).take(self.depth + 1).collect();
        ends.reverse();
        ends.into_iter().map(|end| path.get(..end).unwrap_or_default())
    }

    /// Returns the routes with the same text.
    fn same(&self, route: &str) -> &[Route] {
        let (map, key) = match route.strip_suffix("/*") {
            Some(prefix) => (&self.below, prefix),
            None => (&self.exact, route),
        };
        map.get(key).map_or(&[], |routes| routes)
    }

    fn put(&mut self, entry: &Arc<Entry>) {
        for trigger in &entry.live.spec.trigger.http {
            let mut routes = self.same(&trigger.route).to_vec();
            routes.push(Route { trigger: trigger.clone(), entry: entry.clone() });
            routes.sort_by(|a, b| a.entry.function.cmp(&b.entry.function));
            self.set(&trigger.route, routes);
        }
    }

    fn take(&mut self, entry: &Entry) {
        for trigger in &entry.live.spec.trigger.http {
            let mut routes = self.same(&trigger.route).to_vec();
            routes.retain(|route| route.entry.function != entry.function);
            self.set(&trigger.route, routes);
        }
    }

    fn set(&mut self, route: &str, routes: Vec<Route>) {
        let (map, key) = match route.strip_suffix("/*") {
            Some(prefix) => (&mut self.below, prefix),
            None => (&mut self.exact, route),
        };
        if routes.is_empty() {
            map.remove(key);
        } else {
            self.depth = self.depth.max(key.bytes().filter(|b| *b == b'/').count());
            map.insert(key.to_owned(), routes.into());
        }
    }
}

#[cfg(test)]
mod tests;
