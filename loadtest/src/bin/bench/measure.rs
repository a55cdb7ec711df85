//! The samples through the whole platform, beside bare hyper and `wasmtime serve`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use faas_loadtest::cpu;
use faas_loadtest::load::{Outcome, Shot, closed_loop};
use faas_loadtest::platform::{Options, Platform};
use faas_loadtest::samples;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::HttpArguments;

const SAMPLES: [&str; 3] = ["hello", "orders", "thumbnail"];
/// The platform in the reports.
const OURS: &str = "faas up";
/// The platform with instances that are kept.
const KEPT: &str = "faas up, sequential";
/// The same handler served by hyper and wasmtime in one process, with nothing around them.
const FLOOR: &str = "hyper + wasmtime alone";

/// A server under measurement.
struct Peer {
    name: &'static str,
    pid: u32,
    shot: Shot,
    samples: Vec<Sample>,
    _child: Option<Child>,
}

impl Peer {
    fn child(name: &'static str, child: Child, shot: Shot) -> Result<Self> {
        let pid = child.id().context("gone")?;
        Ok(Self { name, pid, shot, samples: Vec::new(), _child: Some(child) })
    }
}

struct Sample {
    cpu_us: f64,
    rate: f64,
    p50_us: u32,
    p99_us: u32,
    bad: u64,
}

pub(crate) async fn run(arguments: &HttpArguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let platform = Platform::start(folder.path(), Options::default()).await?;
    let names =
        SAMPLES.into_iter().filter(|name| arguments.samples.is_empty() || arguments.samples.iter().any(|s| s == name));
    let names: Vec<_> = names.collect();
    let other = match &arguments.other {
        Some(binary) => {
            let options = Options { binary: Some(binary.clone()), ..Options::default() };
            Some(Platform::start(&folder.path().join("other"), options).await?)
        }
        None => None,
    };
    for platform in [Some(&platform), other.as_ref()].into_iter().flatten() {
        for name in &names {
            platform.deploy(&samples::folder(name)).await?;
        }
    }
    println!(
        "connections {}, {} rounds of {} s, interleaved; CPU is the server's alone",
        arguments.connections, arguments.rounds, arguments.seconds
    );
    for name in names.iter().filter(|name| **name != "orders") {
        let small = folder.path().join(format!("{name}-kept"));
        samples::manifest(&small, &kept(name), name, "reuse = \"sequential\"\nscale = { max = 100 }")?;
        platform.deploy(&small).await?;
    }
    for name in names {
        let mut peers = peers_of(name, &platform, other.as_ref(), arguments).await?;
        for _ in 0..arguments.rounds {
            for peer in &mut peers {
                let sample = measure(peer.pid, &peer.shot, arguments.connections, arguments.time()).await?;
                peer.samples.push(sample);
            }
        }
        report(name, &peers);
    }
    Ok(())
}

/// Returns the name of a sample that keeps its stores.
fn kept(name: &str) -> String {
    format!("{name}-kept")
}

async fn peers_of(
    name: &'static str,
    platform: &Platform,
    other: Option<&Platform>,
    arguments: &HttpArguments,
) -> Result<Vec<Peer>> {
    let ours = platform_shot(name, platform)?;
    let answer_bytes = answer_bytes(&ours).await?;
    let (bare, address) = start_bare(answer_bytes).await?;
    let bare_shot = Shot { authority: address, target: "/".into(), ..ours.clone() };
    let mut peers = vec![
        Peer::child("bare hyper", bare, bare_shot)?,
        Peer { name: OURS, pid: platform.ready().pid, shot: ours, samples: Vec::new(), _child: None },
    ];
    if name != "orders" {
        let shot = shot_of(name, &platform.ready().functions, &format!("/function/{}", kept(name)))?;
        let pid = platform.ready().pid;
        peers.push(Peer { name: KEPT, pid, shot, samples: Vec::new(), _child: None });
    }
    if let Some(other) = other {
        let shot = platform_shot(name, other)?;
        peers.push(Peer {
            name: "faas up, other build",
            pid: other.ready().pid,
            shot,
            samples: Vec::new(),
            _child: None,
        });
    }
    // Neither has wasi:keyvalue 0.2.0-draft2, so orders cannot run there.
    if name == "orders" {
        return Ok(peers);
    }
    let (child, address) = start_floor(&samples::component(name)?).await?;
    peers.push(Peer::child(FLOOR, child, shot_of(name, &address, "")?)?);
    if let Some(wasmtime) = &arguments.wasmtime {
        for (label, reuse) in [("wasmtime serve", None), ("wasmtime serve, reuse 128", Some("128"))] {
            let (child, address) = start_wasmtime(wasmtime, name, reuse).await?;
            peers.push(Peer::child(label, child, shot_of(name, &address, "")?)?);
        }
    }
    Ok(peers)
}

fn platform_shot(name: &str, platform: &Platform) -> Result<Shot> {
    shot_of(name, &platform.ready().functions, &format!("/function/{name}"))
}

fn shot_of(name: &str, authority: &str, prefix: &str) -> Result<Shot> {
    let mut shot = Shot::get(authority, &format!("{prefix}/"));
    match name {
        "thumbnail" => {
            let photos = samples::folder("thumbnail").join("photos");
            let photo = std::fs::read_dir(photos)?
                .filter_map(|e| Some(e.ok()?.path()))
                .find(|p| p.extension().is_some_and(|e| e == "jpg" || e == "png"));
            shot.method = http::Method::POST;
            shot.target = format!("{prefix}/?width=64");
            shot.headers = vec![("content-type".into(), "image/jpeg".into())];
            shot.body = std::fs::read(photo.context("no photograph")?)?.into();
        }
        "orders" => {
            shot.method = http::Method::POST;
            shot.target = format!("{prefix}/orders");
            shot.headers = vec![("content-type".into(), "application/json".into())];
            shot.body =
                r#"{"id":"bench-{n}","customer":"ada","items":[{"sku":"tea","quantity":2,"price_cents":450}]}"#.into();
            shot.numbered = true;
        }
        _ => {}
    }
    Ok(shot)
}

async fn answer_bytes(shot: &Shot) -> Result<usize> {
    let client = faas_loadtest::http::Client::default();
    let url = format!("http://{}{}", shot.authority, shot.target);
    let headers: Vec<_> = shot.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let body = String::from_utf8_lossy(&shot.body).replace("{n}", "first");
    let body = if shot.numbered { body.into() } else { shot.body.clone() };
    let answer = client.send(shot.method.clone(), &url, &headers, body).await?;
    anyhow::ensure!(answer.status.is_success(), "{url}: {} {}", answer.status, answer.text());
    Ok(answer.body.len())
}

pub(crate) async fn start_bare(body_bytes: usize) -> Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bare", "--body-bytes", &body_bytes.to_string()]);
    spawn(command).await
}

/// Starts the bare host of `runtimes/wasm/examples`.
async fn start_floor(component: &Path) -> Result<(Child, String)> {
    let program = std::env::current_exe()?.with_file_name("examples").join("bare");
    anyhow::ensure!(program.exists(), "{} is missing: build it with `--example bare`", program.display());
    let mut command = Command::new(program);
    command.arg(component);
    spawn(command).await
}

/// Starts a server that prints its address first.
async fn spawn(mut command: Command) -> Result<(Child, String)> {
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let line = BufReader::new(stdout).lines().next_line().await?.context("no address")?;
    Ok((child, line))
}

async fn start_wasmtime(program: &Path, name: &str, reuse: Option<&str>) -> Result<(Child, String)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new(program);
    command.args(["serve", "-Scli", "--addr", &address]);
    if let Some(count) = reuse {
        command.args(["--max-instance-reuse-count", count]);
    }
    let child = command
        .arg(samples::component(name)?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    for _ in 0..3000 {
        if tokio::net::TcpStream::connect(&address).await.is_ok() {
            return Ok((child, address));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("wasmtime serve did not start")
}

async fn measure(pid: u32, shot: &Shot, connections: usize, time: Duration) -> Result<Sample> {
    closed_loop(shot, connections, Duration::from_millis(500)).await?;
    let before = cpu::time_of(pid)?;
    let outcome: Outcome = closed_loop(shot, connections, time).await?;
    let used = cpu::time_of(pid)?.saturating_sub(before);
    let answers = (outcome.good + outcome.bad).max(1);
    Ok(Sample {
        cpu_us: used.as_secs_f64() * 1e6 / answers as f64,
        rate: outcome.rate(),
        p50_us: outcome.quantile_us(0.5),
        p99_us: outcome.quantile_us(0.99),
        bad: outcome.bad,
    })
}

pub(crate) fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |i: usize| values.get(i).copied().unwrap_or_default();
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

fn report(name: &str, peers: &[Peer]) {
    println!("\n{name}");
    println!(
        "  {:<28} {:>24} {:>12} {:>9} {:>9} {:>6}",
        "", "CPU us/request (min-max)", "requests/s", "p50 us", "p99 us", "bad"
    );
    for peer in peers {
        let (low, middle, high) = spread(peer.samples.iter().map(|s| s.cpu_us));
        let (_, rate, _) = spread(peer.samples.iter().map(|s| s.rate));
        let (_, p50, _) = spread(peer.samples.iter().map(|s| f64::from(s.p50_us)));
        let (_, p99, _) = spread(peer.samples.iter().map(|s| f64::from(s.p99_us)));
        let bad: u64 = peer.samples.iter().map(|s| s.bad).sum();
        println!("  {:<28} {middle:>10.1} ({low:.1}-{high:.1}) {rate:>12.0} {p50:>9.0} {p99:>9.0} {bad:>6}", peer.name);
    }
    let middle =
        |name: &str| peers.iter().find(|p| p.name == name).map(|p| spread(p.samples.iter().map(|s| s.cpu_us)).1);
    for own in [OURS, KEPT] {
        let Some(ours) = middle(own) else { continue };
        for peer in peers.iter().filter(|p| !p.name.starts_with(OURS)) {
            if let Some(other) = middle(peer.name) {
                println!("  {own} costs {:.2}x the CPU of {}", ours / other, peer.name);
            }
        }
    }
    report_tax(peers);
}

/// What the platform adds to the same handler, round by round.
fn report_tax(peers: &[Peer]) {
    let cpu = |name: &str| {
        let peer = peers.iter().find(|p| p.name == name)?;
        Some(peer.samples.iter().map(|s| s.cpu_us).collect::<Vec<_>>())
    };
    let (Some(ours), Some(floor)) = (cpu(OURS), cpu(FLOOR)) else { return };
    let (low, middle, high) = spread(ours.iter().zip(&floor).map(|(ours, floor)| ours - floor));
    println!("  platform tax: {middle:.1} us ({low:.1}-{high:.1}), that is {OURS} less {FLOOR}");
}
