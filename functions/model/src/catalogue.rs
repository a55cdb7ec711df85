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

/// All deployed functions. Only the revision behind `live` has active triggers.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    functions: HashMap<FunctionName, Arc<Entry>>,
    /// Routes, most specific first: with host before without, longer before shorter, exact before prefix.
    routes: Vec<Route>,
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
        let functions: HashMap<_, _> = entries.into_iter().map(|e| (e.function.clone(), Arc::new(e))).collect();
        let mut routes: Vec<Route> = functions
            .values()
            .flat_map(|entry| {
                entry.live.spec.trigger.http.iter().map(|t| Route { trigger: t.clone(), entry: entry.clone() })
            })
            .collect();
        routes.sort_by(|a, b| {
            let key = |r: &Route| {
                let route = &r.trigger.route;
                let prefix = route.ends_with("/*");
                (r.trigger.hosts.is_empty(), std::cmp::Reverse(route.trim_end_matches("/*").len()), prefix)
            };
            key(a).cmp(&key(b)).then_with(|| a.entry.function.cmp(&b.entry.function))
        });
        Self { functions, routes }
    }

    /// Returns the function of that name.
    #[must_use]
    pub fn function(&self, name: &FunctionName) -> Option<&Arc<Entry>> {
        self.functions.get(name)
    }

    /// Returns every function, in no order.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.functions.values()
    }

    /// Finds the function whose route fits. `host` is lower-case without port, `path` without query.
    #[must_use]
    pub fn route(&self, host: &str, path: &str, method: &str) -> RouteMatch {
        let mut allowed: Vec<String> = Vec::new();
        for route in self.routes.iter().filter(|r| r.fits(host, path)) {
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
        let clashes = |a: &HttpTrigger, b: &HttpTrigger| {
            let shares = |x: &[String], y: &[String]| (x.is_empty() && y.is_empty()) || x.iter().any(|v| y.contains(v));
            let methods = a.methods.is_empty() || b.methods.is_empty() || shares(&a.methods, &b.methods);
            a.route == b.route && shares(&a.hosts, &b.hosts) && methods
        };
        self.routes
            .iter()
            .filter(|r| r.entry.function != *function)
            .find(|r| triggers.iter().any(|t| clashes(t, &r.trigger)))
            .map(|r| (&r.trigger, &r.entry.function))
    }

    /// Returns every queue that a live revision consumes, in the order of function names.
    #[must_use]
    pub fn amqp_bindings(&self) -> Vec<AmqpBinding> {
        let mut entries: Vec<_> = self.functions.values().collect();
        entries.sort_by(|a, b| a.function.cmp(&b.function));
        entries
            .into_iter()
            .flat_map(|e| {
                e.live.spec.trigger.amqp.iter().map(|t| AmqpBinding {
                    function: e.function.clone(),
                    live: e.live.clone(),
                    trigger: t.clone(),
                })
            })
            .collect()
    }
}

impl Route {
    fn fits(&self, host: &str, path: &str) -> bool {
        let trigger = &self.trigger;
        if !(trigger.hosts.is_empty() || trigger.hosts.iter().any(|h| h == host)) {
            return false;
        }
        match trigger.route.strip_suffix("/*") {
            Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            None => path == trigger.route,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, FunctionSpec, RevisionId};

    fn entry(name: &str, routes: &[(&str, &[&str], &[&str])]) -> Entry {
        let function = FunctionName::in_default(name).unwrap();
        let texts = |v: &[&str]| v.iter().map(ToString::to_string).collect();
        let http = routes
            .iter()
            .map(|(route, hosts, methods)| HttpTrigger {
                route: (*route).into(),
                hosts: texts(hosts),
                methods: texts(methods),
            })
            .collect();
        let mut spec = FunctionSpec::default();
        spec.trigger.http = http;
        let code = Digest::of(name.as_bytes());
        let live = Arc::new(Revision {
            id: RevisionId(code),
            function: function.clone(),
            version: 1,
            code,
            code_bytes: 1,
            created_ms: 0,
            spec,
        });
        Entry { function, live, settings: AliasSettings::default(), aliases: BTreeMap::new() }
    }

    fn found(catalogue: &Catalogue, host: &str, path: &str, method: &str) -> String {
        match catalogue.route(host, path, method) {
            RouteMatch::Function(e) => e.function.name.to_string(),
            RouteMatch::Method(allowed) => format!("405 {}", allowed.join(",")),
            RouteMatch::None => "404".into(),
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let catalogue = Catalogue::new([
            entry("any", &[("/*", &[], &[])]),
            entry("api", &[("/api/*", &[], &[])]),
            entry("exact", &[("/api", &[], &[])]),
            entry("host", &[("/*", &["shop.example"], &[])]),
        ]);
        assert_eq!(found(&catalogue, "x", "/", "GET"), "any");
        assert_eq!(found(&catalogue, "x", "/api", "GET"), "exact");
        assert_eq!(found(&catalogue, "x", "/api/1", "GET"), "api");
        assert_eq!(found(&catalogue, "x", "/apis", "GET"), "any");
        assert_eq!(found(&catalogue, "shop.example", "/api", "GET"), "host");
    }

    #[test]
    fn a_path_without_the_method_names_the_allowed_ones() {
        let catalogue =
            Catalogue::new([entry("a", &[("/a", &[], &["GET", "PUT"])]), entry("b", &[("/a", &[], &["POST"])])]);
        assert_eq!(found(&catalogue, "x", "/a", "POST"), "b");
        assert_eq!(found(&catalogue, "x", "/a", "DELETE"), "405 GET,POST,PUT");
        assert_eq!(found(&catalogue, "x", "/b", "GET"), "404");
    }

    #[test]
    fn two_functions_cannot_hold_one_route() {
        let catalogue = Catalogue::new([entry("a", &[("/a", &[], &["GET"])])]);
        let other = FunctionName::in_default("b").unwrap();
        let wants = |methods: &[&str]| entry("b", &[("/a", &[], methods)]).live.spec.trigger.http.clone();
        assert!(catalogue.route_conflict(&other, &wants(&[])).is_some());
        assert!(catalogue.route_conflict(&other, &wants(&["GET"])).is_some());
        assert!(catalogue.route_conflict(&other, &wants(&["POST"])).is_none());
        let own = FunctionName::in_default("a").unwrap();
        assert!(catalogue.route_conflict(&own, &wants(&[])).is_none());
    }
}
