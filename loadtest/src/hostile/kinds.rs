//! The kinds of hostile guests: what each is, which limits its manifest sets, and every outcome
//! that is allowed.

use anyhow::{Context, Result};

use super::texts::{
    calling, dropping, exporting, handler, many_imports, many_instances, nested, post_return, resource, start,
    unknown_import,
};

/// Where the code comes from.
#[derive(Clone, Copy)]
pub(super) enum Code {
    /// A component of its own.
    Own(fn() -> Result<Vec<u8>>),
    /// The trial guest of the Wasm runtime's tests, called at this path.
    Trial(&'static str),
}

/// What has to come of a kind.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expect {
    /// The deploy is refused, and the refusal says one of these.
    Refused(&'static [&'static str]),
    /// The deploy is taken, and each call ends with one of these: a reason of the platform,
    /// `fn:STATUS` for a whole answer of the function, `cut` for one that broke off.
    Ends(&'static [&'static str]),
    /// As `Ends(["fn:200"])`, with this text as the answer.
    Says(&'static str),
}

/// One kind of hostile guest.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// The function's name.
    pub name: &'static str,
    /// The row of the promises: G1 loops, G2 memory, G3 counts, G4 stack, G5 output, G6 logs,
    /// G8 host resources, G9 after the answer, G11 left-overs, G12 walls, S6 code.
    pub row: &'static str,
    /// What is deployed.
    pub code: Code,
    /// More lines of the manifest.
    pub manifest: &'static str,
    /// What has to come of it.
    pub expect: Expect,
}

use Code::{Own, Trial};
use Expect::{Ends, Refused, Says};

const fn kind(row: &'static str, name: &'static str, code: Code, expect: Expect) -> Kind {
    Kind { name, row, code, manifest: "", expect }
}

const fn with(row: &'static str, name: &'static str, code: Code, manifest: &'static str, expect: Expect) -> Kind {
    Kind { name, row, code, manifest, expect }
}

const CRASHED: Expect = Ends(&["crashed"]);
const CPU: Expect = Ends(&["cpu_limit"]);
const WAITS: Expect = Ends(&["run_timeout"]);
const MEMORY: Expect = Ends(&["memory_limit"]);
const BAD: Expect = Ends(&["bad_reply"]);
const STARTS_NOT: Expect = Refused(&["start_failed"]);
const LOOP: &str = "(loop (br 0))";

/// Loops, waits and the stack.
const TIME: &[Kind] = &[
    kind("G1", "loop", Own(|| handler("", LOOP)), CPU),
    kind("G1", "loop-in-start", Own(|| start(LOOP)), STARTS_NOT),
    kind("G1", "loop-in-realloc", Own(|| calling("(loop (br 0)) unreachable", GET)), CPU),
    kind("G1", "loop-in-post-return", Own(|| post_return(LOOP)), CPU),
    kind("G1", "loop-in-destructor", Own(|| resource(LOOP, "(call $drop (call $new (i32.const 1)))")), CPU),
    kind("G1", "loop-of-host-calls", Trial("/host-loop"), CPU),
    kind(
        "G1",
        "loop-of-config-reads",
        Own(|| calling("(i32.const 1024)", "(loop (call $get (i32.const 8) (i32.const 4) (i32.const 64)) (br 0))")),
        CPU,
    ),
    kind("G1", "loop-of-environment", Trial("/abuse/env"), CPU),
    kind("G1", "loop-of-naps", Trial("/abuse/naps"), Ends(&["run_timeout", "cpu_limit"])),
    kind("G1", "loop-of-polls", Trial("/abuse/polls?1000"), Ends(&["run_timeout", "cpu_limit"])),
    kind("G1", "poll-of-a-million", Trial("/abuse/polls?1000000"), Ends(&["run_timeout", "cpu_limit", "crashed"])),
    kind("G1", "poll-of-nothing", Trial("/abuse/poll-nothing"), CRASHED),
    kind("G1", "sleeps-for-ever", Trial("/abuse/forever"), WAITS),
    kind("G1", "never-answers", Trial("/never"), WAITS),
    kind(
        "G4",
        "recursion",
        Own(|| handler("(func $f (param i32) (call $f (local.get 0)))", "(call $f (i32.const 1))")),
        CRASHED,
    ),
    kind("G4", "recursion-of-a-program", Trial("/recurse"), CRASHED),
    kind("G4", "recursion-in-start", Own(|| start("(call $start)")), STARTS_NOT),
];

/// A read of `NAME`.
const GET: &str = "(call $get (i32.const 8) (i32.const 4) (i32.const 64))";

/// Memory, tables and counts.
const SPACE: &[Kind] = &[
    kind(
        "G2",
        "memory-in-steps",
        Own(|| {
            handler("(memory 1)", "(loop (br_if 0 (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable")
        }),
        MEMORY,
    ),
    kind(
        "G2",
        "memory-at-once",
        Own(|| handler("(memory 1)", "(drop (memory.grow (i32.const 65535))) unreachable")),
        MEMORY,
    ),
    kind("G2", "memory-of-a-program", Trial("/memory"), MEMORY),
    kind("G2", "memory-allocated-at-once", Trial("/abuse/alloc"), MEMORY),
    kind("G2", "memory-denied-politely", Trial("/memory-polite"), Says("denied")),
    kind(
        "G2",
        "memory-touched",
        Own(|| handler("(memory 256)", "(memory.fill (i32.const 0) (i32.const 7) (i32.const 16777216)) (loop (br 0))")),
        CPU,
    ),
    kind("G2", "memory-of-a-gibibyte", Own(|| handler("(memory 16384)", "")), STARTS_NOT),
    kind(
        "G3",
        "table-grows",
        Own(|| {
            handler(
                "(table $t 1 funcref)",
                "(loop (br_if 0 (i32.ne (i32.const -1) (table.grow $t (ref.null func) (i32.const 10000))))) unreachable",
            )
        }),
        CRASHED,
    ),
    kind(
        "G3",
        "table-is-huge",
        Own(|| handler("(table 5000000 funcref)", "")),
        Refused(&["unprocessable", "start_failed"]),
    ),
    kind("G3", "many-memories", Own(|| many_instances(100, "(memory 1)")), Refused(&["unprocessable", "start_failed"])),
    kind(
        "G3",
        "many-tables",
        Own(|| many_instances(100, "(table 10 funcref)")),
        Refused(&["unprocessable", "start_failed"]),
    ),
    kind("G3", "many-instances", Own(|| many_instances(900, "")), Refused(&["unprocessable", "start_failed"])),
];

/// Traps and exits.
const TRAPS: &[Kind] = &[
    kind("G4", "unreachable", Own(|| handler("", "unreachable")), CRASHED),
    kind("G4", "division-by-zero", Own(|| handler("", "(drop (i32.div_s (local.get 0) (i32.const 0)))")), CRASHED),
    kind(
        "G4",
        "integer-overflow",
        Own(|| handler("", "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))")),
        CRASHED,
    ),
    kind("G4", "bad-conversion", Own(|| handler("", "(drop (i32.trunc_f32_s (f32.const nan)))")), CRASHED),
    kind(
        "G4",
        "load-out-of-bounds",
        Own(|| handler("(memory 1)", "(drop (i32.load offset=0xfffffff0 (i32.const -1)))")),
        CRASHED,
    ),
    kind(
        "G4",
        "copy-out-of-bounds",
        Own(|| handler("(memory 1)", "(memory.copy (i32.const 0) (i32.const -1) (i32.const -1))")),
        CRASHED,
    ),
    kind("G4", "table-out-of-bounds", Own(|| handler("(table 1 funcref)", "(call_indirect (i32.const 7))")), CRASHED),
    kind("G4", "call-of-null", Own(|| handler("(table 1 funcref)", "(call_indirect (i32.const 0))")), CRASHED),
    kind(
        "G4",
        "call-of-another-type",
        Own(|| handler("(table funcref (elem $f)) (func $f (param i64))", "(call_indirect (i32.const 0))")),
        CRASHED,
    ),
    kind("G4", "trap-in-start", Own(|| start("unreachable")), STARTS_NOT),
    kind("G4", "trap-in-post-return", Own(|| post_return("unreachable")), CRASHED),
    kind("G4", "exit-0", Trial("/exit?0"), BAD),
    kind("G4", "exit-1", Trial("/exit?1"), CRASHED),
    kind("G4", "panic-with-a-book", Trial("/abuse/panic"), CRASHED),
];

/// Answers.
const ANSWERS: &[Kind] = &[
    kind("G5", "flood", Trial("/flood"), Ends(&["reply_too_large", "cut"])),
    kind("G5", "write-of-8-mib", Trial("/abuse/write"), Ends(&["crashed", "cut"])),
    kind("G5", "length-short", Trial("/length-short"), Ends(&["bad_reply", "crashed", "cut"])),
    kind("G5", "length-long", Trial("/length-long"), Ends(&["bad_reply", "crashed", "cut"])),
    kind("G5", "headers-500", Trial("/abuse/headers?500"), BAD),
    kind("G5", "headers-100000", Trial("/abuse/headers?100000"), Ends(&["bad_reply", "crashed"])),
    kind("G5", "odd-headers", Trial("/abuse/odd-headers"), Says("nnnnynnnnn")),
    kind("G5", "forged-headers", Trial("/abuse/forge"), Ends(&["fn:200", "bad_reply", "crashed", "cut"])),
    kind("G5", "status-0", Trial("/abuse/status?0"), Says("refused")),
    kind("G5", "status-99", Trial("/abuse/status?99"), Says("refused")),
    kind("G5", "status-1000", Trial("/abuse/status?1000"), Says("refused")),
    kind("G5", "status-100", Trial("/abuse/status?100"), BAD),
    kind("G5", "status-101", Trial("/abuse/status?101"), BAD),
    kind("G5", "status-204-with-a-body", Trial("/abuse/status?204"), Ends(&["fn:204"])),
    kind("G5", "status-304-with-a-body", Trial("/abuse/status?304"), Ends(&["fn:304"])),
    kind("G5", "trailers", Trial("/abuse/trailers"), Ends(&["fn:200"])),
    kind("G5", "stalled-body", Trial("/abuse/stall"), Ends(&["cut"])),
    kind("G5", "trickled-body", Trial("/abuse/trickle"), Ends(&["cut"])),
    kind("G5", "broken-body", Trial("/broken"), Ends(&["cut"])),
    kind("G5", "error-answer", Trial("/error"), BAD),
    kind("G9", "no-answer", Trial("/nothing"), BAD),
    kind("G9", "answer-set-twice", Trial("/abuse/twice"), Ends(&["crashed", "cut", "fn:200"])),
    kind("G9", "answer-then-loop", Trial("/abuse/answer-loop"), Says("answered")),
    kind("G9", "answer-then-wait", Trial("/abuse/answer-wait"), Says("answered")),
    kind("G9", "answer-then-trap", Trial("/after-trap"), Says("answered")),
    kind("G9", "answer-then-exit", Trial("/abuse/answer-exit"), Says("answered")),
];

/// Logs, host resources and left-overs.
const HOST: &[Kind] = &[
    kind("G6", "log-flood", Trial("/flood-log"), Ends(&["fn:200", "cpu_limit", "run_timeout"])),
    kind("G6", "log-without-line-ends", Trial("/abuse/log?unended"), Ends(&["fn:200", "cpu_limit", "run_timeout"])),
    kind("G6", "log-of-a-gibibyte", Trial("/abuse/log?gibibyte"), Ends(&["fn:200", "cpu_limit", "run_timeout"])),
    kind("G6", "log-forged", Trial("/abuse/log?forged"), Says("logged")),
    kind("G8", "fields-without-end", Trial("/resources"), CRASHED),
    kind("G8", "pollables-without-end", Trial("/abuse/resources?pollables"), CRASHED),
    kind("G8", "streams-without-end", Trial("/abuse/resources?streams"), CRASHED),
    kind("G8", "requests-without-end", Trial("/abuse/resources?requests"), CRASHED),
    kind(
        "G8",
        "own-resources-without-end",
        Own(|| resource("", "(loop (drop (call $new (i32.const 1))) (br 0))")),
        Ends(&["cpu_limit", "crashed"]),
    ),
    kind("G8", "fields-of-8-kib", Trial("/fields"), Ends(&["fn:200", "crashed"])),
    kind("G8", "random-4-gib", Trial("/random?4294967296"), CRASHED),
    kind("G8", "random-without-end", Trial("/abuse/random"), CPU),
    kind(
        "G8",
        "pointer-out-of-bounds",
        Own(|| calling("(i32.const 1024)", "(call $get (i32.const -16) (i32.const -1) (i32.const 64))")),
        CRASHED,
    ),
    kind(
        "G8",
        "length-of-4-gib",
        Own(|| calling("(i32.const 1024)", "(call $get (i32.const 0) (i32.const -1) (i32.const 64))")),
        CRASHED,
    ),
    kind(
        "G8",
        "answer-out-of-bounds",
        Own(|| calling("(i32.const 1024)", "(call $get (i32.const 8) (i32.const 4) (i32.const -4))")),
        CRASHED,
    ),
    kind(
        "G8",
        "answer-unaligned",
        Own(|| calling("(i32.const 1024)", "(call $get (i32.const 8) (i32.const 4) (i32.const 65))")),
        CRASHED,
    ),
    kind("G8", "realloc-out-of-bounds", Own(|| calling("(i32.const -1)", GET)), CRASHED),
    kind("G8", "realloc-traps", Own(|| calling("unreachable", GET)), CRASHED),
    kind(
        "G8",
        "text-not-utf-8",
        Own(|| calling("(i32.const 1024)", "(call $get (i32.const 16) (i32.const 4) (i32.const 64))")),
        CRASHED,
    ),
    kind("G8", "name-not-utf-8", Trial("/abuse/utf8"), CRASHED),
    kind(
        "G8",
        "handle-dropped-twice",
        Own(|| dropping("(call $drop (local.get $request)) (call $drop (local.get $request))")),
        CRASHED,
    ),
    kind("G8", "handle-of-another-type", Own(|| dropping("(call $drop (local.get $out))")), CRASHED),
    kind("G8", "handle-made-up", Own(|| dropping("(call $drop (i32.const 12345))")), CRASHED),
    kind("G11", "left-in-memory", Trial("/abuse/residue"), Says("clean")),
    kind("G11", "left-in-memory-of-another", Trial("/abuse/residue"), Says("clean")),
    kind("G11", "left-in-globals-and-tables", Own(|| handler(LEFT, LEAVE)), BAD),
];

/// What a module can keep besides its memory.
const LEFT: &str =
    "(memory 1) (table $t 4 funcref) (global $g (mut i64) (i64.const 0)) (elem declare func $f) (func $f)";
/// Traps when something is left of an earlier call, then leaves something itself.
const LEAVE: &str = "(if (i64.ne (global.get $g) (i64.const 0)) (then unreachable))
    (if (i32.ne (i32.load (i32.const 512)) (i32.const 0)) (then unreachable))
    (if (i32.eqz (ref.is_null (table.get $t (i32.const 3)))) (then unreachable))
    (global.set $g (i64.const 7)) (i32.store (i32.const 512) (i32.const 7))
    (table.set $t (i32.const 3) (ref.func $f))";

/// State and walls.
const WALLS: &[Kind] = &[
    with("G8", "state-key-of-2-kib", Trial("/state/long-key?hostile"), STATE, Ends(&["fn:200"])),
    with("G8", "state-value-of-4-mib", Trial("/state/huge-value?hostile"), STATE, Ends(&["fn:200"])),
    with("G8", "state-flood", Trial("/state/flood?hostile"), STATE, Ends(&["run_timeout", "cpu_limit", "fn:200"])),
    with(
        "G8",
        "state-read-loop",
        Trial("/state/read-loop?hostile"),
        STATE,
        Ends(&["run_timeout", "cpu_limit", "fn:200"]),
    ),
    with("G11", "state-of-a-neighbour", Trial("/state/open?ledger"), STATE, Says("no-such-store")),
    with("G11", "state-buckets-guessed", Trial("/state/buckets"), STATE, Says("0")),
    with("G11", "state-cursors-forged", Trial("/state/forge?hostile"), STATE, Says("foreign 0")),
    kind("G9", "request-never-read", Trial("/abuse/body?never"), Says("unread")),
    kind("G9", "request-read-in-part", Trial("/abuse/body?part"), Ends(&["fn:200"])),
    kind("G9", "request-read-after-the-answer", Trial("/abuse/body?after"), Says("answered")),
    kind("G12", "standard-input", Trial("/abuse/stdin"), Says("read 0")),
    kind("G12", "sockets", Trial("/sockets"), Ends(&["fn:200"])),
    kind("G12", "files", Trial("/files"), Says("refused true true true, preopens 0")),
    kind("G12", "outgoing-to-the-control-api", Trial("/outgoing"), Says("ErrorCode::HttpRequestDenied")),
];

const STATE: &str = "state = [\"hostile\"]";

/// Code that no deploy may take.
const CODE: &[Kind] = &[
    kind("S6", "code-empty", Own(|| Ok(Vec::new())), Refused(&["no WebAssembly", "empty"])),
    kind("S6", "code-of-noise", Own(|| Ok(crate::bytes_of::noise(7, 4096))), Refused(&["no WebAssembly"])),
    kind("S6", "code-core-module", Own(|| Ok(wat::parse_str("(module)")?)), Refused(&["core module"])),
    kind("S6", "code-truncated", Own(truncated), Refused(&["malformed"])),
    kind("S6", "code-flipped", Own(flipped), Refused(&["malformed", "not valid"])),
    kind("S6", "code-a-command", Own(|| exporting("wasi:cli/run@0.2.0")), Refused(&["wasi:cli/run"])),
    kind("S6", "code-without-a-handler", Own(|| exporting("hostile:own/world@1.0.0")), Refused(&["does not export"])),
    kind(
        "S6",
        "code-handler-of-the-wrong-shape",
        Own(|| exporting("wasi:http/incoming-handler@0.2.0")),
        Refused(&["not valid"]),
    ),
    kind("S6", "code-unknown-import", Own(unknown_import), Refused(&["hostile:secrets/read"])),
    kind("S6", "code-100000-imports", Own(|| many_imports(100_000)), Refused(&["not offered", "malformed"])),
    kind(
        "S6",
        "code-nested-components",
        Own(|| Ok(nested(5000))),
        Refused(&["malformed", "not valid", "does not export"]),
    ),
    kind("S6", "code-data-of-4-gib", Own(data_claim), Refused(&["malformed", "not valid"])),
    kind("S6", "code-data-out-of-bounds", Own(|| handler("(memory 1) (data (i32.const -1) \"x\")", "")), STARTS_NOT),
    kind("S6", "code-memory-over-4-gib", Own(|| handler("(memory 70000)", "")), Refused(&["malformed", "not valid"])),
    kind("S6", "code-huge-function", Own(|| handler("", &"(drop (i32.const 1))".repeat(200_000))), BAD),
    kind(
        "S6",
        "code-deep-blocks",
        Own(|| handler("", &format!("{}{}", "block ".repeat(20_000), "end ".repeat(20_000)))),
        Ends(&["bad_reply"]),
    ),
    kind(
        "S6",
        "code-50000-functions",
        Own(|| handler(&"(func (param i32) (result i32) local.get 0)".repeat(50_000), "")),
        BAD,
    ),
    kind(
        "S6",
        "code-50000-locals",
        Own(|| handler("", &format!("(local {})", "i64 ".repeat(49_000)))),
        Ends(&["bad_reply", "crashed"]),
    ),
    kind("S6", "code-compile-bomb", Own(bomb), Refused(&["compil"])),
];

/// Returns every kind.
pub(super) fn all() -> impl Iterator<Item = Kind> {
    [TIME, SPACE, TRAPS, ANSWERS, HOST, WALLS, CODE].into_iter().flatten().copied()
}

/// A component that ends in the middle.
fn truncated() -> Result<Vec<u8>> {
    let mut bytes = handler("", LOOP)?;
    bytes.truncate(bytes.len() / 2);
    Ok(bytes)
}

/// A component with flipped bits in its middle.
fn flipped() -> Result<Vec<u8>> {
    let mut bytes = handler("", LOOP)?;
    let middle = bytes.len() / 2;
    bytes.iter_mut().skip(middle).take(8).for_each(|byte| *byte ^= 0xff);
    Ok(bytes)
}

/// A component whose data segment of four bytes claims to have 4 GiB.
fn data_claim() -> Result<Vec<u8>> {
    let mut bytes = handler("(memory 1) (data (i32.const 0) \"LONG\")", "")?;
    let found = bytes.windows(5).position(|part| part == b"\x04LONG").context("the segment is there")?;
    bytes.iter_mut().skip(found).zip([0xff, 0xff, 0xff, 0xff, 0x0f]).for_each(|(byte, claim)| *byte = claim);
    Ok(bytes)
}

/// A component of few bytes that takes the compiler long: values that live across many branches.
fn bomb() -> Result<Vec<u8>> {
    let branches: String = (0..20_000)
        .map(|n| {
            let (a, b) = (n * 7 % 2000, n * 13 % 2000);
            format!("(if (local.get {a}) (then (local.set {b} (i32.add (local.get {a}) (local.get {b})))))")
        })
        .collect();
    let function =
        format!("(func (param i32) (local {}) (loop {branches} (br_if 0 (local.get 5))))", "i32 ".repeat(2000));
    handler(&function.repeat(2), "")
}
