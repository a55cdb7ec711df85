//! Safe from the first day: tokens, names, listeners, configuration.

use faas_loadtest::platform::binary;
use faas_loadtest::samples;
use http::Method;
use tokio::process::Command;

use crate::house;

#[tokio::test]
async fn no_control_route_answers_without_its_token() {
    let h = house().await;
    let document = {
        let authorization = format!("Bearer {}", h.platform.token().unwrap());
        h.client
            .send(Method::GET, &h.platform.control("/openapi.json"), &[("authorization", &authorization)], "")
            .await
            .unwrap()
            .json()
    };
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 8, "{document}");
    for (path, operations) in paths {
        let open = path == "/healthz" || path == "/readyz";
        let path = path
            .replace("{namespace}", "default")
            .replace("{ns}", "default")
            .replace("{name}", "hello")
            .replace("{alias}", "live")
            .replace("{path}", "x");
        for method in operations.as_object().unwrap().keys().filter(|k| k.len() <= 6) {
            let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes()) else { continue };
            for token in [None, Some("Bearer "), Some("Bearer wrong"), Some("Basic Og=="), Some("bearer")] {
                let headers: Vec<_> = token.map(|t| ("authorization", t)).into_iter().collect();
                let answer = h.client.send(method.clone(), &h.platform.control(&path), &headers, "").await.unwrap();
                if !open {
                    assert_eq!(answer.status, 401, "{method} {path} with {token:?}");
                }
            }
        }
    }
    for path in ["/kv/a/b", "/kv/a", "/v1/default"] {
        assert_eq!(h.client.get(&h.platform.baas(path)).await.unwrap().status, 401, "{path}");
    }
}

#[tokio::test]
async fn the_public_listener_reaches_no_internal_route() {
    let h = house().await;
    h.platform.deploy(&samples::folder("hello")).await.unwrap();
    let internal = [
        "v1/namespaces/default/functions",
        "metrics",
        "healthz",
        "readyz",
        "openapi.json",
        "kv/a/b",
        "v1/status",
        "v1/baas/status",
    ];
    let wraps = [
        "/{}",
        "//{}",
        "/./{}",
        "/../{}",
        "/%2f{}",
        "/;/{}",
        "/{}/",
        "/{}%00",
        "/{}?x=/",
        "/function/../{}",
        "/function/%2e%2e/{}",
        "/function/hello/../../{}",
    ];
    for target in internal {
        for wrap in wraps {
            let path = wrap.replace("{}", target);
            let answer = h.client.get(&h.platform.url(&path)).await.unwrap();
            let by_function = answer.header("x-faas-origin") == "function";
            assert!(by_function || answer.status.is_client_error(), "{path}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn the_token_is_private_and_never_logged() {
    use std::os::unix::fs::PermissionsExt;
    let h = house().await;
    let path = h.folder.path().join("state/token");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = h.platform.token().unwrap();
    let log = std::fs::read_to_string(h.folder.path().join("platform.log")).unwrap();
    assert!(!log.contains(&token));
    let cmdline = std::fs::read_to_string(format!("/proc/{}/cmdline", h.platform.ready().pid)).unwrap();
    assert!(!cmdline.contains(&token));
}

#[tokio::test]
async fn nothing_listens_beyond_loopback_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let run = |flags: &'static [&'static str]| {
        let mut command = Command::new(binary().unwrap());
        command.arg("up").arg("--data").arg(folder.path()).args(flags);
        async move { command.output().await.unwrap() }
    };
    let refused = run(&["--listen", "0.0.0.0:0", "--control", "127.0.0.1:0", "--baas", "127.0.0.1:0"]).await;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(text.contains("--expose"), "{text}");
}

#[tokio::test]
async fn unknown_configuration_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("faas-server.toml");
    std::fs::write(&file, "[gateway]\nlisten_adress = \"127.0.0.1:0\"\n").unwrap();
    let output = Command::new(binary().unwrap()).args(["config", "--config"]).arg(&file).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(text.contains("listen_adress"), "{text}");
}

#[tokio::test]
async fn names_outside_the_grammar_are_refused_everywhere() {
    let h = house().await;
    let authorization = format!("Bearer {}", h.platform.token().unwrap());
    for name in ["..", "%2e%2e", "A", "a_b", "-a", "a%00", "a%2fb", &"a".repeat(64), "a%e2%80%ae"] {
        let url = h.platform.control(&format!("/v1/namespaces/default/functions/{name}"));
        let answer = h.client.send(Method::GET, &url, &[("authorization", &authorization)], "").await.unwrap();
        assert!(answer.status == 400 || answer.status == 404, "{name}: {}", answer.status);
        let answer = h.client.get(&h.platform.url(&format!("/function/{name}"))).await.unwrap();
        assert!(answer.status == 400 || answer.status == 404, "{name}: {}", answer.status);
    }
}
