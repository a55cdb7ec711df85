//! `faas logs`: what a function wrote, as it comes.

use faas_model::Body;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::cli::{Format, Logs};
use crate::client::{self, Client};
use crate::failure::Outcome;
use crate::output;

/// Longest line of the stream that is kept; lines are at most 8 KiB before escaping.
const LINE_BYTES_MAX: usize = 256 << 10;

/// Prints lines until they end; with `--follow` until interrupted.
pub(crate) async fn run(logs: &Logs) -> Outcome {
    let client = Client::control(&logs.remote)?;
    let (namespace, name) = (&logs.remote.namespace, &logs.name);
    let path = format!("/v1/namespaces/{namespace}/functions/{name}/logs?lines={}&follow={}", logs.lines, logs.follow);
    let response = client.send(Method::GET, &path, HeaderMap::new(), Body::Empty).await?;
    let (status, mut body) = (response.status(), response.into_body());
    if !status.is_success() {
        return Err(client::refusal(status, &client::collect(body).await?));
    }
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(client::broken)?.into_data() else { continue };
        pending.extend_from_slice(&bytes);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            print(logs.remote.connection.output, &line)?;
        }
        if pending.len() > LINE_BYTES_MAX {
            pending.clear();
        }
    }
    if pending.is_empty() { Ok(()) } else { print(logs.remote.connection.output, &pending) }
}

fn print(format: Format, line: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(line);
    if format != Format::Table {
        return output::line(text.trim_end());
    }
    let Ok(json) = serde_json::from_str::<Value>(&text) else { return output::line(&output::plain(text.trim_end())) };
    let time = output::instant(&json, "/time");
    let fields = ["/stream", "/text"].map(|pointer| output::at(&json, pointer));
    output::line(&format!("{time} {}", fields.join(" ")))
}
