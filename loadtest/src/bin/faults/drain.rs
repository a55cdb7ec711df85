//! SIGTERM under load, again and again: once with the platform's own sockets,
//! where connections are refused while it is down, or with `--sockets` with
//! sockets that outlive it, where no request may fail at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use faas_loadtest::broker::{Broker, free_port};
use faas_loadtest::platform::{Listen, Options, Platform};
use faas_loadtest::samples;
use tokio::time::Instant;

use crate::messages;
use crate::traffic::{Caller, Ends, Traffic};

/// The platform's grace period; a drain that takes longer is a violation.
const GRACE: Duration = Duration::from_secs(20);
/// The platform's lame duck: far above the gaps of the callers, also on a machine so busy that they come late.
const LAME_DUCK: Duration = Duration::from_secs(10);
/// Kept-alive callers, ten requests a second each.
const CALLERS: usize = 50;
/// Callers of answers that stream for 0.4 s.
const SLOW: usize = 8;
/// Callers with a new connection for every request, ten a second each; only with `--sockets`.
const FRESH: usize = 10;
/// Messages a second.
const MESSAGES: u64 = 100;

/// Flags of the suite.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many times the platform is stopped and started.
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// Whether sockets are passed by us, as systemd does, so that new connections wait during a restart.
    #[arg(long)]
    sockets: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&folder.path().join("broker"), free_port()?).await?;
    let mut platform = start(&folder.path().join("faas"), &broker, arguments.sockets).await?;
    platform.deploy(&samples::folder("hello")).await?;
    platform.deploy(&samples::folder("orders")).await?;
    messages::wait_for_queue(&broker.url()).await?;
    broker.settle().await;
    let published = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn(messages::publish_until(broker.url(), MESSAGES, published.clone()));
    let traffic = Traffic::start(callers(&platform, arguments.sockets));
    let mut worst = Duration::ZERO;
    for round in 0..arguments.rounds {
        // Each stop hits another moment of the calls that run.
        tokio::time::sleep(Duration::from_millis(700 + round * 37 % 400)).await;
        traffic.set_ending(true);
        let begun = Instant::now();
        let code = platform.terminate().await?;
        worst = worst.max(begun.elapsed());
        ensure!(code == Some(0), "round {round}: SIGTERM ended with {code:?}:\n{}", platform.log_tail());
        ensure!(begun.elapsed() < GRACE, "round {round}: the end took {:?}, over {GRACE:?}", begun.elapsed());
        platform = platform.start_again().await?;
        traffic.set_ending(false);
    }
    let ends = traffic.end().await?;
    published.store(true, Ordering::SeqCst);
    let messages = publisher.await??;
    println!(
        "{} SIGTERMs, {}: exit 0 in {} ms at worst; {ends}",
        arguments.rounds,
        if arguments.sockets { "sockets passed" } else { "own sockets" },
        worst.as_millis()
    );
    messages::settle(&platform, messages).await?;
    messages::nothing_left_over(&platform, &broker.url(), messages).await?;
    println!("messages: {messages} published, each with its one effect");
    judge(&ends, arguments.sockets)
}

fn judge(ends: &Ends, sockets: bool) -> Result<()> {
    ensure!(ends.answered > 0, "nothing was answered");
    ensure!(ends.wrong == 0 && ends.cut == 0, "{} requests were cut, {} answered wrongly", ends.cut, ends.wrong);
    let lost = ends.refused + ends.not_accepted + ends.closed_idle;
    ensure!(!sockets || lost == 0, "{lost} connections were lost though the sockets outlive the platform");
    Ok(())
}

async fn start(data: &std::path::Path, broker: &Broker, sockets: bool) -> Result<Platform> {
    let listen = if sockets { Listen::sockets()? } else { Listen::Ports(free_port()?) };
    let flags = vec!["--amqp-url".into(), broker.url()];
    let seconds = |key: &str, time: Duration| (key.to_owned(), format!("{}s", time.as_secs()));
    let env = vec![seconds("FAAS_SERVER_GRACE", GRACE), seconds("FAAS_FRONT_LAME_DUCK", LAME_DUCK)];
    Platform::start(data, Options { flags, env, listen, ..Options::default() }).await
}

fn callers(platform: &Platform, sockets: bool) -> Vec<Caller> {
    let caller = |target: &str, ms, fresh| Caller {
        authority: platform.ready().functions.clone(),
        target: target.to_owned(),
        gap: Duration::from_millis(ms),
        fresh,
        forgiving: false,
    };
    let mut callers = vec![caller("/function/hello", 100, false); CALLERS];
    callers.extend(vec![caller("/function/hello/sse", 450, false); SLOW]);
    if sockets {
        callers.extend(vec![caller("/function/hello", 100, true); FRESH]);
    }
    callers
}
