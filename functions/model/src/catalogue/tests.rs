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

/// What a look-up by trying every route in the order of their ranks finds.
fn tried(entries: &[Entry], host: &str, path: &str, method: &str) -> String {
    let mut routes: Vec<_> =
        entries.iter().flat_map(|e| e.live.spec.trigger.http.iter().map(|t| (t, e.function.clone()))).collect();
    routes.sort_by_key(|(t, function)| {
        let text = t.route.strip_suffix("/*").unwrap_or(&t.route);
        (t.hosts.is_empty(), std::cmp::Reverse(text.len()), t.route.ends_with("/*"), function.clone())
    });
    let mut allowed = Vec::new();
    for (t, function) in routes {
        let host_fits = t.hosts.is_empty() || t.hosts.iter().any(|h| h == host);
        let path_fits = match t.route.strip_suffix("/*") {
            Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            None => path == t.route,
        };
        if !(host_fits && path_fits) {
            continue;
        }
        if t.methods.is_empty() || t.methods.iter().any(|m| m == method) {
            return function.name.to_string();
        }
        allowed.extend(t.methods.iter().cloned());
    }
    allowed.sort();
    allowed.dedup();
    if allowed.is_empty() { "404".into() } else { format!("405 {}", allowed.join(",")) }
}

#[test]
fn routes_found_by_their_paths_are_those_that_trying_each_finds() {
    let texts = ["/", "/*", "/a", "/a/*", "/a/b", "/a/b/*", "/a//*", "/a/b/c/d/*", "/b"];
    let hosts: [&[&str]; 3] = [&[], &["h"], &["h", "i"]];
    let methods: [&[&str]; 3] = [&[], &["GET"], &["PUT", "POST"]];
    let paths = ["/", "", "*", "/a", "/a/", "/a//", "/a//x", "/a/b", "/a/b/c", "/a/b/c/d", "/a/b/c/d/e/f", "/b", "/c"];
    // A generator of Knuth's; any would do.
    let mut state = 1u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..300 {
        let mut entries = Vec::new();
        let mut catalogue = Catalogue::default();
        for n in 0..next(8) {
            let (own_hosts, own_methods) = (hosts[next(3)], methods[next(3)]);
            let routes: Vec<_> = (0..next(3)).map(|_| (texts[next(texts.len())], own_hosts, own_methods)).collect();
            let name = format!("f{}", n % 5);
            let new = entry(&name, &routes);
            entries.retain(|e: &Entry| e.function != new.function);
            catalogue = catalogue.with(new.clone());
            entries.push(new);
        }
        if let Some(gone) = entries.pop() {
            catalogue = catalogue.without(&gone.function);
        }
        assert_eq!((catalogue.len(), catalogue.functions().count()), (entries.len(), entries.len()));
        for path in paths {
            for (host, method) in [("h", "GET"), ("i", "PUT"), ("j", "POST")] {
                let wanted = tried(&entries, host, path, method);
                assert_eq!(found(&catalogue, host, path, method), wanted, "{host} {path} {method}: {entries:?}");
            }
        }
    }
}

#[test]
fn a_change_makes_a_new_catalogue_and_leaves_the_old_one() {
    let old = Catalogue::new((0..1000).map(|n| entry(&format!("f{n}"), &[])));
    let new = old.with(entry("f7", &[("/seven", &[], &[])])).without(&FunctionName::in_default("f8").unwrap());
    assert_eq!((old.len(), new.len()), (1000, 999));
    assert_eq!((found(&old, "x", "/seven", "GET"), found(&new, "x", "/seven", "GET")), ("404".into(), "f7".into()));
    let shared = old.shards.iter().zip(&new.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert!(shared >= SHARDS - 2, "what did not change is shared: {shared}");
    assert_eq!(new.without(&FunctionName::in_default("none").unwrap()).len(), 999);
}

#[test]
fn queues_are_found_without_looking_at_other_functions() {
    let mut consumer = entry("b", &[]);
    let mut revision = Revision::clone(&consumer.live);
    revision.spec.trigger.amqp = vec![AmqpTrigger {
        broker: Name::namespace_default(),
        queue: "q".into(),
        declare: false,
        exchange: None,
        bindings: Vec::new(),
        dead_letter_exchange: None,
        prefetch: 1,
    }];
    consumer.live = Arc::new(revision);
    let function = consumer.function.clone();
    let catalogue = Catalogue::new([entry("a", &[]), consumer, entry("c", &[])]);
    assert_eq!(catalogue.amqp_bindings().iter().map(|b| &b.function).collect::<Vec<_>>(), [&function]);
    assert!(
        catalogue.with(entry("b", &[])).amqp_bindings().is_empty()
            && catalogue.without(&function).amqp_bindings().is_empty()
    );
}
