//! Components: the check before the compiler gives a contract or a sentence, for any
//! bytes, and its answer follows from the names alone where the bytes are well-formed.
//!
//! Input: the bytes of a component, or `n` and lines `import NAME` and `export NAME`
//! of which one is made.
#![no_main]

// Both are formatted where they are at home.
#[path = "../../../runtimes/wasm/src/check.rs"]
#[rustfmt::skip]
mod check;
#[path = "../../../runtimes/wasm/src/contract/kind.rs"]
#[rustfmt::skip]
mod contract;

use contract::Contract;
use libfuzzer_sys::{Corpus, fuzz_target};
use wasm_encoder::{
    Component, ComponentExportKind, ComponentExportSection, ComponentImportSection, ComponentTypeRef,
    ComponentTypeSection, InstanceType,
};

/// Longest refusal, in bytes: a bounded list of bounded names, each character escaped.
const REFUSAL_MAX: usize = 21 * 10 * 130;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some(lines) = data.strip_prefix(b"n") else {
        let _any = checked(data);
        return Corpus::Keep;
    };
    let Ok(lines) = std::str::from_utf8(lines) else { return Corpus::Reject };
    let names = |word: &str| -> Vec<&str> { lines.lines().filter_map(|l| l.strip_prefix(word)).take(50).collect() };
    let (imports, exports) = (names("import "), names("export "));
    let bytes = component(&imports, &exports);
    let contract = checked(&bytes);
    if imports.iter().chain(&exports).any(|name| name.len() > 1000) {
        return Corpus::Keep;
    }
    let has = |name: &str| exports.contains(&name);
    let foreign = imports.iter().any(|name| !name.starts_with("wasi:"));
    assert!(!(foreign && contract.is_ok()), "an import of nobody's was let in");
    match contract {
        Ok(Contract::Handler03) => assert!(has("wasi:http/handler@0.3.0")),
        Ok(Contract::Handler02) => {
            assert!(exports.iter().any(|name| name.starts_with("wasi:http/incoming-handler@0.2.")));
            assert!(!imports.iter().any(|name| name.contains("@0.3.")), "0.3 is for its own handler");
        }
        Err(_) if imports.is_empty() => assert!(!has("wasi:http/handler@0.3.0") || exports.len() > 1),
        Err(_) => {}
    }
    Corpus::Keep
});

fn checked(bytes: &[u8]) -> Result<Contract, String> {
    let contract = check::check(bytes);
    if let Ok(contract) = contract {
        assert!(Contract::ALL.contains(&contract) && !contract.to_string().is_empty());
    }
    if let Err(text) = &contract {
        assert!(!text.is_empty() && text.len() <= REFUSAL_MAX, "{} bytes", text.len());
        assert!(!text.contains(char::is_control), "a name can write what it likes to a terminal: {text:?}");
    }
    contract
}

/// A component that imports and exports instances without anything in them.
fn component(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    let mut component = Component::new();
    let mut types = ComponentTypeSection::new();
    types.instance(&InstanceType::new());
    component.section(&types);
    let mut section = ComponentImportSection::new();
    section.import("wasi:io/poll@0.2.0", ComponentTypeRef::Instance(0));
    for name in imports {
        section.import(*name, ComponentTypeRef::Instance(0));
    }
    component.section(&section);
    let mut section = ComponentExportSection::new();
    for name in exports {
        section.export(*name, ComponentExportKind::Instance, 0, None);
    }
    component.section(&section);
    component.finish()
}
