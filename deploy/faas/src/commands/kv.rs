//! `faas kv`: state buckets through the HTTP door.

use faas_model::{Body, Name};
use faas_store::bucket::VALUE_BYTES_MAX;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::invoke::data;
use crate::cli::{Format, Kv, KvCommand, State};
use crate::client::{self, Client, segment};
use crate::failure::{Failure, Outcome};
use crate::output;

/// Keys asked for at once.
const PAGE_KEYS: u32 = 1000;

/// Runs one state command.
pub(crate) async fn run(kv: &Kv) -> Outcome {
    let client = |state: &State| Client::of(&state.baas_url, &state.connection);
    match &kv.command {
        KvCommand::Get { bucket, key, state } => get(&client(state)?, &path(bucket, key)).await,
        KvCommand::Put { bucket, key, value, state } => {
            let value = data(value, VALUE_BYTES_MAX as u64)?;
            change(&client(state)?, Method::PUT, &path(bucket, key), value.into()).await
        }
        KvCommand::Del { bucket, key, state } => {
            change(&client(state)?, Method::DELETE, &path(bucket, key), Body::Empty).await
        }
        KvCommand::Ls { bucket, prefix, state } => {
            list(&client(state)?, state.connection.output, &format!("/kv/{bucket}"), prefix).await
        }
    }
}

fn path(bucket: &Name, key: &str) -> String {
    format!("/kv/{bucket}/{}", segment(key))
}

async fn get(client: &Client, path: &str) -> Outcome {
    let response = client.send(Method::GET, path, HeaderMap::new(), Body::Empty).await?;
    let (status, bytes) = (response.status(), client::collect(response.into_body()).await?);
    if status.is_success() { output::bytes(&bytes) } else { Err(refusal(status, &bytes)) }
}

async fn change(client: &Client, method: Method, path: &str, body: Body) -> Outcome {
    let response = client.send(method, path, HeaderMap::new(), body).await?;
    let (status, bytes) = (response.status(), client::collect(response.into_body()).await?);
    if status.is_success() { Ok(()) } else { Err(refusal(status, &bytes)) }
}

fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let failure = client::refusal(status, body);
    if status == StatusCode::NOT_FOUND {
        return Failure { hint: "`faas kv ls BUCKET` lists the keys".into(), ..failure };
    }
    failure
}

async fn list(client: &Client, format: Format, bucket: &str, prefix: &str) -> Outcome {
    let mut after = String::new();
    let mut all = Vec::new();
    loop {
        let page = client.get(&format!("{bucket}?prefix={}&limit={PAGE_KEYS}{after}", segment(prefix))).await?;
        let keys = page.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
        match format {
            Format::Json => all.extend(keys),
            Format::Jsonl => keys.iter().try_for_each(|key| output::line(&key.to_string()))?,
            _ => keys.iter().filter_map(Value::as_str).try_for_each(|key| output::line(&output::plain(key)))?,
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => after = format!("&after={}", segment(next)),
            None => break,
        }
    }
    if format == Format::Json { output::line(&Value::Array(all).to_string()) } else { Ok(()) }
}
