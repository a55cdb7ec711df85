//! kill -9 and SIGTERM over the real binary. The long suite is `make faults`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use faas_loadtest::samples;
use http::Method;

use crate::{House, house};

#[tokio::test]
async fn acknowledged_writes_and_deploys_survive_kill_9() {
    let House { mut platform, client, .. } = {
        let h = house().await;
        h.platform.deploy(&samples::folder("hello")).await.unwrap();
        // The folder must outlive the moves below; it is removed with the test's process.
        let folder = h.folder.keep();
        House { platform: h.platform, client: h.client, folder: tempfile::tempdir_in(folder).unwrap() }
    };
    for round in 0..5u64 {
        let authorization = format!("Bearer {}", platform.token().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..8)
            .map(|lane| {
                let (client, stop, authorization) = (client.clone(), stop.clone(), authorization.clone());
                let url = platform.baas(&format!("/kv/crash/{lane}"));
                tokio::spawn(async move {
                    let mut last = 0u64;
                    for n in 1u64.. {
                        let value = round * 1_000_000 + n;
                        let sent = client
                            .send(Method::PUT, &url, &[("authorization", &authorization)], value.to_string())
                            .await;
                        match sent {
                            Ok(answer) if answer.status.is_success() => last = value,
                            _ => break,
                        }
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    last
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(150)).await;
        platform = platform.crash_and_restart().await.unwrap();
        stop.store(true, Ordering::Relaxed);
        for (lane, writer) in writers.into_iter().enumerate() {
            let last = writer.await.unwrap();
            assert!(last > 0, "lane {lane} wrote nothing");
            let url = platform.baas(&format!("/kv/crash/{lane}"));
            let found = client.send(Method::GET, &url, &[("authorization", &authorization)], "").await.unwrap();
            let found: u64 = found.text().parse().unwrap();
            assert!(
                found == last || found == last + 1,
                "round {round}, lane {lane}: acknowledged {last}, found {found}"
            );
        }
        assert_eq!(client.get(&platform.url("/function/hello")).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn sigterm_under_load_cuts_no_accepted_request() {
    let mut h = house().await;
    h.platform.deploy(&samples::folder("hello")).await.unwrap();
    let url = h.platform.url("/function/hello/sse");
    let running: Vec<_> = (0..8)
        .map(|_| {
            let (client, url) = (h.client.clone(), url.clone());
            tokio::spawn(async move { client.get(&url).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(h.platform.terminate().await.unwrap(), Some(0), "{}", h.platform.log_tail());
    for call in running {
        let answer = call.await.unwrap().unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.text().matches("data:").count() >= 3, "cut: {}", answer.text());
    }
}
