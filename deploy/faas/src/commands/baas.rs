//! `faas baas status`: how the store of a running platform is.

use serde_json::Value;

use crate::cli::{Connection, Format};
use crate::client::Client;
use crate::failure::Outcome;
use crate::output::{self, Column};

const NODES: &[Column] = &[
    ("NODE", |node| told(node, "/address")),
    ("DATACENTER", |node| told(node, "/datacenter")),
    ("RACK", |node| told(node, "/rack")),
    ("CONNECTED", |node| told(node, "/connected")),
    ("VERSION", |node| told(node, "/version")),
    ("TOKENS", |node| told(node, "/tokens")),
    ("ROUND TRIP US", |node| told(node, "/round_trip_us")),
    ("HINT FILES", |node| told(node, "/hint_files")),
    ("REPAIRS RUNNING", |node| told(node, "/repairs_running")),
    ("PENDING", |node| told(node, "/repairs_pending")),
];

/// Asks the server at `url`; people get the nodes of a cluster as a table of their own.
pub(crate) async fn status(url: &str, connection: &Connection) -> Outcome {
    let mut status = Client::of(url, connection)?.get("/v1/baas/status").await?;
    let table = connection.output == Format::Table;
    let nodes = status.as_object_mut().filter(|_| table).and_then(|all| all.remove("nodes"));
    output::document(connection.output, &status, &output::at(&status, "/store"))?;
    match nodes.as_ref().and_then(Value::as_array) {
        Some(nodes) => output::rows(Format::Table, nodes, NODES),
        None => Ok(()),
    }
}

fn told(node: &Value, pointer: &str) -> String {
    let text = output::at(node, pointer);
    if text.is_empty() { "not told".into() } else { text }
}
