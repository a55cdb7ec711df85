//! The schema: made and changed by one command, checked at every start.
//!
//! Every table has an id of its own from here, so that several nodes that make it at once make the same one.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::statement::Statement;
use uuid::Uuid;

use crate::cql::{self, Identifier};
use crate::session::{OpenError, connect_in_time};
use crate::{Config, ConfigError};

/// The version of the schema that this program needs.
pub const SCHEMA_VERSION: u32 = 1;

/// What a migration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; 0 for none.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// Why a schema could not be brought to where it should be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MigrateError {
    /// The cluster cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The cluster refused a step.
    #[error("{step} failed: {error}")]
    Step {
        /// Which.
        step: String,
        /// What the cluster says.
        error: String,
    },
}

impl From<ConfigError> for MigrateError {
    fn from(error: ConfigError) -> Self {
        Self::Open(error.into())
    }
}

/// The tables of version 1: name and columns.
const TABLES: [(&str, &str); 5] = [
    (
        "item",
        "part blob, kind tinyint, sort blob, value blob, size int, ver blob, exp bigint, state tinyint, \
         nothing tinyint, PRIMARY KEY ((part), kind, sort)",
    ),
    ("name", "scope blob, shard tinyint, name blob, mark boolean, PRIMARY KEY ((scope, shard), name)"),
    ("feed_slot", "namespace text, slot bigint, PRIMARY KEY ((namespace), slot)"),
    ("feed_part", "namespace text, slot bigint, part blob, PRIMARY KEY ((namespace, slot), part)"),
    ("schema", "part text PRIMARY KEY, version int"),
];

/// Longest wait for one step. All nodes make a table before the answer comes, which takes seconds where they are
/// busy; who migrates once waits longer than a request may.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the ids of tables come from (RFC 9562 §5.5): the same for the same keyspace, by whomever it is made.
const TABLE_IDS: Uuid = Uuid::from_u128(0x5b0c_1d8e_6f6a_4b1e_9c57_0a6f_2d3e_7100);

fn creation(keyspace: &Identifier, name: &'static str, columns: &str) -> String {
    let table = keyspace.table(name);
    let id = Uuid::new_v5(&TABLE_IDS, table.as_bytes());
    format!("CREATE TABLE IF NOT EXISTS {table} ({columns}) WITH ID = {id}")
}

/// Brings the schema to the version of this program; does nothing where it is there. Safe from many nodes at once.
///
/// # Errors
/// When the cluster cannot be used, refuses a step, or has a newer schema.
pub async fn migrate(config: &Config) -> Result<Migrated, MigrateError> {
    let keyspace = config.check()?;
    let session = connect_in_time(config).await?;
    let from = version(&session, &keyspace).await?;
    if from > SCHEMA_VERSION {
        return Err(differs(&keyspace, from).into());
    }
    if from == SCHEMA_VERSION {
        return Ok(Migrated { from, to: from });
    }
    let create =
        format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {}", replication(config, &session)?);
    step(&session, format!("creating keyspace {keyspace}"), &create).await?;
    for (name, columns) in TABLES {
        step(&session, format!("creating table {name}"), &creation(&keyspace, name, columns)).await?;
    }
    // Last, so that a version is told only where all of it is there.
    let table = keyspace.table("schema");
    let told = format!("INSERT INTO {table} (part, version) VALUES ('store', {SCHEMA_VERSION}) IF NOT EXISTS");
    step(&session, "recording the version".into(), &told).await?;
    Ok(Migrated { from, to: SCHEMA_VERSION })
}

/// Returns the copies of each row as Cassandra's map.
fn replication(config: &Config, session: &Session) -> Result<String, ConfigError> {
    let mut text = String::from("{'class': 'NetworkTopologyStrategy'");
    for (datacenter, copies) in &config.replication {
        let name = cql::datacenter(datacenter).map_err(|error| ConfigError::Name { key: "replication", error })?;
        text.push_str(&format!(", {name}: {copies}"));
    }
    if config.replication.is_empty() {
        // As many as there are nodes, but not more than three.
        let nodes = session.get_cluster_state().get_nodes_info().len().clamp(1, 3);
        text.push_str(&format!(", 'replication_factor': {nodes}"));
    }
    text.push('}');
    Ok(text)
}

async fn step(session: &Session, step: String, text: &str) -> Result<(), MigrateError> {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(STEP_TIMEOUT));
    // The driver waits until all nodes agree on the schema.
    match session.query_unpaged(statement, ()).await {
        Ok(_) => Ok(()),
        Err(error) => Err(MigrateError::Step { step, error: error.to_string() }),
    }
}

/// Checks that the schema is the one that this program needs.
///
/// # Errors
/// `Schema` says what to do.
pub(crate) async fn check(session: &Session, keyspace: &Identifier) -> Result<(), OpenError> {
    let found = version(session, keyspace).await?;
    if found == SCHEMA_VERSION { Ok(()) } else { Err(differs(keyspace, found)) }
}

fn differs(keyspace: &Identifier, found: u32) -> OpenError {
    let remedy = if found < SCHEMA_VERSION {
        "run `faas baas migrate`"
    } else {
        "a newer program made it: use that one, or a keyspace of its own"
    };
    OpenError::Schema { keyspace: keyspace.as_str().to_owned(), found, remedy }
}

/// Reads the version; 0 where there is no schema.
pub(crate) async fn version(session: &Session, keyspace: &Identifier) -> Result<u32, OpenError> {
    let text = format!("SELECT version FROM {} WHERE part = 'store'", keyspace.table("schema"));
    let rows = match session.query_unpaged(text, ()).await {
        Ok(result) => result.into_rows_result().map_err(|error| OpenError::Refused(error.to_string()))?,
        // Neither a keyspace nor a table of that name.
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, _))) => return Ok(0),
        Err(error) => return Err(OpenError::Refused(error.to_string())),
    };
    let row = rows.maybe_first_row::<(i32,)>().map_err(|error| OpenError::Refused(error.to_string()))?;
    Ok(row.and_then(|(version,)| u32::try_from(version).ok()).unwrap_or(0))
}
