//! Routes: the catalogue's tables find what a look at every route finds, and a
//! catalogue that was changed step by step is the one made at once.
//!
//! Input: lines of `look HOST PATH METHOD`, `put NAME` and then, for the function
//! put last, `on ROUTE HOSTS METHODS` (lists with commas, `-` for none), and `drop NAME`.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use faas_model::manifest::{HttpTrigger, Source};
use faas_model::{AliasSettings, Catalogue, Digest, Entry, FunctionName, Revision, RevisionId, RouteMatch};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Most lines of an input.
const LINES_MAX: usize = 60;

type Functions = BTreeMap<FunctionName, Vec<HttpTrigger>>;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    let (mut functions, mut last) = (Functions::new(), None);
    let mut catalogue = Catalogue::default();
    for line in text.lines().take(LINES_MAX) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["put", name] => {
                let Ok(name) = FunctionName::in_default(name) else { continue };
                functions.insert(name.clone(), Vec::new());
                catalogue = catalogue.with(entry(&name, &[]));
                last = Some(name);
            }
            ["on", route, hosts, methods] => {
                let Some(name) = &last else { continue };
                let trigger = HttpTrigger { route: route.into(), hosts: list(hosts), methods: list(methods) };
                let triggers = functions.entry(name.clone()).or_default();
                triggers.push(trigger);
                if is_valid(triggers) {
                    catalogue = catalogue.with(entry(name, triggers));
                } else {
                    triggers.pop();
                }
            }
            ["drop", name] => {
                let Ok(name) = FunctionName::in_default(name) else { continue };
                functions.remove(&name);
                catalogue = catalogue.without(&name);
                last = last.filter(|last| *last != name);
            }
            ["look", host, path, method] => compare(&catalogue, &functions, host, path, method),
            _ => {}
        }
    }
    assert_eq!(catalogue.len(), functions.len());
    assert_eq!(catalogue.functions().count(), functions.len());
    Corpus::Keep
});

fn list(words: &str) -> Vec<String> {
    words.split(',').filter(|word| *word != "-").map(str::to_owned).collect()
}

/// Whether a manifest with these triggers is let in.
fn is_valid(triggers: &[HttpTrigger]) -> bool {
    let mut source = Source::default();
    source.trigger.http = triggers.to_vec();
    source.spec().check().is_ok()
}

fn entry(function: &FunctionName, triggers: &[HttpTrigger]) -> Entry {
    let mut source = Source::default();
    source.trigger.http = triggers.to_vec();
    let code = Digest::of(b"code");
    let live = Revision {
        id: RevisionId(code),
        function: function.clone(),
        version: 1,
        code,
        code_bytes: 1,
        created_ms: 0,
        spec: source.spec(),
    };
    let aliases = BTreeMap::new();
    Entry { function: function.clone(), live: Arc::new(live), settings: AliasSettings::default(), aliases }
}

/// How specific a route is: with host before without, longer before shorter, exact before prefix.
type Rank = (bool, usize, bool);

/// Returns the rank of a route, if host and path fit it.
fn rank(trigger: &HttpTrigger, host: &str, path: &str) -> Option<Rank> {
    let hosted = !trigger.hosts.is_empty();
    if hosted && !trigger.hosts.iter().any(|h| h == host) {
        return None;
    }
    match trigger.route.strip_suffix("/*") {
        None => (trigger.route == path).then_some((hosted, path.len(), true)),
        Some(before) => {
            let fits = path.strip_prefix(before).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            fits.then_some((hosted, before.len(), false))
        }
    }
}

fn compare(catalogue: &Catalogue, functions: &Functions, host: &str, path: &str, method: &str) {
    if !path.starts_with('/') {
        // The head machine lets no other path in; whatever is answered, it is an answer.
        let _any = catalogue.route(host, path, method);
        return;
    }
    let all = functions.iter().flat_map(|(name, triggers)| triggers.iter().map(move |t| (name, t)));
    let fitting: Vec<_> = all.filter_map(|(name, t)| Some((rank(t, host, path)?, name, t))).collect();
    let takes = |t: &HttpTrigger| t.methods.is_empty() || t.methods.iter().any(|m| m == method);
    let best = fitting.iter().filter(|(_, _, t)| takes(t)).map(|(rank, _, _)| *rank).max();
    match (catalogue.route(host, path, method), best) {
        (RouteMatch::Function(found), Some(best)) => {
            let among = fitting.iter().any(|(rank, name, t)| *rank == best && **name == found.function && takes(t));
            assert!(among, "{} is not the most specific for {host} {path} {method}", found.function);
        }
        (RouteMatch::Method(allowed), None) => {
            let mut expected: Vec<_> = fitting.iter().flat_map(|(_, _, t)| t.methods.clone()).collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(allowed, expected, "the methods that are allowed");
            assert!(!allowed.is_empty());
        }
        (RouteMatch::None, None) => assert!(fitting.is_empty(), "a route fits {host} {path}"),
        (found, best) => panic!("{host} {path} {method}: {found:?}, where {best:?} was expected"),
    }
}
