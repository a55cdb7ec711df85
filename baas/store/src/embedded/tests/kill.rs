//! A process that is killed: what it acknowledged is there.
//!
//! The test runs itself as a child that writes until it is killed (SIGKILL), and
//! reads each acknowledgement from its output.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

const FILE: &str = "FAAS_STORE_KILL_TEST_FILE";

/// The child: writes numbered values and says which were acknowledged. Does nothing as a test.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Embedded::open(&PathBuf::from(path), Config::default()).unwrap();
        for round in 0.. {
            let writes = (0..8).map(|n| store.write(put(&format!("p{n}"), &round.to_string()), by()));
            assert!(join_all(writes).await.iter().all(Result::is_ok));
            println!("acknowledged {round}");
        }
    });
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let place = place();
    for rounds in [1, 20, 60] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::tests::kill::child_writes_until_it_is_killed", "--nocapture"])
            .env(FILE, &place.path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut last = None;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            let Ok(line) = line else { break };
            // The harness may have begun the first line.
            if let Some((_, round)) = line.split_once("acknowledged ") {
                last = Some(round.parse::<u64>().unwrap());
                seen += 1;
            }
            if seen == rounds {
                child.kill().unwrap();
                seen += 1;
            }
        }
        child.wait().unwrap();
        let last = last.expect("the child wrote something");
        let began = Instant::now();
        let store = Embedded::open(&place.path, Config::default()).unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "opening took {:?}", began.elapsed());
        for n in 0..8 {
            let found = value(&store, &format!("p{n}")).await.unwrap();
            let found: u64 = std::str::from_utf8(&found).unwrap().parse().unwrap();
            assert!((last..=last + 1).contains(&found), "p{n} is {found}, {last} was acknowledged");
        }
        store.close().await;
    }
}
