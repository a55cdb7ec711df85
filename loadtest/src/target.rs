//! What is tested: a platform with its functions deployed, `wasmtime serve`, or a server that runs already.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::plan::{Plan, copies};
use crate::platform::{Options, Platform};
use crate::samples;
use crate::scenario::Scenario;

/// Longest wait for `wasmtime serve` to listen: it compiles first.
const LISTEN_PATIENCE: Duration = Duration::from_secs(60);

/// Most functions of one manifest, as the platform has it.
const MANIFEST_FUNCTIONS_MAX: usize = 64;

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `host:port`.
    pub authority: String,
    /// Path before that of a request; `{function}` stands for the function's name.
    pub prefix: String,
}

impl Address {
    /// Reads `http://host:port/prefix`.
    ///
    /// # Errors
    /// When it is no plain HTTP URL with a port.
    pub fn parse(url: &str) -> Result<Self> {
        let wrong = || format!("target {url:?} is not http://HOST:PORT/PREFIX");
        let rest = url.strip_prefix("http://").with_context(wrong)?;
        let (authority, prefix) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = authority.rsplit_once(':').with_context(wrong)?;
        ensure!(!host.is_empty() && port.parse::<u16>().is_ok(), wrong());
        Ok(Self { authority: authority.to_owned(), prefix: prefix.trim_end_matches('/').to_owned() })
    }

    /// Returns the target of a request.
    #[must_use]
    pub fn path(&self, function: &str, path: &str) -> String {
        format!("{}{path}", self.prefix.replace("{function}", function))
    }
}

/// Which program to test, as `--target` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// `faas up`, of this program or of the one beside the generator, with more flags.
    Faas(Option<PathBuf>, Vec<String>),
    /// `wasmtime serve` of this program, with more flags.
    Wasmtime(PathBuf, Vec<String>),
    /// A server that runs already.
    Url(String),
}

impl Choice {
    /// Reads `faas[:PROGRAM] [FLAGS]`, `wasmtime:PROGRAM [FLAGS]` or a URL.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with("http://") {
            return Ok(Self::Url(text.to_owned()));
        }
        let mut words = text.split_whitespace();
        let first = words.next().unwrap_or_default();
        let flags: Vec<String> = words.map(str::to_owned).collect();
        match first.split_once(':').map_or((first, None), |(kind, program)| (kind, Some(PathBuf::from(program)))) {
            ("faas", program) => Ok(Self::Faas(program, flags)),
            ("wasmtime", Some(program)) => Ok(Self::Wasmtime(program, flags)),
            _ => bail!(
                "target {text:?} is not `faas[:PROGRAM] [FLAGS]`, `wasmtime:PROGRAM [FLAGS]` or `http://HOST:PORT/PREFIX`"
            ),
        }
    }

    /// Returns what a scenario says itself.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        scenario.target.url.clone().map_or_else(|| Self::Faas(None, Vec::new()), Self::Url)
    }
}

/// A server that answers; one that was started here ends with it.
#[derive(Debug)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// Its process, when it was started here.
    pub pid: Option<u32>,
    /// The platform, when it is one that was started here.
    pub platform: Option<Platform>,
    _child: Option<Child>,
    _folder: Option<TempDir>,
}

impl Target {
    /// Starts what `choice` says with all that `scenario` needs.
    ///
    /// # Errors
    /// When it does not start, or cannot hold the scenario's functions.
    pub async fn start(choice: &Choice, scenario: &Scenario) -> Result<Self> {
        match choice {
            Choice::Url(url) => {
                let address = Address::parse(url)?;
                Ok(Self { address, pid: None, platform: None, _child: None, _folder: None })
            }
            Choice::Faas(program, flags) => start_platform(program.clone(), flags, scenario).await,
            Choice::Wasmtime(program, flags) => start_wasmtime(program, flags, scenario).await,
        }
    }
}

async fn start_platform(binary: Option<PathBuf>, flags: &[String], scenario: &Scenario) -> Result<Target> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("faas-server.toml");
    std::fs::write(&config, &scenario.target.config)?;
    let mut all = vec!["--config".to_owned(), config.to_str().context("the folder is not UTF-8")?.to_owned()];
    all.extend(scenario.target.flags.iter().chain(flags).cloned());
    let platform = Platform::start(folder.path(), Options { binary, flags: all, ..Options::default() }).await?;
    let code = folder.path().join("code");
    std::fs::create_dir_all(&code)?;
    for manifest in manifests(functions(scenario)?)? {
        std::fs::write(code.join("faas.toml"), manifest)?;
        platform.deploy(&code).await?;
    }
    let authority = platform.ready().functions.clone();
    let address = Address { authority, prefix: "/function/{function}".into() };
    let pid = Some(platform.ready().pid);
    Ok(Target { address, pid, platform: Some(platform), _child: None, _folder: Some(folder) })
}

/// Returns the settings of all functions of a scenario, by name.
fn functions(scenario: &Scenario) -> Result<toml::Table> {
    let mut functions = toml::Table::new();
    let mut add = |name: String, sample: &str, mut settings: toml::Table| -> Result<()> {
        let component = samples::component(sample)?.canonicalize()?;
        let component = component.to_str().context("the component's path is not UTF-8")?;
        settings.insert("source".into(), component.into());
        ensure!(functions.insert(name.clone(), settings.into()).is_none(), "two functions are called {name:?}");
        Ok(())
    };
    if let Some(shape) = &scenario.azure2019 {
        for function in &shape.population(scenario.seed)?.functions {
            add(function.name.clone(), samples::WORK, shape.settings(function))?;
        }
    }
    for function in &scenario.functions {
        for name in copies(function) {
            add(name, function.sample.as_deref().unwrap_or(&function.name), function.settings.clone())?;
        }
    }
    Ok(functions)
}

/// Returns manifests of all functions, none larger than a manifest may be.
fn manifests(functions: toml::Table) -> Result<Vec<String>> {
    let mut manifests = Vec::new();
    let mut left = functions.into_iter().peekable();
    while left.peek().is_some() {
        let some: toml::Table = left.by_ref().take(MANIFEST_FUNCTIONS_MAX).collect();
        let manifest: toml::Table = [("functions".to_owned(), some.into())].into_iter().collect();
        manifests.push(toml::to_string(&manifest)?);
    }
    Ok(manifests)
}

async fn start_wasmtime(program: &Path, flags: &[String], scenario: &Scenario) -> Result<Target> {
    let [function] = scenario.functions.as_slice() else {
        bail!("`wasmtime serve` serves one function; scenario {} has {}", scenario.name, scenario.functions.len());
    };
    ensure!(function.copies == 1, "`wasmtime serve` serves one function, not {} copies", function.copies);
    // It cannot be asked for a free port and told which it took, so one is found and given back first.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let authority = format!("127.0.0.1:{port}");
    let child = Command::new(program)
        .args(["serve", "-Scli", "--addr", &authority])
        .args(flags)
        .arg(samples::component(function.sample.as_deref().unwrap_or(&function.name))?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} does not start", program.display()))?;
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(&authority).await.is_err() {
        ensure!(begun.elapsed() < LISTEN_PATIENCE, "`wasmtime serve` did not listen on {authority} in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let address = Address { authority, prefix: String::new() };
    Ok(Target { address, pid: child.id(), platform: None, _child: Some(child), _folder: None })
}

/// Returns good answers per second of a closed loop of the plan's first route.
///
/// # Errors
/// When the scenario has no `[calibrate]`, or nothing answers.
pub async fn capacity(scenario: &Scenario, address: &Address) -> Result<Option<f64>> {
    let Some(calibrate) = &scenario.calibrate else { return Ok(None) };
    // Any capacity will do for a plan of which only the routes are used.
    let plan = Plan::of(scenario, Some(1.0))?;
    let route = plan.routes.first().context("the scenario sends nothing")?;
    let shot = crate::load::Shot {
        authority: address.authority.clone(),
        method: route.method.clone(),
        target: address.path(&route.function, &route.path),
        headers: route.headers.clone(),
        body: route.body.clone(),
        numbered: route.numbered || route.path.contains("{n}"),
    };
    let outcome = crate::load::closed_loop(&shot, calibrate.connections, calibrate.duration).await?;
    ensure!(outcome.good > 0, "the calibration got no good answer of {}", outcome.bad);
    Ok(Some(outcome.rate()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_makes_paths() {
        let address = Address::parse("http://127.0.0.1:8080/function/{function}/").unwrap();
        assert_eq!(address.authority, "127.0.0.1:8080");
        assert_eq!(address.path("orders", "/x?y=1"), "/function/orders/x?y=1");
        assert_eq!(Address::parse("http://h:1").unwrap().path("orders", "/x"), "/x");
        for wrong in ["h:1", "https://h:1/", "http://h/", "http://:1/", "http://h:99999/"] {
            assert!(Address::parse(wrong).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn many_functions_are_spread_over_manifests() {
        let many: toml::Table = (0..129).map(|n| (format!("f-{n}"), toml::Table::new().into())).collect();
        let manifests = manifests(many).unwrap();
        let counts: Vec<_> = manifests.iter().map(|m| m.matches("[functions.").count()).collect();
        assert_eq!(counts, [64, 64, 1]);
    }

    #[test]
    fn a_choice_names_a_program_and_its_flags() {
        let flags = vec!["--max-instance-reuse-count".to_owned(), "128".to_owned()];
        let wasmtime = Choice::Wasmtime("/opt/wasmtime".into(), flags);
        assert_eq!(Choice::parse("wasmtime:/opt/wasmtime --max-instance-reuse-count 128").unwrap(), wasmtime);
        assert_eq!(Choice::parse("faas").unwrap(), Choice::Faas(None, vec![]));
        assert_eq!(Choice::parse("faas:/x/faas").unwrap(), Choice::Faas(Some("/x/faas".into()), vec![]));
        assert_eq!(Choice::parse("http://h:1/").unwrap(), Choice::Url("http://h:1/".into()));
        for wrong in ["", "wasmtime", "nginx:/x", "/opt/wasmtime"] {
            assert!(Choice::parse(wrong).unwrap_err().to_string().contains("target"), "{wrong}");
        }
    }
}
