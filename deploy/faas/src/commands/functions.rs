//! Looking at functions, moving their aliases, removing them.

use faas_model::{Body, Name};
use http::{HeaderMap, Method, header};
use serde_json::{Value, json};

use crate::cli::{Describe, Format, Promote, Remote, Remove, Rollback, Versions};
use crate::client::{self, Client};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Column, at, instant};

fn base(remote: &Remote, name: &Name) -> String {
    format!("/v1/namespaces/{}/functions/{name}", remote.namespace)
}

fn short(row: &Value, pointer: &str) -> String {
    at(row, pointer).chars().take(12).collect()
}

fn items(document: &Value, key: &str) -> Vec<Value> {
    document.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Prints the functions of the namespace.
pub(crate) async fn list(remote: &Remote) -> Outcome {
    let client = Client::control(remote)?;
    let document = client.get(&format!("/v1/namespaces/{}/functions", remote.namespace)).await?;
    let columns: &[Column] = &[
        ("NAME", |r| at(r, "/function/name")),
        ("VERSION", |r| at(r, "/version")),
        ("REVISION", |r| short(r, "/revision")),
        ("INSTANCES", |r| at(r, "/pool/instances")),
        ("BUSY", |r| at(r, "/pool/busy")),
        ("CHANGED", |r| instant(r, "/changed_ms")),
        ("URL", |r| at(r, "/url")),
    ];
    output::rows(remote.connection.output, &items(&document, "functions"), columns)
}

/// Prints one function.
pub(crate) async fn describe(describe: &Describe) -> Outcome {
    let document = Client::control(&describe.remote)?.get(&base(&describe.remote, &describe.name)).await?;
    output::document(describe.remote.connection.output, &document, describe.name.as_str())
}

/// Prints the versions of a function, newest first.
pub(crate) async fn versions(versions: &Versions) -> Outcome {
    let path = format!("{}/revisions", base(&versions.remote, &versions.name));
    let document = Client::control(&versions.remote)?.get(&path).await?;
    let columns: &[Column] = &[
        ("VERSION", |r| at(r, "/version")),
        ("REVISION", |r| short(r, "/id")),
        ("ALIASES", |r| items(r, "aliases").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
        ("CODE", |r| short(r, "/code")),
        ("BYTES", |r| at(r, "/code_bytes")),
        ("CREATED", |r| instant(r, "/created_ms")),
    ];
    output::rows(versions.remote.connection.output, &items(&document, "revisions"), columns)
}

/// Makes an earlier version live.
pub(crate) async fn rollback(rollback: &Rollback) -> Outcome {
    let client = Client::control(&rollback.remote)?;
    let path = base(&rollback.remote, &rollback.name);
    let pointed = match &rollback.to {
        None => client.document(Method::POST, &format!("{path}/rollback"), HeaderMap::new(), Body::Empty).await?,
        Some(version) => point(&client, &path, &Name::alias_live(), version).await?,
    };
    moved(rollback.remote.connection.output, &rollback.name, &pointed)
}

/// Points an alias to a version.
pub(crate) async fn promote(promote: &Promote) -> Outcome {
    let client = Client::control(&promote.remote)?;
    let path = base(&promote.remote, &promote.name);
    let pointed = point(&client, &path, &promote.alias, &promote.version).await?;
    moved(promote.remote.connection.output, &promote.name, &pointed)
}

async fn point(client: &Client, path: &str, alias: &Name, version: &str) -> Outcome<Value> {
    let body = Body::from(json!({ "revision": version }).to_string());
    let headers = client::header(header::CONTENT_TYPE, "application/json")?;
    client.document(Method::PUT, &format!("{path}/aliases/{alias}"), headers, body).await
}

fn moved(format: Format, name: &Name, pointed: &Value) -> Outcome {
    if format != Format::Table {
        return output::document(format, pointed, name.as_str());
    }
    let (alias, version) = (at(pointed, "/alias"), at(pointed, "/version"));
    output::line(&format!("{name} {alias} is version {version}  revision {}", short(pointed, "/revision")))
}

/// Removes a function.
pub(crate) async fn remove(remove: &Remove) -> Outcome {
    let client = Client::control(&remove.remote)?;
    let path = base(&remove.remote, &remove.name);
    client.document(Method::DELETE, &path, HeaderMap::new(), Body::Empty).await.map_err(|failure| Failure {
        hint: if failure.exit == Exit::Refused { "`faas ls` lists the functions".into() } else { failure.hint },
        ..failure
    })?;
    match remove.remote.connection.output {
        Format::Table => output::line(&format!("{} removed", remove.name)),
        format => output::document(format, &json!({ "removed": remove.name }), remove.name.as_str()),
    }
}
