//! Whether some bytes are a component that keeps the contract, told from its
//! outermost section alone, before any time is spent on compiling it.

use wasmparser::{Encoding, Parser, Payload};

use crate::contract::Contract;

/// Interfaces of WASI 0.2 that are offered, at any 0.2.x.
const WASI_02: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("io", &["error", "poll", "streams"]),
    ("clocks", &["monotonic-clock", "wall-clock"]),
    ("filesystem", &["types", "preopens"]),
    (
        "sockets",
        &["network", "instance-network", "tcp", "tcp-create-socket", "udp", "udp-create-socket", "ip-name-lookup"],
    ),
    ("random", &["random", "insecure", "insecure-seed"]),
    ("http", &["types", "outgoing-handler"]),
];

/// The version of WASI 0.3 that is offered. A component made for a later one may call what is not there.
const VERSION_03: &str = "0.3.0";

/// Interfaces of WASI 0.3 that are offered, at exactly that version, to components that export its handler.
const WASI_03: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "environment",
            "exit",
            "types",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("clocks", &["types", "monotonic-clock", "system-clock"]),
    ("filesystem", &["types", "preopens"]),
    ("sockets", &["types", "ip-name-lookup"]),
    ("random", &["random", "insecure", "insecure-seed"]),
    ("http", &["types", "client"]),
];

/// Interfaces that are offered at exactly one version: drafts are not compatible with each other.
const EXACT: &[&str] = &[
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft-2024-09-27",
];

/// Names that one refusal lists at most.
const NAMES_MAX: usize = 20;

/// Returns which contract the component keeps.
///
/// # Errors
/// A sentence that says what is wrong and, for imports, names each of them.
pub(crate) fn check(bytes: &[u8]) -> Result<Contract, String> {
    if !bytes.starts_with(b"\0asm") {
        return Err("this is no WebAssembly: the first bytes are not '\\0asm'".into());
    }
    let (imports, exports) = outline(bytes)?;
    let contract = contract(&exports);
    let newer = imports.iter().chain(&exports).find_map(|name| newer(name).map(|version| (name, version)));
    if let (Some((name, version)), Ok(Contract::Handler03) | Err(_)) = (newer, &contract) {
        let built = format!("the component is built for WASI {}: it names {}", shown(version), shown(name));
        return Err(format!("{built}; this version runs WASI {VERSION_03}: build with its bindings"));
    }
    let at_03 = contract == Ok(Contract::Handler03);
    let mut refused: Vec<String> =
        imports.iter().filter(|name| !offered(name, at_03)).map(|name| shown(name)).collect();
    if !refused.is_empty() {
        let more = refused.len().saturating_sub(NAMES_MAX);
        refused.truncate(NAMES_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(format!("the component imports what is not offered here: {}{more}", refused.join(", ")));
    }
    contract
}

/// Returns the contract by the exports; a component with both handlers is run by the later one.
fn contract(exports: &[&str]) -> Result<Contract, String> {
    if exports.iter().any(|name| is_at_0_3(name, "wasi:http/handler")) {
        return Ok(Contract::Handler03);
    }
    if exports.iter().any(|name| is_at_0_2(name, "wasi:http/incoming-handler")) {
        return Ok(Contract::Handler02);
    }
    let wanted = format!("{} or {}", Contract::Handler02, Contract::Handler03);
    Err(if exports.iter().any(|name| name.starts_with("wasi:cli/run@")) {
        format!("the component is a command: it exports wasi:cli/run, not {wanted}")
    } else {
        format!("the component does not export {wanted}")
    })
}

/// Returns the version of a name of WASI 0.3 that is later than what is offered.
fn newer(name: &str) -> Option<&str> {
    let (interface, version) = name.split_once('@')?;
    let patch: u32 = version.strip_prefix("0.3.")?.parse().ok()?;
    (interface.starts_with("wasi:") && patch > 0).then_some(version)
}

/// Returns the names of the outermost imports and exports.
fn outline(bytes: &[u8]) -> Result<(Vec<&str>, Vec<&str>), String> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 && encoding == Encoding::Module {
                    return Err("this is a core module, not a component: build for the target wasm32-wasip2".into());
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(malformed)?.name.name);
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.name);
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok((imports, exports))
}

fn malformed(error: wasmparser::BinaryReaderError) -> String {
    format!("the component is malformed at byte {}: {}", error.offset(), shown(error.message()))
}

fn offered(name: &str, at_03: bool) -> bool {
    let listed = |list: &[(&str, &[&str])], is_at: fn(&str, &str) -> bool| {
        let mut names = list.iter().flat_map(|(package, interfaces)| interfaces.iter().map(move |i| (package, i)));
        names.any(|(package, interface)| is_at(name, &format!("wasi:{package}/{interface}")))
    };
    EXACT.contains(&name) || listed(WASI_02, is_at_0_2) || at_03 && listed(WASI_03, is_at_0_3)
}

/// Returns whether `name` is `interface` at the version of WASI 0.3 that is offered.
fn is_at_0_3(name: &str, interface: &str) -> bool {
    name.strip_prefix(interface).and_then(|rest| rest.strip_prefix('@')) == Some(VERSION_03)
}

/// Returns whether `name` is `interface` at 0.2.x, a released version.
fn is_at_0_2(name: &str, interface: &str) -> bool {
    name.strip_prefix(interface)
        .and_then(|rest| rest.strip_prefix("@0.2."))
        .is_some_and(|patch| !patch.is_empty() && patch.len() < 6 && patch.bytes().all(|b| b.is_ascii_digit()))
}

/// Returns a name from the component as it may be shown: escaped and cut.
fn shown(name: &str) -> String {
    name.chars().take(120).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests;
