//! Gets and durable puts through the key-value door, beside bare hyper.
//! (Puts of the store beside the raw engine: `cargo run -p faas-store --example state`.)

use anyhow::{Context, Result, ensure};
use faas_loadtest::bytes_of::noise;
use faas_loadtest::cpu;
use faas_loadtest::http::Client;
use faas_loadtest::load::{Outcome, Shot, closed_loop};
use faas_loadtest::platform::{Options, Platform};
use http::Method;

use crate::HttpArguments;
use crate::measure::{spread, start_bare};

const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 10_000;

pub(crate) async fn run(arguments: &HttpArguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let platform = Platform::start(folder.path(), Options::default()).await?;
    let authorization = format!("Bearer {}", platform.token()?);
    load_keys(&platform, &authorization).await?;
    let (bare, bare_address) = start_bare(VALUE_BYTES).await?;
    let bare_pid = bare.id().context("gone")?;
    let own_pid = platform.ready().pid;
    let mut get = Shot::get(&platform.ready().baas, "/kv/bench/{n}");
    get.headers = vec![("authorization".into(), authorization.clone())];
    get.target = "/kv/bench/7".into();
    let put = Shot {
        method: Method::PUT,
        target: "/kv/bench/put-{n}".into(),
        body: String::from_utf8(vec![b'v'; VALUE_BYTES])?.into(),
        numbered: true,
        ..get.clone()
    };
    let plain = Shot::get(&bare_address, "/");
    let mut ratios = Vec::new();
    println!("values of {VALUE_BYTES} bytes, {KEYS} keys, {} rounds of {} s", arguments.rounds, arguments.seconds);
    for _ in 0..arguments.rounds {
        let bare = line("bare hyper GET", bare_pid, &plain, 32, arguments).await?;
        let door = line("key-value GET", own_pid, &get, 32, arguments).await?;
        ratios.push(door.rate() / bare.rate());
        line("key-value PUT, 1 client", own_pid, &put, 1, arguments).await?;
        line("key-value PUT, 64 clients", own_pid, &put, 64, arguments).await?;
    }
    let (low, middle, high) = spread(ratios.into_iter());
    println!("gets/s through the door are {middle:.2}x bare hyper ({low:.2}-{high:.2})");
    Ok(())
}

async fn load_keys(platform: &Platform, authorization: &str) -> Result<()> {
    let client = Client::default();
    let lanes = (0..64u64).map(|lane| {
        let client = client.clone();
        let base = platform.baas("/kv/bench");
        let authorization = authorization.to_owned();
        tokio::spawn(async move {
            for n in (lane..KEYS).step_by(64) {
                let url = format!("{base}/{n}");
                let answer =
                    client.send(Method::PUT, &url, &[("authorization", &authorization)], noise(n, VALUE_BYTES)).await?;
                ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
            }
            anyhow::Ok(())
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await??;
    }
    Ok(())
}

async fn line(name: &str, pid: u32, shot: &Shot, connections: usize, arguments: &HttpArguments) -> Result<Outcome> {
    let before = cpu::time_of(pid)?;
    let outcome = closed_loop(shot, connections, arguments.time()).await?;
    let used =
        cpu::time_of(pid)?.saturating_sub(before).as_secs_f64() * 1e6 / (outcome.good + outcome.bad).max(1) as f64;
    println!(
        "  {name:<28} {:>9.0}/s  p50 {:>6} us  p99 {:>6} us  {used:>6.1} us CPU  {} bad",
        outcome.rate(),
        outcome.quantile_us(0.5),
        outcome.quantile_us(0.99),
        outcome.bad
    );
    Ok(outcome)
}
