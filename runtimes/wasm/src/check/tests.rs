use super::*;

fn refusal(wat: &str) -> String {
    check(&wat::parse_str(wat).unwrap()).unwrap_err()
}

const HANDLER: &str = r#"(instance $i) (export "wasi:http/incoming-handler@0.2.3" (instance $i))"#;

#[test]
fn a_component_with_the_export_and_known_imports_passes() {
    let imports = [
        "wasi:cli/environment@0.2.0",
        "wasi:sockets/tcp@0.2.12",
        "wasi:keyvalue/store@0.2.0-draft2",
        "wasi:config/store@0.2.0-rc.1",
        "wasi:config/store@0.2.0-draft-2024-09-27",
    ];
    let imports: String = imports.iter().map(|name| format!("(import \"{name}\" (instance))")).collect();
    check(&wat::parse_str(format!("(component {imports} {HANDLER})")).unwrap()).unwrap();
}

#[test]
fn every_unknown_import_is_named() {
    let text = refusal(&format!(
        r#"(component
            (import "wasi:messaging/consumer@0.2.0" (instance))
            (import "wasi:keyvalue/store@0.2.0-draft" (instance))
            (import "wasi:io/streams@0.3.0" (instance))
            (import "wasi:io/streams@0.2.0-rc-2023-11-10" (instance))
            (import "evil" (func))
            {HANDLER})"#
    ));
    let names = [
        "wasi:messaging/consumer@0.2.0",
        "wasi:keyvalue/store@0.2.0-draft",
        "wasi:io/streams@0.3.0",
        "wasi:io/streams@0.2.0-rc-2023-11-10",
        "evil",
    ];
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
}

#[test]
fn a_long_list_of_unknown_imports_is_cut() {
    let imports: String = (0..100).map(|n| format!("(import \"x{n}\" (func))")).collect();
    let text = refusal(&format!("(component {imports} {HANDLER})"));
    assert!(text.contains("x19") && text.contains("and 80 more") && !text.contains("x20,"), "{text}");
}

#[test]
fn a_core_module_is_told_how_to_become_a_component() {
    assert!(refusal("(module)").contains("wasm32-wasip2"));
}

#[test]
fn other_worlds_are_named() {
    let export = |name: &str| format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#);
    assert!(refusal("(component)").contains("does not export"));
    assert!(refusal(&export("wasi:cli/run@0.2.0")).contains("command"));
    assert!(refusal(&export("wasi:http/handler@0.3.0-rc-2025-09-16")).contains("does not export"));
    assert!(refusal(&export("wasi:http/incoming-handler@0.2.0-rc-2023-11-10")).contains("does not export"));
}

#[test]
fn an_inner_component_does_not_answer_for_the_outer() {
    assert!(refusal(&format!("(component (component {HANDLER}))")).contains("does not export"));
    let inner = r#"(component (component (import "evil" (func))) HANDLER)"#.replace("HANDLER", HANDLER);
    check(&wat::parse_str(inner).unwrap()).unwrap();
}

#[test]
fn malformed_bytes_are_refused_at_every_cut_and_flip() {
    let good = wat::parse_str(format!("(component (import \"wasi:io/poll@0.2.0\" (instance)) {HANDLER})")).unwrap();
    check(&good).unwrap();
    for end in 0..good.len() {
        drop(check(good.get(..end).unwrap()));
    }
    assert!(check(b"").is_err() && check(b"\0asm").is_err() && check(b"#!/bin/sh").is_err());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            *bad.get_mut(at).unwrap() ^= 1 << bit;
            drop(check(&bad));
        }
    }
}

#[test]
fn the_handler_tells_the_contract_and_the_later_one_is_taken() {
    let found = |parts: &str| check(&wat::parse_str(format!("(component (instance $i) {parts})")).unwrap());
    let export = |name: &str| format!(r#"(export "{name}" (instance $i))"#);
    let (old, new) = (export("wasi:http/incoming-handler@0.2.12"), export("wasi:http/handler@0.3.0"));
    assert_eq!(found(&old), Ok(Contract::Handler02));
    assert_eq!(found(&new), Ok(Contract::Handler03));
    assert_eq!(found(&format!("{old}{new}")), Ok(Contract::Handler03));
}

#[test]
fn interfaces_of_0_3_are_for_components_of_0_3_beside_those_of_0_2() {
    let imports = |names: &[&str], handler: &str| {
        let imports: String = names.iter().map(|name| format!("(import \"{name}\" (instance))")).collect();
        let export = format!(r#"(instance $i) (export "{handler}" (instance $i))"#);
        check(&wat::parse_str(format!("(component {imports} {export})")).unwrap())
    };
    let new = ["wasi:http/client@0.3.0", "wasi:clocks/system-clock@0.3.0"];
    let old = ["wasi:io/poll@0.2.6", "wasi:keyvalue/store@0.2.0-draft2"];
    assert_eq!(imports(&[new, old].concat(), "wasi:http/handler@0.3.0"), Ok(Contract::Handler03));
    let refused = imports(&new, "wasi:http/incoming-handler@0.2.0").unwrap_err();
    assert!(refused.contains("wasi:http/client@0.3.0"), "{refused}");
}

#[test]
fn a_component_for_a_later_wasi_is_told_both_versions() {
    let text = refusal(r#"(component (instance $i) (export "wasi:http/handler@0.3.2" (instance $i)))"#);
    assert!(text.contains("wasi:http/handler@0.3.2") && text.contains("WASI 0.3.0"), "{text}");
    let import = r#"(component (import "wasi:http/types@0.3.1" (instance)) (instance $i)
        (export "wasi:http/handler@0.3.0" (instance $i)))"#;
    let text = refusal(import);
    assert!(text.contains("wasi:http/types@0.3.1") && text.contains("WASI 0.3.0"), "{text}");
}
