//! The trial of one kind: deploy, calls, logs, removal.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt;

use super::Row;
use super::call::{Outcome, call};
use super::kinds::{Code, Expect, Kind};
use super::leaks::Canaries;
use super::level::bytes_below;
use super::neighbour::Seen;
use crate::http::Client;
use crate::platform::{CliOutcome, Platform};

/// Calls of one kind at once.
const CALLS_AT_ONCE: usize = 8;
/// Bytes of one function's logs at most: two files of `logs.file_bytes_max`, and a line.
const LOG_BYTES_MAX: u64 = (8 << 20) + (64 << 10);
/// What each hostile call sends.
const BODY_BYTES: usize = 100 << 10;
/// Functions whose logs may be there at once: those on trial, the neighbours, and some room.
const LOGS_MAX: u64 = 8;
/// A refusal is a sentence, not a book.
const REFUSAL_BYTES_MAX: usize = 4000;

/// Where the trials are.
pub(super) struct Yard {
    pub platform: Platform,
    pub canaries: Canaries,
    pub trial: PathBuf,
    pub calls: usize,
}

/// Returns the manifest of a hostile function: what it is allowed is little, so that the suite ends soon.
/// CPU time is short only where it is what ends the call; a slow machine takes long for the others.
fn manifest(kind: &Kind) -> String {
    let cpu = match kind.expect {
        Expect::Ends(ends) if ends.contains(&"cpu_limit") => "50ms",
        Expect::Refused(_) => "50ms",
        _ => "5s",
    };
    format!(
        r#"[functions.{}]
source = "code.wasm"
env = {{ NAME = "a value of its own" }}
limits = {{ memory = "16MiB", cpu = "{cpu}", request_bytes = "1MiB", response_bytes = "1MiB" }}
timeout = {{ run = "3s", stream = "6s", idle = "2s", cold = "20s" }}
scale = {{ max = 2, concurrency = 8 }}
{}
"#,
        kind.name, kind.manifest
    )
}

impl Yard {
    /// Deploys a neighbour and returns the target of its calls.
    pub(super) async fn neighbour(&self, name: &'static str) -> Result<String> {
        let (lines, path) = match name {
            "ledger" => ("state = [\"ledger\"]", "/state/increment?ledger"),
            _ => ("", "/hello"),
        };
        let folder = self.platform.data().join(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(&self.trial, folder.join("code.wasm"))?;
        std::fs::write(folder.join("faas.toml"), format!("[functions.{name}]\nsource = \"code.wasm\"\n{lines}\n"))?;
        self.platform.deploy(&folder).await?;
        Ok(format!("/function/{name}{path}"))
    }

    /// Puts one kind on trial.
    pub(super) async fn try_out(&self, kind: Kind) -> Result<Row> {
        let deployed = self.deploy(&kind).await?;
        let mut row = Row {
            kind: kind.name.into(),
            row: kind.row.into(),
            deploy: if deployed.code == 0 { "live".into() } else { last_lines(&deployed.stderr) },
            ends: BTreeMap::new(),
            worst_ms: 0,
            log_bytes: 0,
            beside: Vec::new(),
            left: None,
            broken: Vec::new(),
        };
        row.broken.extend(self.canaries.found_in(&(deployed.stdout + &deployed.stderr), false));
        if deployed.code == 0 {
            self.call_all(&kind, &mut row).await;
            self.read_logs(&kind, &mut row).await?;
            let removed = self.platform.cli(&["rm", kind.name]).await?;
            ensure!(removed.code == 0, "faas rm ended with {}: {}", removed.code, removed.stderr);
        }
        judge_deploy(&kind, deployed.code, &mut row);
        Ok(row)
    }

    async fn deploy(&self, kind: &Kind) -> Result<CliOutcome> {
        let folder = self.platform.data().join("kinds").join(kind.name);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("faas.toml"), manifest(kind))?;
        let code = folder.join("code.wasm");
        match kind.code {
            Code::Trial(_) => std::fs::copy(&self.trial, &code).map(drop)?,
            Code::Own(made) => std::fs::write(&code, tokio::task::spawn_blocking(made).await??)?,
        }
        self.platform.cli(&["deploy", folder.to_str().context("the folder is not UTF-8")?]).await
    }

    async fn call_all(&self, kind: &Kind, row: &mut Row) {
        let path = match kind.code {
            Code::Trial(path) => path,
            Code::Own(_) => "/",
        };
        let target = format!("/function/{}{path}", kind.name);
        let body = Bytes::from(vec![b'b'; BODY_BYTES]);
        let authority = &self.platform.ready().functions;
        let calls = futures_util::stream::iter(0..self.calls).map(|_| call(authority, &target, body.clone()));
        let mut outcomes = calls.buffer_unordered(CALLS_AT_ONCE);
        while let Some(outcome) = outcomes.next().await {
            self.judge_call(kind, &outcome, row);
        }
    }

    fn judge_call(&self, kind: &Kind, outcome: &Outcome, row: &mut Row) {
        *row.ends.entry(outcome.label.clone()).or_default() += 1;
        row.worst_ms = row.worst_ms.max(u64::try_from(outcome.time.as_millis()).unwrap_or(u64::MAX));
        let allowed = match kind.expect {
            Expect::Ends(ends) => {
                // The reset of a connection whose request was not read overtakes the head of an answer that is cut.
                let overtaken = outcome.label.starts_with("closed") && ends.contains(&"cut");
                overtaken || ends.contains(&outcome.label.as_str())
            }
            Expect::Says(text) => outcome.label == "fn:200" && outcome.body == text,
            Expect::Refused(_) => false,
        };
        let mut broken = Vec::new();
        if !allowed {
            let said: String = String::from_utf8_lossy(&outcome.body).chars().take(300).collect();
            broken.push(format!("a call ended with {}, not as in {:?}: {said}", outcome.label, kind.expect));
        }
        broken.extend(self.canaries.found(outcome));
        broken.extend(self.forged(outcome));
        // One example of each is enough.
        for what in broken {
            if row.broken.len() < 5 && !row.broken.contains(&what) {
                row.broken.push(what);
            }
        }
    }

    /// Returns what the guest said in the platform's name.
    fn forged(&self, outcome: &Outcome) -> Option<String> {
        let fields = ["x-faas-reason", "transfer-encoding-forged", "upgrade", "keep-alive", "x-forged"];
        let forged = fields.into_iter().find(|name| outcome.headers.contains_key(*name));
        let twice =
            ["x-faas-origin", "x-call-id"].into_iter().find(|name| outcome.headers.get_all(*name).iter().count() > 1);
        let call = outcome.headers.get("x-call-id").is_some_and(|id| id == "forged");
        forged.or(twice).or_else(|| call.then_some("x-call-id")).map(|name| format!("the guest forged {name}"))
    }

    async fn read_logs(&self, kind: &Kind, row: &mut Row) -> Result<()> {
        let shown = self.platform.cli(&["logs", kind.name, "--lines", "2000", "--output", "jsonl"]).await?;
        ensure!(shown.code == 0, "faas logs ended with {}: {}", shown.code, shown.stderr);
        for line in shown.stdout.lines() {
            let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else {
                row.broken.push(format!("a line of the log is no JSON: {line:.200}"));
                break;
            };
            if entry.get("stream").is_some_and(|stream| stream == "platform") && line.contains("FORGED") {
                row.broken.push(format!("a guest forged a line of the log: {line:.200}"));
                break;
            }
        }
        let table = self.platform.cli(&["logs", kind.name, "--lines", "2000"]).await?.stdout;
        if table.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            row.broken.push("the log steers a terminal".into());
        }
        let logs = self.platform.data().join("state/logs");
        row.log_bytes = bytes_below(&logs)?;
        Ok(())
    }

    /// What has to hold once all is over.
    pub(super) async fn aftermath(&self, seen: &[Vec<Seen>]) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        let ready = Client::default().get(&self.platform.control("/readyz")).await?;
        if ready.status != 200 {
            broken.push(format!("/readyz says {}", ready.status));
        }
        let answer = Client::default().get(&self.platform.url("/function/ledger/state/increment?ledger")).await?;
        let counted: u64 = answer.text().parse().with_context(|| format!("the ledger says {}", answer.text()))?;
        let answered: u64 = seen.iter().filter_map(|seen| seen.get(1)).map(|seen| seen.latencies_us.len()).sum();
        if counted <= answered {
            broken.push(format!("the ledger counts {counted}, but answered {answered} calls before"));
        }
        let log = std::fs::read_to_string(self.platform.data().join("platform.log"))?;
        for sign in ["panicked at", "FORGED", "the guest's words", &self.platform.token()?] {
            if log.contains(sign) {
                broken.push(format!("the platform's log holds {sign:?}"));
            }
        }
        Ok(broken)
    }
}

fn judge_deploy(kind: &Kind, code: i32, row: &mut Row) {
    match kind.expect {
        Expect::Refused(_) if code == 0 => row.broken.push("the deploy was taken, but has to be refused".into()),
        Expect::Refused(says) => {
            if !says.iter().any(|part| row.deploy.contains(part)) {
                row.broken.push(format!("the refusal names none of {says:?}: {}", row.deploy));
            }
            if row.deploy.len() > REFUSAL_BYTES_MAX || row.deploy.contains("panicked at") {
                row.broken.push(format!("the refusal is not clear: {:.1000}", row.deploy));
            }
        }
        _ if code != 0 => row.broken.push(format!("the deploy was refused: {}", row.deploy)),
        _ => {}
    }
    if row.log_bytes > LOG_BYTES_MAX * LOGS_MAX {
        row.broken.push(format!("the logs have {} bytes", row.log_bytes));
    }
}

fn last_lines(text: &str) -> String {
    text.trim().lines().map(str::trim).collect::<Vec<_>>().join(" | ")
}
