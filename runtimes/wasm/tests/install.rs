//! What is refused at install, and what compiling may cost.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::os::unix::fs::PermissionsExt as _;

use common::{Machine, code, compiler, egress, guest};
use faas_model::Reason;
use faas_model::units::{ByteSize, Millis};
use faas_runtime::{Runtime as _, RuntimeError};
use faas_runtime_wasm::{CompileCommand, Config, WasmRuntime};
use faas_store::Memory;
use faas_store::bucket::Buckets;
use tokio::io::AsyncBufReadExt as _;

fn small() -> Config {
    Config { calls_max: 4, ..Config::default() }
}

async fn refused(machine: &Machine, bytes: &[u8]) -> RuntimeError {
    let refusal = machine.runtime.install(&machine.code(bytes)).await.unwrap_err();
    assert!(machine.compiled().is_empty(), "a refusal leaves nothing behind: {:?}", machine.compiled());
    refusal
}

#[tokio::test]
async fn what_is_wrong_is_told_by_name() {
    let machine = Machine::new(small());
    let handler = r#"(instance $i) (export "wasi:http/incoming-handler@0.2.3" (instance $i))"#;
    let unknown = format!("(component (import \"wasi:messaging/consumer@0.2.0\" (instance)) {handler})");
    for (bytes, words) in [
        (b"".to_vec(), "no WebAssembly"),
        (b"#!/bin/sh".to_vec(), "no WebAssembly"),
        (b"\0asm".to_vec(), "malformed"),
        (wat::parse_str("(module)").unwrap(), "wasm32-wasip2"),
        (wat::parse_str("(component)").unwrap(), "wasi:http/incoming-handler"),
        (wat::parse_str(unknown).unwrap(), "wasi:messaging/consumer@0.2.0"),
        // The export has the right name and nothing behind it.
        (wat::parse_str(format!("(component {handler})")).unwrap(), "handle"),
    ] {
        let refusal = refused(&machine, &bytes).await;
        assert_eq!(refusal.reason, Reason::Unprocessable, "{refusal}");
        assert!(refusal.detail.contains(words), "{refusal}");
        assert!(!refusal.detail.contains(machine.dir.path().to_str().unwrap()), "no path is told: {refusal}");
    }
}

#[tokio::test]
async fn every_cut_and_many_flips_of_a_component_are_refused_or_run() {
    let machine = Machine::new(small());
    let good = std::fs::read(guest()).unwrap();
    for part in 1..8 {
        let cut = good.get(..good.len() * part / 8).unwrap();
        assert_eq!(refused(&machine, cut).await.reason, Reason::Unprocessable);
    }
    for n in 0..8 {
        let mut flipped = good.clone();
        *flipped.get_mut((n + 1) * 997).unwrap() ^= 0x55;
        // A flip in a data segment is still a component.
        if let Err(refusal) = machine.runtime.install(&machine.code(&flipped)).await {
            assert_eq!(refusal.reason, Reason::Unprocessable, "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_component_whose_calls_take_more_slots_than_one_may_have_is_refused_with_both_numbers() {
    let machine = Machine::new(Config { calls_max: 2, ..small() });
    let table = "(core module $t (table 1 funcref))".to_owned();
    let parts = table + &"(core instance (instantiate $t))".repeat(6);
    let bytes = common::component_beside(&parts, r#"(func (export "handle") (param i32 i32))"#);
    let refusal = refused(&machine, &bytes).await;
    assert_eq!(refusal.reason, Reason::Unprocessable, "{refusal}");
    assert!(refusal.detail.contains("6 tables") && refusal.detail.contains("may have 2"), "{refusal}");
}

#[tokio::test]
async fn compiling_is_bounded_in_size_memory_and_time() {
    let refuse = async |config: Config| {
        let machine = Machine::new(config);
        let refusal = machine.runtime.install(&code(guest())).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Unprocessable, "{refusal}");
        assert!(machine.compiled().is_empty());
        refusal.detail
    };
    let big = refuse(Config { code_bytes_max: ByteSize(1000), ..small() }).await;
    assert!(big.contains("over 1000 bytes"), "{big}");
    let memory = refuse(Config { compile_memory: ByteSize::mib(8), ..small() }).await;
    assert!(memory.contains("than 8 MiB of memory"), "{memory}");
    let file = refuse(Config { compiled_bytes_max: ByteSize::kib(64), ..small() }).await;
    assert!(file.contains("compiled code is over"), "{file}");
    let wall = refuse(Config { compile_wall: Millis(1), ..small() }).await;
    assert!(wall.contains("took longer"), "{wall}");
}

#[tokio::test]
async fn a_compiler_that_cannot_start_is_the_platforms_fault() {
    let dir = tempfile::tempdir().unwrap();
    for program in ["/nonexistent", "/bin/false"] {
        let command = CompileCommand { program: program.into(), args: Vec::new() };
        let buckets = Buckets::new(std::sync::Arc::new(Memory::default()));
        let runtime = WasmRuntime::new(small(), dir.path().join("compiled"), command, buckets, egress()).unwrap();
        assert!(runtime.install(&code(guest())).await.is_err());
    }
}

#[tokio::test]
async fn a_compiler_ends_with_the_platform_that_started_it() {
    let dir = tempfile::tempdir().unwrap();
    // A shell that starts the compiler with input that never ends, and is killed.
    let fifo = dir.path().join("input");
    let mkfifo = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(mkfifo.success());
    let input = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let limits =
        r#"{"cpu_s":60,"memory_bytes":1073741824,"code_bytes_max":1000000,"compiled_bytes_max":1000000,"parent":PID}"#;
    let script = r#"limits=$(echo "$2" | sed "s/PID/$$/"); "$1" "$limits" <"$3" & echo $!; wait"#;
    let mut shell = tokio::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(compiler().program)
        .arg(limits)
        .arg(&fifo)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(shell.stdout.take().unwrap()).lines();
    let pid = lines.next_line().await.unwrap().unwrap();
    let is_running = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains("faas-wasm") && !stat.contains(") Z"))
    };
    // It has limited itself, so it waits for its input.
    let waits = || {
        is_running() && std::fs::read_to_string(format!("/proc/{pid}/limits")).is_ok_and(|l| l.contains("1073741824"))
    };
    until(waits).await;
    shell.start_kill().unwrap();
    shell.wait().await.unwrap();
    until(|| !is_running()).await;
    drop(input);
}

/// Waits until something holds.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it does not hold after 5 s");
}

#[tokio::test]
async fn the_folder_is_private_and_cleared_of_what_is_not_of_this_build() {
    let dir = tempfile::tempdir().unwrap();
    let compiled = dir.path().join("compiled");
    std::fs::create_dir(&compiled).unwrap();
    std::fs::set_permissions(&compiled, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(compiled.join("0123.tmp"), "cut by a crash").unwrap();
    std::fs::write(compiled.join("abc-0000000000000000.cwasm"), "of another build").unwrap();
    let open = || {
        let buckets = Buckets::new(std::sync::Arc::new(Memory::default()));
        WasmRuntime::new(small(), compiled.clone(), compiler(), buckets, egress()).unwrap()
    };
    let count = || std::fs::read_dir(&compiled).unwrap().count();
    let runtime = open();
    assert_eq!(std::fs::metadata(&compiled).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(count(), 0);
    runtime.install(&code(guest())).await.unwrap();
    drop(runtime);
    assert_eq!(count(), 1);
    drop(open());
    assert_eq!(count(), 1, "what this build compiled stays");
}

#[tokio::test]
async fn installs_of_the_same_code_at_once_compile_it_once_or_agree() {
    let machine = Machine::new(small());
    let code = code(guest());
    let installs = (0..4).map(|_| machine.runtime.install(&code));
    for done in futures_util::future::join_all(installs).await {
        done.unwrap();
    }
    assert_eq!(machine.compiled().len(), 1);
    machine.runtime.forget(&code.digest).await;
    assert!(machine.compiled().is_empty());
}
