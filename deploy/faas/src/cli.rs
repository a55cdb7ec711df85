//! The command line as data. Every option has a long name; what is worth
//! setting once has a `FAAS_*` variable.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use faas_model::units::Millis;
use faas_model::{ALIAS_LIVE, NAMESPACE_DEFAULT, Name};

/// Functions by HTTP and by message, with their state, in one binary.
#[derive(Debug, Parser)]
#[command(name = "faas", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(after_help = "Start a server with `faas up`, then in another terminal:\n  \
                        faas new hello && faas build hello && faas deploy hello && faas invoke hello")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the platform: every role in this process
    Up(Box<Up>),
    /// Print the effective configuration
    Config(Config),
    /// Start a function from a template
    New(New),
    /// Run the build commands of a manifest
    Build(Build),
    /// Upload functions and make them live
    Deploy(Deploy),
    /// Call a function through the control API
    Invoke(Invoke),
    /// List functions
    Ls(List),
    /// Show one function
    Describe(Describe),
    /// List the versions of a function
    Versions(Versions),
    /// Make an earlier version live
    Rollback(Rollback),
    /// Point an alias to a version
    Promote(Promote),
    /// Remove a function with all its versions
    Rm(Remove),
    /// Show what a function wrote
    Logs(Logs),
    /// Read and write state buckets
    Kv(Kv),
    /// Tend the backend of state
    #[command(subcommand)]
    Baas(Baas),
    /// Print the version
    Version,
    #[command(name = "__compile", hide = true)]
    Compile,
    #[command(name = "__reference", hide = true)]
    Reference { what: Reference },
}

/// How data is printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
    /// Names alone
    Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reference {
    Cli,
    Config,
}

/// The control API of a server, and the namespace that is meant.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct Remote {
    /// Control API of the server
    #[arg(long, env = "FAAS_URL", value_name = "URL", default_value = "http://127.0.0.1:8081")]
    pub(crate) url: String,
    /// Namespace of the function
    #[arg(long, short, env = "FAAS_NAMESPACE", value_name = "NAME", default_value = NAMESPACE_DEFAULT)]
    pub(crate) namespace: Name,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// How to speak to a server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct Connection {
    /// File with the token; else FAAS_TOKEN, else `token` in the data folder
    #[arg(long, env = "FAAS_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Data folder of the server on this machine, for its token
    #[arg(long, env = "FAAS_DATA", value_name = "DIR")]
    pub(crate) server_data: Option<PathBuf>,
    /// How long to wait for the answer's head
    #[arg(long, env = "FAAS_TIMEOUT", value_name = "TIME", default_value = "5m", value_parser = time)]
    pub(crate) timeout: Millis,
    /// How data is printed
    #[arg(long, short, env = "FAAS_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// Layers over the defaults, lowest first: file, environment, these flags.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Layers {
    /// Server file; default ./faas-server.toml where it exists
    #[arg(long, env = "FAAS_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Data folder; default $XDG_DATA_HOME/faas or ~/.local/share/faas
    #[arg(long, env = "FAAS_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address for functions
    #[arg(long, env = "FAAS_LISTEN", value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Address for the control API
    #[arg(long, env = "FAAS_CONTROL", value_name = "ADDR")]
    pub(crate) control: Option<String>,
    /// Address for state
    #[arg(long, env = "FAAS_BAAS", value_name = "ADDR")]
    pub(crate) baas: Option<String>,
    /// Allow addresses beyond loopback
    #[arg(long, env = "FAAS_EXPOSE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) expose: bool,
    /// Broker `default`, such as amqp://user:password@host:5672/%2f; the variable keeps it out of `ps`
    #[arg(long, env = "FAAS_AMQP_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) amqp_url: Option<String>,
    /// What to log: a level, or directives such as `info,faas_gateway=debug`
    #[arg(long, env = "FAAS_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  faas up\n  faas up --data ./data --listen 127.0.0.1:9000\n  \
                        FAAS_SERVER_GRACE=5s faas up --listen 0.0.0.0:8080 --expose")]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) layers: Layers,
    /// Write the addresses and the process id here as JSON once ready
    #[arg(long, env = "FAAS_READY_FILE", value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// `json` prints the addresses on stdout as one JSON document once ready
    #[arg(long, short, env = "FAAS_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Baas {
    /// Make or update the schema of the cluster that the configuration names
    Migrate(Layers),
    /// Write functions and state of the configured store to a file, as NDJSON
    #[command(after_help = "Example:\n  faas baas export all.ndjson")]
    Export(Transfer),
    /// Bring functions and state of an exported file into the configured store
    #[command(after_help = "Example:\n  FAAS_STORE_TYPE=cassandra faas baas import all.ndjson")]
    Import {
        #[command(flatten)]
        transfer: Transfer,
        /// What is done about a row that is there already: refuse, keep or replace
        #[arg(long, default_value = "refuse")]
        existing: faas_transfer::Existing,
    },
    /// Show how the store of a running platform is: nodes, requests, breaker, repairs
    Status {
        /// Control API of the server
        #[arg(long, env = "FAAS_URL", value_name = "URL", default_value = "http://127.0.0.1:8081")]
        url: String,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Transfer {
    /// The file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) layers: Layers,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(flatten)]
    pub(crate) layers: Layers,
    /// Print the reference of every key as Markdown instead
    #[arg(long)]
    pub(crate) reference: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  faas new hello --template rust")]
pub(crate) struct New {
    /// Name of the function and of the new folder
    pub(crate) name: Name,
    /// Template to start from
    #[arg(long, value_name = "TEMPLATE", default_value = "rust")]
    pub(crate) template: Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// A Rust component for wasm32-wasip2
    Rust,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Folder with a faas.toml
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  faas deploy\n  faas deploy ./orders --build\n  \
                        faas deploy hello.wasm --name hello")]
pub(crate) struct Deploy {
    /// Folder with a faas.toml, or a component
    #[arg(default_value = ".", value_name = "DIR|FILE.wasm")]
    pub(crate) path: PathBuf,
    /// Name of the function; needed for a component, else picks one of the manifest
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<Name>,
    /// Build first
    #[arg(long)]
    pub(crate) build: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  faas invoke hello\n  faas invoke orders --path /orders --data '{\"item\":\"tea\"}'\n  \
                        faas invoke thumbnail --data @photo.jpg > small.jpg"
)]
pub(crate) struct Invoke {
    /// Name of the function
    pub(crate) name: Name,
    /// Path and query of the request
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) path: String,
    /// Method; default GET, or POST with data
    #[arg(long, short = 'X', value_name = "METHOD")]
    pub(crate) method: Option<http::Method>,
    /// Body: a text, `@FILE`, or `-` for stdin
    #[arg(long, short, value_name = "TEXT|@FILE|-", allow_hyphen_values = true)]
    pub(crate) data: Option<String>,
    /// Header of the request, `NAME: VALUE`; may be given again
    #[arg(long, short = 'H', value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    /// Print status and headers of the answer on stderr
    #[arg(long, short)]
    pub(crate) include: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// Name of the function
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Versions {
    /// Name of the function
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  faas rollback orders\n  faas rollback orders --to 3")]
pub(crate) struct Rollback {
    /// Name of the function
    pub(crate) name: Name,
    /// Version to make live, or the beginning of a revision id; default what was live before
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  faas promote orders 4 --alias canary")]
pub(crate) struct Promote {
    /// Name of the function
    pub(crate) name: Name,
    /// Version the alias shall point to, or the beginning of a revision id
    pub(crate) version: String,
    /// Alias to move
    #[arg(long, value_name = "ALIAS", default_value = ALIAS_LIVE)]
    pub(crate) alias: Name,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Name of the function
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Name of the function
    pub(crate) name: Name,
    /// Go on printing what comes
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Latest lines to begin with
    #[arg(long, value_name = "LINES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) lines: u32,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  faas kv put things greeting hello\n  faas kv get things greeting\n  \
                        faas kv ls things --prefix gre")]
pub(crate) struct Kv {
    #[command(subcommand)]
    pub(crate) command: KvCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// Print a value
    Get {
        bucket: Name,
        key: String,
        #[command(flatten)]
        state: State,
    },
    /// Write a value: a text, `@FILE`, or `-` for stdin
    Put {
        bucket: Name,
        key: String,
        #[arg(allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        state: State,
    },
    /// Remove a key
    Del {
        bucket: Name,
        key: String,
        #[command(flatten)]
        state: State,
    },
    /// List keys in byte order
    Ls {
        bucket: Name,
        /// Only keys that start so
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        #[command(flatten)]
        state: State,
    },
}

/// The state API of a server; the token says which namespace.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct State {
    /// State API of the server
    #[arg(long, env = "FAAS_BAAS_URL", value_name = "URL", default_value = "http://127.0.0.1:8181")]
    pub(crate) baas_url: String,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

fn time(text: &str) -> Result<Millis, String> {
    serde_json::from_value(text.into()).map_err(|_| "use a time such as 250ms, 30s or 15m".to_owned())
}
