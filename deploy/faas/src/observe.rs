//! Log and metrics of this process: the only place that installs them.

use std::io::IsTerminal;

use faas_metrics::{Config, Metrics};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::failure::{Exit, Failure, Outcome};
use crate::settings::{LogFormat, Server};

/// Sends the log to stderr.
///
/// # Errors
/// `Data` when the filter cannot be read.
pub(crate) fn log(server: &Server) -> Outcome {
    // The AMQP library calls every lost connection an error and prints whole messages; what matters of it we log.
    let lapin = if server.log.contains("lapin") { "" } else { ",lapin=off" };
    // The driver of Cassandra tells of each of its connections.
    let scylla = if server.log.contains("scylla") { "" } else { ",scylla=warn" };
    let filter = EnvFilter::try_new(format!("{}{lapin}{scylla}", server.log)).map_err(|e| {
        let message = format!("server.log = {:?} is no filter: {e}", server.log);
        Failure::new(Exit::Data, message, "use a level, or directives such as `info,faas_gateway=debug`")
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let installed = match server.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|e| Failure::new(Exit::Refused, format!("the log cannot be installed: {e}"), "report this"))
}

/// Installs the recorder of metrics and returns what prints them.
pub(crate) fn metrics(config: &Config) -> Outcome<Metrics> {
    let metrics = Metrics::new(config);
    let installed = metrics.install();
    installed.map_err(|e| Failure::new(Exit::Refused, format!("metrics cannot be installed: {e}"), "report this"))?;
    Ok(metrics)
}
