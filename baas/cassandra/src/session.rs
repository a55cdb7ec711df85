//! The session with the cluster: statements, and what errors of the driver mean.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use faas_store::StoreError;
use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, NewSessionError, PrepareError, RequestAttemptError};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::response::query_result::{QueryResult, QueryRowsResult};
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::CqlValue;
use tokio::time::{Instant, timeout_at};

use crate::cql::Identifier;
use crate::gate::{Breaker, Gate};
use crate::{Config, ConfigError, SCHEMA_VERSION};

/// Why a store could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster cannot be reached.
    #[error("the cluster cannot be reached at {nodes}: {error}")]
    Unreachable {
        /// The nodes that were tried.
        nodes: String,
        /// What the driver says.
        error: String,
    },
    /// The cluster does not take the credentials.
    #[error("the cluster does not take user {user:?}: check user and password")]
    Credentials {
        /// The user.
        user: String,
    },
    /// The schema is not there, or another one.
    #[error("keyspace {keyspace:?} has schema {found}, this program needs {SCHEMA_VERSION}: {remedy}")]
    Schema {
        /// The keyspace.
        keyspace: String,
        /// The version that is there; 0 for none.
        found: u32,
        /// What to do.
        remedy: &'static str,
    },
    /// The cluster refused a request.
    #[error("the cluster refused a request: {0}")]
    Refused(String),
}

/// First and longest pause between tries to connect at the start.
const START_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Connects to the cluster.
///
/// # Errors
/// `Unreachable`, `Credentials`.
async fn connect(config: &Config) -> Result<Session, OpenError> {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if !config.datacenter.is_empty() {
        policy = policy.prefer_datacenter(config.datacenter.clone());
    }
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .load_balancing_policy(policy.build())
        // What may be sent again is known above the driver.
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .request_timeout(Some(config.request_timeout.duration()))
        .build();
    let connections = NonZeroUsize::new(config.connections_per_node as usize).unwrap_or(NonZeroUsize::MIN);
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(config.connect_timeout.duration())
        .pool_size(PoolSize::PerHost(connections))
        .keepalive_interval(Duration::from_secs(2))
        .keepalive_timeout(config.connect_timeout.duration())
        // Where copies lie is read from the keyspace; of others nothing is needed.
        .keyspaces_to_fetch([config.keyspace.clone()]);
    if !config.user.is_empty() {
        builder = builder.user(&config.user, &config.password);
    }
    builder.build().await.map_err(|error| not_connected(config, &error))
}

/// Connects; waits for a cluster that is away, `start_wait` at most.
pub(crate) async fn connect_in_time(config: &Config) -> Result<Session, OpenError> {
    let (by, mut pause, mut told) = (Instant::now() + config.start_wait.duration(), START_PAUSE.0, false);
    loop {
        match connect(config).await {
            Err(error @ OpenError::Unreachable { .. }) if Instant::now() + pause <= by => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, ms = config.start_wait.0, "waiting for the cluster");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(START_PAUSE.1);
            }
            done => return done,
        }
    }
}

fn not_connected(config: &Config, error: &NewSessionError) -> OpenError {
    let text = format!("{error:?}");
    // The driver hands on what each connection was told.
    if ["AuthenticationError", "AuthError", "MissingAuthentication"].iter().any(|told| text.contains(told)) {
        return OpenError::Credentials { user: config.user.clone() };
    }
    OpenError::Unreachable { nodes: config.nodes.join(", "), error: error.to_string() }
}

/// The statements, prepared once.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) get: PreparedStatement,
    pub(crate) get_local: PreparedStatement,
    pub(crate) see: PreparedStatement,
    pub(crate) outcome: PreparedStatement,
    pub(crate) sizes: PreparedStatement,
    pub(crate) scan: PreparedStatement,
    pub(crate) lives: PreparedStatement,
    /// By condition: none, absent, present, version, exactly.
    pub(crate) put: [PreparedStatement; 5],
    pub(crate) delete: [PreparedStatement; 5],
    /// Without the first, which would say nothing.
    pub(crate) check: [PreparedStatement; 4],
    pub(crate) settle: PreparedStatement,
    pub(crate) log: PreparedStatement,
    pub(crate) name_put: PreparedStatement,
    pub(crate) name_list: PreparedStatement,
    pub(crate) name_list_to: PreparedStatement,
    pub(crate) name_drop: PreparedStatement,
    pub(crate) slot_put: PreparedStatement,
    pub(crate) slot_list: PreparedStatement,
    pub(crate) part_put: PreparedStatement,
    pub(crate) part_list: PreparedStatement,
    pub(crate) change_list: PreparedStatement,
    pub(crate) change_get: PreparedStatement,
}

impl Statements {
    pub(crate) async fn prepare(session: &Session, keyspace: &Identifier) -> Result<Self, PrepareError> {
        let [item, name, slot, part] = ["item", "name", "feed_slot", "feed_part"].map(|table| keyspace.table(table));
        let make = async |text: String, consistency| {
            let mut statement = session.prepare(text).await?;
            statement.set_consistency(consistency);
            Ok::<_, PrepareError>(statement)
        };
        let serial = Consistency::LocalSerial;
        let quorum = Consistency::LocalQuorum;
        let row = "WHERE part = ? AND kind = 0 AND sort = ?";
        let conditions = ["", " IF ver = null", " IF exp > ?", " IF ver = ? AND exp > ?", " IF ver = ?"];
        let each = async |text: &str| {
            let mut made = Vec::with_capacity(conditions.len());
            for condition in conditions {
                made.push(make(format!("{text} {row}{condition}"), quorum).await?);
            }
            Ok::<_, PrepareError>(made)
        };
        let five = |made: Vec<PreparedStatement>| -> [PreparedStatement; 5] {
            made.try_into().unwrap_or_else(|_| unreachable!("one for each condition"))
        };
        let put = each(&format!("UPDATE {item} USING TTL ? SET value = ?, size = ?, ver = ?, exp = ?")).await?;
        let delete = each(&format!("DELETE FROM {item}")).await?;
        // Removes a cell that is never there: judges, and changes nothing.
        let [_, c1, c2, c3, c4] = five(each(&format!("DELETE nothing FROM {item}")).await?);
        Ok(Self {
            get: make(format!("SELECT value, ver, exp FROM {item} {row}"), serial).await?,
            get_local: make(format!("SELECT value, ver, exp FROM {item} {row}"), quorum).await?,
            see: make(format!("SELECT sort, ver, exp FROM {item} WHERE part = ? AND kind = 0 AND sort IN ?"), serial).await?,
            outcome: make(format!("SELECT state FROM {item} WHERE part = ? AND kind = 1 AND sort = ?"), serial).await?,
            sizes: make(format!("SELECT sort, size FROM {item} WHERE part = ? AND kind = 0 AND sort >= ? LIMIT ?"), quorum).await?,
            scan: make(format!("SELECT sort, value, ver, exp FROM {item} WHERE part = ? AND kind = 0 AND sort >= ? LIMIT ?"), serial).await?,
            lives: make(format!("SELECT sort, exp FROM {item} WHERE part = ? AND kind = 0 AND sort >= ? LIMIT ?"), quorum).await?,
            put: five(put),
            delete: five(delete),
            check: [c1, c2, c3, c4],
            settle: make(format!("INSERT INTO {item} (part, kind, sort, state) VALUES (?, 1, ?, ?) IF NOT EXISTS USING TTL ?"), quorum).await?,
            log: make(format!("INSERT INTO {item} (part, kind, sort, value, size) VALUES (?, 2, ?, ?, ?) USING TTL ?"), quorum).await?,
            name_put: make(format!("INSERT INTO {name} (scope, shard, name, mark) VALUES (?, ?, ?, true)"), quorum).await?,
            name_list: make(format!("SELECT name, writetime(mark) FROM {name} WHERE scope = ? AND shard = ? AND name >= ? LIMIT ?"), quorum).await?,
            name_list_to: make(format!("SELECT name, writetime(mark) FROM {name} WHERE scope = ? AND shard = ? AND name >= ? AND name < ? LIMIT ?"), quorum).await?,
            name_drop: make(format!("DELETE FROM {name} USING TIMESTAMP ? WHERE scope = ? AND shard = ? AND name = ?"), quorum).await?,
            slot_put: make(format!("INSERT INTO {slot} (namespace, slot) VALUES (?, ?) USING TTL ?"), quorum).await?,
            slot_list: make(format!("SELECT slot FROM {slot} WHERE namespace = ? AND slot >= ? LIMIT ?"), quorum).await?,
            part_put: make(format!("INSERT INTO {part} (namespace, slot, part) VALUES (?, ?, ?) USING TTL ?"), quorum).await?,
            part_list: make(format!("SELECT part FROM {part} WHERE namespace = ? AND slot = ? AND part > ? LIMIT ?"), quorum).await?,
            change_list: make(format!("SELECT sort, size, writetime(value) FROM {item} WHERE part = ? AND kind = 2 AND sort >= ? LIMIT ?"), serial).await?,
            change_get: make(format!("SELECT value FROM {item} WHERE part = ? AND kind = 2 AND sort = ?"), quorum).await?,
        })
    }
}

/// The session, its statements, and the gate before them.
pub(crate) struct Cluster {
    session: Arc<Session>,
    pub(crate) statements: Statements,
    pub(crate) gate: Gate,
    request_timeout: Duration,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It had no effect and will have none.
    Unsent(StoreError),
    /// It may have had one.
    Unknown,
}

/// Values of one statement.
pub(crate) type Values = Vec<CqlValue>;

impl Cluster {
    pub(crate) fn new(session: Arc<Session>, statements: Statements, config: &Config) -> Self {
        let breaker = Breaker::new(config.breaker_failures, config.breaker_pause.duration());
        let gate = Gate::new(config.in_flight_max, breaker);
        Self { session, statements, gate, request_timeout: config.request_timeout.duration() }
    }

    /// Returns the session itself, for what does not pass the gate.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Reads: asks again until `by` while the cluster fails to answer.
    ///
    /// # Errors
    /// `Unavailable`, `Deadline`.
    pub(crate) async fn read(
        &self,
        statement: &PreparedStatement,
        values: Values,
        by: Instant,
    ) -> Result<QueryRowsResult, StoreError> {
        // The driver's futures are large.
        rows(self.repeated(by, || Box::pin(self.session.execute_unpaged(statement, &values))).await?)
    }

    /// Writes rows of one partition that may be written again and again: names and pointers.
    ///
    /// # Errors
    /// `Unavailable`, `Deadline`.
    pub(crate) async fn announce(
        &self,
        statement: &PreparedStatement,
        rows: &[Values],
        by: Instant,
    ) -> Result<(), StoreError> {
        if let [values] = rows {
            return self.repeated(by, || Box::pin(self.session.execute_unpaged(statement, values))).await.map(drop);
        }
        let statements = rows.iter().map(|_| BatchStatement::PreparedStatement(statement.clone())).collect();
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_consistency(Consistency::LocalQuorum);
        self.repeated(by, || Box::pin(self.session.batch(&batch, rows))).await.map(drop)
    }

    async fn repeated<R>(&self, by: Instant, request: impl Fn() -> R) -> Result<QueryResult, StoreError>
    where
        R: Future<Output = Result<QueryResult, ExecutionError>>,
    {
        let mut pause = PAUSE_MIN;
        loop {
            let failed = match self.once(by, request()).await {
                Ok(result) => return Ok(result),
                // What is repeated is the same.
                Err(Failed::Unknown) => StoreError::Unavailable { after: PAUSE_MAX },
                Err(Failed::Unsent(error)) => error,
            };
            wait(&mut pause, by, failed).await?;
        }
    }

    /// Sends a conditional batch once; tells whether it was applied.
    ///
    /// # Errors
    /// [`Failed`] says whether it may have had its effect.
    pub(crate) async fn judge(
        &self,
        statements: Vec<PreparedStatement>,
        values: Vec<Values>,
        by: Instant,
    ) -> Result<bool, Failed> {
        let statements = statements.into_iter().map(BatchStatement::PreparedStatement).collect();
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_consistency(Consistency::LocalQuorum);
        batch.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        let result = self.once(by, Box::pin(self.session.batch(&batch, &values))).await?;
        applied(result)
    }

    async fn once(
        &self,
        by: Instant,
        request: impl Future<Output = Result<QueryResult, ExecutionError>>,
    ) -> Result<QueryResult, Failed> {
        if Instant::now() >= by {
            return Err(Failed::Unsent(StoreError::Deadline));
        }
        let _passage = self.gate.pass(by).await.map_err(Failed::Unsent)?;
        let sent = Instant::now();
        let patience = by.min(sent + self.request_timeout);
        let answer = timeout_at(patience, request).await;
        self.gate.took(sent.elapsed());
        match answer {
            Ok(Ok(result)) => {
                self.gate.note(true);
                Ok(result)
            }
            Ok(Err(error)) => {
                let meaning = meaning(&error);
                self.gate.note(meaning.answered);
                Err(meaning.failed)
            }
            Err(_) => {
                self.gate.note(false);
                Err(Failed::Unknown)
            }
        }
    }
}

/// What an error of the driver means.
struct Meaning {
    failed: Failed,
    /// Whether the cluster is there all the same.
    answered: bool,
}

const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longest pause between two tries, and how long a caller is told to wait.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Waits before the next try, ever longer; hands the error on where it is no use or time is over.
pub(crate) async fn wait(pause: &mut Duration, by: Instant, failed: StoreError) -> Result<(), StoreError> {
    let again = Instant::now() + *pause;
    if !matches!(failed, StoreError::Unavailable { .. }) || again >= by {
        return Err(failed);
    }
    // Those who failed together come back apart.
    let jitter = pause.mul_f64(f64::from(uuid::Uuid::now_v7().as_bytes().last().copied().unwrap_or(0)) / 255.0);
    tokio::time::sleep_until((again + jitter).min(by)).await;
    *pause = (*pause * 2).min(PAUSE_MAX);
    Ok(())
}

fn meaning(error: &ExecutionError) -> Meaning {
    let unsent = |answered| {
        let failed = Failed::Unsent(StoreError::Unavailable { after: PAUSE_MAX });
        Meaning { failed, answered }
    };
    let unknown = |answered| Meaning { failed: Failed::Unknown, answered };
    let refused = |text: String| Meaning { failed: Failed::Unsent(StoreError::Corrupt(text)), answered: true };
    match error {
        ExecutionError::ConnectionPoolError(_) | ExecutionError::EmptyPlan => unsent(false),
        ExecutionError::RequestTimeout(_) => unknown(false),
        ExecutionError::LastAttemptError(attempt) => match attempt {
            RequestAttemptError::UnableToAllocStreamId => unsent(true),
            RequestAttemptError::BrokenConnectionError(_) => unknown(false),
            RequestAttemptError::DbError(db, message) => match db {
                // Not enough nodes were there to begin with.
                DbError::Unavailable { .. } | DbError::Overloaded | DbError::IsBootstrapping => unsent(false),
                DbError::WriteTimeout { .. } | DbError::WriteFailure { .. } | DbError::ServerError => unknown(true),
                DbError::ReadTimeout { .. } | DbError::ReadFailure { .. } => unknown(true),
                other => refused(format!("the cluster refused a request: {other}: {message}")),
            },
            other => refused(format!("the cluster did not understand a request: {other}")),
        },
        other => refused(format!("a request could not be made: {other}")),
    }
}

fn rows(result: QueryResult) -> Result<QueryRowsResult, StoreError> {
    result.into_rows_result().map_err(|error| corrupt(&error))
}

/// Returns the first column of a conditional write's answer.
fn applied(result: QueryResult) -> Result<bool, Failed> {
    let told = || -> Result<bool, StoreError> {
        let rows = rows(result)?;
        let row = rows.first_row::<scylla::value::Row>().map_err(|error| corrupt(&error))?;
        let first = row.columns.into_iter().next().flatten();
        first
            .and_then(|value| value.as_boolean())
            .ok_or_else(|| StoreError::Corrupt("no [applied] in an answer".into()))
    };
    // What it says cannot be read; what it did can be asked for.
    told().map_err(|_| Failed::Unknown)
}

/// Says that an answer of the cluster does not read back.
pub(crate) fn corrupt(error: &dyn fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("an answer of the cluster: {error}"))
}
