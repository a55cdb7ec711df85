//! What the cluster is like, for who runs it: asked of every node by itself, within [`ASK_MAX`], and past the gate, so
//! that a cluster which is away, or left alone, is told as such.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use scylla::client::session::Session;
use scylla::cluster::Node;
use scylla::deserialize::row::DeserializeRow;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::{Consistency, Statement};
use scylla::value::CqlTimestamp;
use serde::Serialize;
use tokio::time::{Instant, interval, timeout_at};
use uuid::Uuid;

use crate::gate::BreakerState;
use crate::store::Cassandra;
use crate::{SCHEMA_VERSION, schema};

/// Longest wait for everything that a status asks of the cluster.
pub const ASK_MAX: Duration = Duration::from_secs(1);
/// How often the gauge of nodes is set.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// The cluster as this process sees it. What was not told is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `cassandra`.
    pub store: &'static str,
    /// `up` where a node answers, else `away`.
    pub cluster: &'static str,
    /// The keyspace.
    pub keyspace: String,
    /// The schema's version in the cluster.
    pub schema: Option<u32>,
    /// The version that this program needs.
    pub schema_needed: u32,
    /// Requests of this process.
    pub requests: Requests,
    /// What leaves a cluster alone that does not answer.
    pub breaker: BreakerState,
    /// Every node that the driver knows, by address.
    pub nodes: Vec<NodeStatus>,
}

/// Requests of this process to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Those without an answer yet.
    pub in_flight: u64,
    /// Those that wait for their turn.
    pub waiting: u64,
    /// How many may be in flight.
    pub in_flight_max: u64,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Where clients reach it.
    pub address: String,
    /// Its datacenter.
    pub datacenter: Option<String>,
    /// Its rack.
    pub rack: Option<String>,
    /// Whether the driver has a connection to it.
    pub connected: bool,
    /// Its places in the ring.
    pub tokens: usize,
    /// Its release, if it answers.
    pub version: Option<String>,
    /// Time of one query of its own table, in microseconds, if it answers.
    pub round_trip_us: Option<u64>,
    /// Files of hints that it keeps for others, as `system_views.pending_hints` tells.
    pub hint_files: Option<u64>,
    /// Repairs that it coordinates and that run, as `system_views.repairs` tells.
    pub repairs_running: Option<u64>,
    /// Those that are not yet under way.
    pub repairs_pending: Option<u64>,
}

impl Cassandra {
    /// Asks every node how it is. Takes [`ASK_MAX`] at most, whatever the cluster does.
    pub async fn status(&self) -> Status {
        let by = Instant::now() + ASK_MAX;
        let session = self.cluster.session();
        let ring = session.get_cluster_state();
        let mut tokens: HashMap<Uuid, usize> = HashMap::new();
        for (_, node) in ring.replica_locator().ring().iter() {
            *tokens.entry(node.host_id).or_default() += 1;
        }
        let each = ring.get_nodes_info().iter().map(|node| {
            let tokens = tokens.get(&node.host_id).copied().unwrap_or(0);
            ask(session, node, tokens, by)
        });
        let version = timeout_at(by, schema::version(session, &self.keyspace));
        let (mut nodes, schema) = join(join_all(each), version).await;
        nodes.sort_by(|a, b| a.address.cmp(&b.address));
        let answers = nodes.iter().any(|node| node.version.is_some());
        Status {
            store: "cassandra",
            cluster: if answers { "up" } else { "away" },
            keyspace: self.keyspace.as_str().to_owned(),
            schema: schema.ok().and_then(Result::ok),
            schema_needed: SCHEMA_VERSION,
            requests: self.cluster.gate.requests(),
            breaker: self.cluster.gate.state(),
            nodes,
        }
    }
}

async fn ask(session: &Session, node: &Arc<Node>, tokens: usize, by: Instant) -> NodeStatus {
    let begun = Instant::now();
    let own = query::<(String,)>(session, node, "SELECT release_version FROM system.local", by).await;
    let took = begun.elapsed();
    let version = own.and_then(|rows| rows.into_iter().next()).map(|(version,)| version);
    let (hints, repairs) = join(
        query::<(Option<i32>,)>(session, node, "SELECT files FROM system_views.pending_hints", by),
        query::<Repair>(session, node, "SELECT completed, state_repair_start_timestamp FROM system_views.repairs", by),
    )
    .await;
    let files = |(files,): &(Option<i32>,)| u64::try_from(files.unwrap_or(0)).unwrap_or(0);
    let repairs = repairs.map(|repairs| count(&repairs));
    NodeStatus {
        address: node.address.to_string(),
        datacenter: node.datacenter.clone(),
        rack: node.rack.clone(),
        connected: node.is_connected(),
        tokens,
        round_trip_us: version.is_some().then(|| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        version,
        hint_files: hints.map(|rows| rows.iter().map(files).sum()),
        repairs_running: repairs.map(|(running, _)| running),
        repairs_pending: repairs.map(|(_, pending)| pending),
    }
}

/// Whether a repair is over, and since when it runs.
type Repair = (Option<bool>, Option<CqlTimestamp>);

/// Counts the repairs that run, and those that have not begun to.
fn count(repairs: &[Repair]) -> (u64, u64) {
    let open = repairs.iter().filter(|(completed, _)| *completed != Some(true));
    open.fold((0, 0), |(running, pending), (_, begun)| match begun {
        Some(_) => (running + 1, pending),
        None => (running, pending + 1),
    })
}

/// Asks one node; `None` when it does not answer by then, or has no such table.
async fn query<R>(session: &Session, node: &Arc<Node>, text: &str, by: Instant) -> Option<Vec<R>>
where
    R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
{
    if !node.is_connected() {
        return None;
    }
    let mut statement = Statement::new(text);
    statement.set_consistency(Consistency::One);
    let here = SingleTargetLoadBalancingPolicy::new(NodeIdentifier::Node(Arc::clone(node)), None);
    statement.set_load_balancing_policy(Some(here));
    let result = timeout_at(by, Box::pin(session.query_unpaged(statement, ()))).await.ok()?.ok()?;
    let rows = result.into_rows_result().ok()?;
    rows.rows::<R>().ok()?.collect::<Result<Vec<R>, _>>().ok()
}

/// Sets the gauge of nodes as long as it is not dropped.
pub(crate) async fn watch(session: Arc<Session>) {
    metrics::describe_gauge!("faas_cassandra_node_up", "1 while the driver has a connection to the node.");
    let mut known: BTreeMap<String, bool> = BTreeMap::new();
    let mut ticks = interval(WATCH_EVERY);
    loop {
        ticks.tick().await;
        // A node that left the cluster is told as down.
        known.values_mut().for_each(|up| *up = false);
        for node in session.get_cluster_state().get_nodes_info() {
            known.insert(node.address.to_string(), node.is_connected());
        }
        for (node, up) in &known {
            metrics::gauge!("faas_cassandra_node_up", "node" => node.clone()).set(f64::from(u8::from(*up)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_runs_waits_or_is_over() {
        let at = Some(CqlTimestamp(1));
        assert_eq!(count(&[]), (0, 0));
        let repairs = [(Some(false), at), (Some(false), None), (None, None), (Some(true), at), (Some(true), None)];
        assert_eq!(count(&repairs), (1, 2));
    }
}
