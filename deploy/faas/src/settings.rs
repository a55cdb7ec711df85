//! The one place where defaults, the server file, the environment and flags
//! become settings. Unknown keys are errors, wherever they come from.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use faas_model::manifest::with_nearest_key;
use faas_model::units::Millis;
use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};
use serde::{Deserialize, Serialize};

use crate::cli::{Cli, Layers};
use crate::data_folder;
use crate::failure::{Exit, Failure, Outcome};

/// The server file that is read where it exists.
const FILE: &str = "faas-server.toml";
/// What the names of our variables start with.
const PREFIX: &str = "FAAS_";
/// Variables of client commands that are no flags.
const CLIENT_VARIABLES: &[&str] = &["FAAS_TOKEN"];

/// Everything that can be set, one section per part.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) server: Server,
    pub(crate) gateway: faas_gateway::http::Config,
    pub(crate) front: faas_gateway::front::Config,
    pub(crate) control: faas_control::Config,
    pub(crate) baas: faas_baas::Config,
    pub(crate) functions: faas_function_service::Config,
    pub(crate) repo: faas_repo::Config,
    pub(crate) store: StoreSettings,
    pub(crate) embedded: faas_store::EmbeddedConfig,
    pub(crate) cassandra: faas_cassandra::Config,
    pub(crate) wasm: faas_runtime_wasm::Config,
    pub(crate) egress: faas_runtime::egress::Config,
    pub(crate) logs: faas_runtime::logs::LogConfig,
    pub(crate) metrics: faas_metrics::Config,
    pub(crate) amqp: faas_gateway::amqp::Config,
}

/// Where state and records are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreSettings {
    /// Which store.
    #[serde(rename = "type")]
    pub(crate) kind: StoreType,
}

/// A kind of store; each has a section of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreType {
    /// In the data folder.
    #[default]
    Embedded,
    /// On a cluster of Apache Cassandra.
    Cassandra,
}

/// The process itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Server {
    /// Where everything is kept.
    pub(crate) data: PathBuf,
    /// Address for functions.
    pub(crate) listen: String,
    /// Address for the control API.
    pub(crate) control: String,
    /// Address for state.
    pub(crate) baas: String,
    /// Whether addresses beyond loopback are allowed.
    pub(crate) expose: bool,
    /// Threads that serve requests; 0 is one per core.
    pub(crate) workers: usize,
    /// From the signal to the end at most.
    pub(crate) grace: Millis,
    /// What is logged.
    pub(crate) log: String,
    /// How.
    pub(crate) log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            data: data_folder::default_path().unwrap_or_else(|| PathBuf::from("faas-data")),
            listen: "127.0.0.1:8080".into(),
            control: "127.0.0.1:8081".into(),
            baas: "127.0.0.1:8181".into(),
            expose: false,
            workers: 0,
            grace: Millis::seconds(30),
            log: "info".into(),
            log_format: LogFormat::Text,
        }
    }
}

impl Settings {
    /// Reads every layer of this process.
    ///
    /// # Errors
    /// `Data` names the key, where it was set, and the nearest known one.
    pub(crate) fn load(layers: &Layers) -> Outcome<Self> {
        let file = match &layers.config {
            Some(file) => Some(file.clone()),
            None => Some(PathBuf::from(FILE)).filter(|file| file.exists()),
        };
        let file = file.map(|path| read(&path).map(|text| (path, text))).transpose()?;
        let variables = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::layered(file, variables, layers)
    }

    fn layered(
        file: Option<(PathBuf, String)>,
        variables: impl Iterator<Item = (String, String)>,
        flags: &Layers,
    ) -> Outcome<Self> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some((path, text)) = file {
            let data = Profile::Default.collect(parse(&path, &text)?);
            figment = figment.merge(Layer { name: path.display().to_string(), data });
        }
        let reserved = reserved();
        let mut variables: Vec<_> = variables.filter(|(name, _)| is_setting(name, &reserved)).collect();
        variables.sort();
        for (name, value) in variables {
            let key = key_of(&name);
            // Text stays as it is, also where it looks like a number: a password may.
            let is_text = figment.find_value(&key).is_ok_and(|before| before.as_str().is_some());
            let value = match value.parse() {
                Ok(parsed) if !is_text || value.starts_with('"') => parsed,
                _ => Value::from(value),
            };
            figment = figment.merge(Layer::one(format!("the variable {name}"), &key, value));
        }
        for (flag, key, value) in of_flags(flags) {
            figment = figment.merge(Layer::one(format!("the flag --{flag}"), key, value));
        }
        figment.extract().map_err(|error| failure(&error))
    }

    /// Returns the settings as TOML. Types that hold secrets write none of them.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }
}

/// Returns `section.key` of `FAAS_SECTION_KEY`; two underscores step into a table of the section.
fn key_of(variable: &str) -> String {
    let name = variable.strip_prefix(PREFIX).unwrap_or(variable).to_ascii_lowercase();
    name.replacen('_', ".", 1).replace("__", ".")
}

fn is_setting(name: &str, reserved: &[String]) -> bool {
    name.starts_with(PREFIX) && !reserved.iter().any(|r| r == name)
}

/// Returns the variables that stand for flags and are read as such.
fn reserved() -> Vec<String> {
    fn collect(command: &clap::Command, out: &mut Vec<String>) {
        out.extend(command.get_arguments().filter_map(|a| a.get_env()).map(|e| e.to_string_lossy().into_owned()));
        command.get_subcommands().for_each(|sub| collect(sub, out));
    }
    let mut out: Vec<String> = CLIENT_VARIABLES.iter().map(|v| (*v).to_owned()).collect();
    collect(&Cli::command(), &mut out);
    out
}

fn of_flags(flags: &Layers) -> Vec<(&'static str, &'static str, Value)> {
    let text = |value: &Option<String>| value.clone().map(Value::from);
    let all = [
        ("data", "server.data", flags.data.as_ref().map(|d| Value::from(d.to_string_lossy().into_owned()))),
        ("listen", "server.listen", text(&flags.listen)),
        ("control", "server.control", text(&flags.control)),
        ("baas", "server.baas", text(&flags.baas)),
        ("expose", "server.expose", flags.expose.then(|| Value::from(true))),
        ("amqp-url", "amqp.brokers.default.url", text(&flags.amqp_url)),
        ("log", "server.log", text(&flags.log)),
    ];
    all.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?))).collect()
}

/// Some values, and where they come from.
struct Layer {
    name: String,
    data: Map<Profile, Dict>,
}

impl Layer {
    fn one(name: String, key: &str, value: Value) -> Self {
        let dict = figment::util::nest(key, value).into_dict().unwrap_or_default();
        Self { name, data: Profile::Default.collect(dict) }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(self.data.clone())
    }
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Failure::new(Exit::Data, format!("{} cannot be read: {e}", path.display()), "name the right file with --config")
    })
}

/// Parses a server file. Its lines are never quoted: a broker's URL holds a password.
fn parse(path: &Path, text: &str) -> Outcome<Dict> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let what = error.message().lines().collect::<Vec<_>>().join(", ");
        let message = format!("{} is not TOML at line {line}, column {column}: {what}", path.display());
        Failure::new(Exit::Data, message, "`faas config --reference` shows how each key is written")
    })
}

fn failure(error: &Error) -> Failure {
    use figment::error::Kind;
    let origin = error.metadata.as_ref().map_or("the settings", |m| m.name.as_ref());
    let what = match &error.kind {
        Kind::UnknownField(name, known) => {
            let known: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
            with_nearest_key(&format!("unknown field `{name}`, expected one of {}", known.join(", ")))
        }
        // What stands where a broker or a password belongs may be a password.
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected)
            if error.path.first().is_some_and(|section| section == "amqp" || section == "cassandra") =>
        {
            format!("invalid value, expected {expected}")
        }
        kind => kind.to_string(),
    };
    let key = if error.path.is_empty() { String::new() } else { format!("{}: ", error.path.join(".")) };
    let hint = "`faas config --reference` lists every key; `faas config` prints the values in effect";
    Failure::new(Exit::Data, format!("{key}{what} (in {origin})"), hint)
}

#[cfg(test)]
mod tests;
