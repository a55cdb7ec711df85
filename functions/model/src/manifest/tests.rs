use super::*;

fn error(text: &str) -> String {
    Manifest::parse(text).unwrap_err().to_string()
}

#[test]
fn a_whole_manifest_reads() {
    let text = r#"
        [functions.orders]
        source = "target/orders.wasm"
        state = ["orders"]
        build = { command = "cargo build" }
        env = { CURRENCY = "EUR" }
        limits = { memory = "64MiB", cpu = "2s" }
        scale = { max = 3, concurrency = 8, idle = "5s" }
        queue = { depth = 10, wait = "2s" }
        timeout = { run = "5s" }
        retry = { attempts = 3 }
        probe = "/healthz"
        [[functions.orders.trigger.http]]
        route = "/orders/*"
        [[functions.orders.trigger.amqp]]
        queue = "order.placed"
        declare = true
    "#;
    let manifest = Manifest::parse(text).unwrap();
    let source = &manifest.functions[&Name::new("orders").unwrap()];
    assert_eq!(source.limits.memory, ByteSize::mib(64));
    assert_eq!(source.trigger.amqp[0].prefetch, 32);
    assert_eq!(source.trigger.amqp[0].dead_letter_exchange(), "order.placed.dlx");
    assert_eq!(source.settings().scale.max, 3);
}

#[test]
fn unknown_keys_are_errors_that_name_the_nearest() {
    let message = error("[functions.a]\nlimts = {}\n");
    assert!(message.contains("unknown field `limts`"), "{message}");
    assert!(message.contains("did you mean `limits`?"), "{message}");
    assert!(error("[functions.a.scale]\nmaximum = 3\n").contains("maximum"));
    assert!(error("[function.a]\n").contains("did you mean `functions`?"));
}

#[test]
fn every_bound_is_named_at_its_edge() {
    let cases = [
        ("limits = { memory = \"63KiB\" }", "limits.memory"),
        ("limits = { memory = \"4097MiB\" }", "limits.memory"),
        ("limits = { cpu = \"9ms\" }", "limits.cpu"),
        ("limits = { request_bytes = 1073741825 }", "limits.request_bytes"),
        ("limits = { response_bytes = 1073741825 }", "limits.response_bytes"),
        ("scale = { max = 0 }", "scale.max"),
        ("scale = { max = 1001 }", "scale.max"),
        ("scale = { min = 3, max = 2 }", "scale.min"),
        ("scale = { concurrency = 0 }", "scale.concurrency"),
        ("scale = { concurrency = 1001 }", "scale.concurrency"),
        ("queue = { depth = 100001 }", "queue.depth"),
        ("timeout = { run = 0 }", "timeout.run"),
        ("timeout = { run = \"25h\" }", "timeout.run"),
        ("retry = { attempts = 0 }", "retry.attempts"),
        ("retry = { attempts = 101 }", "retry.attempts"),
        ("env = { \"a=b\" = \"\" }", "env"),
        ("probe = \"healthz\"", "probe"),
        ("trigger = { http = [{ route = \"orders\" }] }", "trigger.http.route"),
        ("trigger = { http = [{ route = \"/a/*/b\" }] }", "trigger.http.route"),
        ("trigger = { http = [{ route = \"/function/x\" }] }", "trigger.http.route"),
        ("trigger = { http = [{ route = \"/a\", hosts = [\"A.b\"] }] }", "trigger.http.hosts"),
        ("trigger = { http = [{ route = \"/a\", methods = [\"get\"] }] }", "trigger.http.methods"),
        ("trigger = { amqp = [{ queue = \"\" }] }", "trigger.amqp"),
        ("trigger = { amqp = [{ queue = \"q\", prefetch = 0 }] }", "prefetch"),
        ("trigger = { amqp = [{ queue = \"q\", prefetch = 1001 }] }", "prefetch"),
    ];
    for (line, key) in cases {
        let message = error(&format!("[functions.a]\n{line}\n"));
        assert!(message.contains(key), "{line}: {message}");
    }
    let edges = [
        "limits = { memory = \"64KiB\" }",
        "limits = { memory = \"4GiB\" }",
        "limits = { cpu = \"10ms\" }",
        "limits = { request_bytes = 1073741824 }",
        "scale = { max = 1000, concurrency = 1000 }",
        "scale = { min = 2, max = 2 }",
        "queue = { depth = 100000 }",
        "timeout = { run = \"24h\" }",
        "retry = { attempts = 100 }",
        "trigger = { amqp = [{ queue = \"q\", prefetch = 1000 }] }",
        "trigger = { http = [{ route = \"/*\" }] }",
    ];
    for line in edges {
        Manifest::parse(&format!("[functions.a]\n{line}\n")).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn egress_is_empty_by_default_bounded_and_part_of_the_revision() {
    let parse = |line: &str| {
        let manifest = Manifest::parse(&format!("[functions.a]\n{line}\n"));
        manifest.map(|m| m.functions.into_values().next().unwrap().spec())
    };
    let entries = |n: usize| format!("egress = [{}]", (0..n).map(|i| format!("\"a{i}.example\",")).collect::<String>());
    assert!(parse("").unwrap().egress.is_empty());
    assert_eq!(parse(&entries(EGRESS_ENTRIES_MAX)).unwrap().egress.len(), EGRESS_ENTRIES_MAX);
    let message = parse(&entries(EGRESS_ENTRIES_MAX + 1)).unwrap_err().to_string();
    assert!(message.contains("number of egress entries = 65") && message.contains("at most 64"), "{message}");
    let message = parse("egress = [\"https://a.com/v1\"]").unwrap_err().to_string();
    assert!(message.contains("https://a.com/v1") && message.contains("no path"), "{message}");

    let code = Digest::of(b"code");
    let id = |line: &str| parse(line).unwrap().revision_id(&code);
    assert_ne!(id("egress = [\"a.com\"]"), id(""));
    assert_ne!(id("egress = [\"a.com\"]"), id("egress = [\"a.com:443\"]"));
    let one = id("egress = [\"a.com\", \"fd00::/8\"]");
    assert_eq!(id("egress = [\"[fd00::]/8\", \"a.com\", \"a.com\"]"), one, "neither order nor spelling matters");
    let spec = parse("egress = [\"a.com\", \"10.0.0.0/8:5432\"]").unwrap();
    let canonical = String::from_utf8(spec.canonical()).unwrap();
    assert!(canonical.contains(r#""egress":["10.0.0.0/8:5432","a.com"]"#), "{canonical}");
    assert_eq!(serde_json::from_str::<FunctionSpec>(&canonical).unwrap(), spec);
}

#[test]
fn names_of_functions_follow_the_grammar() {
    assert!(error("[functions.\"../x\"]\n").contains("not valid"));
    assert!(error("").contains("functions"));
    assert!(error(&" ".repeat(MANIFEST_BYTES_MAX + 1)).contains("64 KiB"));
}

#[test]
fn the_revision_depends_on_behaviour_only() {
    let parse = |line: &str| {
        Manifest::parse(&format!("[functions.a]\n{line}\n")).unwrap().functions.into_values().next().unwrap()
    };
    let code = Digest::of(b"code");
    let base = parse("").spec().revision_id(&code);
    assert_eq!(parse("source = \"x.wasm\"").spec().revision_id(&code), base);
    assert_eq!(parse("scale = { max = 2 }").spec().revision_id(&code), base);
    assert_eq!(parse("limits = { memory = \"128MiB\" }").spec().revision_id(&code), base, "defaults are written out");
    assert_ne!(parse("limits = { memory = \"64MiB\" }").spec().revision_id(&code), base);
    assert_ne!(parse("env = { A = \"1\" }").spec().revision_id(&code), base);
}

#[test]
fn a_spec_survives_its_canonical_form() {
    let spec = FunctionSpec { env: [("A".into(), "1".into())].into(), ..Default::default() };
    assert_eq!(serde_json::from_slice::<FunctionSpec>(&spec.canonical()).unwrap(), spec);
}

#[test]
fn an_instance_with_sequential_reuse_takes_one_call_whatever_the_default_says() {
    let parse = |lines: &str| Manifest::parse(&format!("[functions.a]\n{lines}\n"));
    for good in ["", "scale = { concurrency = 1 }", "scale = { max = 500 }"] {
        let manifest = parse(&format!("reuse = \"sequential\"\n{good}")).unwrap();
        let source = manifest.functions.values().next().unwrap();
        assert_eq!(source.spec().reuse.concurrency(source.settings().scale.concurrency), 1, "{good}");
    }
    let refused = parse("reuse = \"sequential\"\nscale = { concurrency = 8 }").unwrap_err().to_string();
    assert!(refused.contains("scale.concurrency = 8") && refused.contains("scale.max"), "{refused}");
    for reuse in ["never", "concurrent"] {
        let manifest = parse(&format!("reuse = \"{reuse}\"\nscale = {{ concurrency = 8 }}")).unwrap();
        let source = manifest.functions.values().next().unwrap();
        assert_eq!(source.spec().reuse.concurrency(source.settings().scale.concurrency), 8);
    }
    assert!(error("[functions.a]\nreuse = \"always\"\n").contains("sequential"));
}

#[test]
fn reuse_is_part_of_the_revision_and_its_default_keeps_the_old_ones() {
    let parse = |line: &str| {
        Manifest::parse(&format!("[functions.a]\n{line}\n")).unwrap().functions.into_values().next().unwrap()
    };
    let code = Digest::of(b"code");
    let base = parse("").spec().revision_id(&code);
    assert_eq!(parse("reuse = \"never\"").spec().revision_id(&code), base);
    assert_ne!(parse("reuse = \"sequential\"").spec().revision_id(&code), base);
}
