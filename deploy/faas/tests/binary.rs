//! The binary from outside: exit codes, streams, one start and one end.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn faas(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faas"));
    // Nothing of the machine that runs the tests decides them.
    command.env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null());
    command
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    faas(home).args(arguments).output().unwrap()
}

/// Returns exit code, stdout and stderr.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

struct Platform {
    child: Child,
    url: String,
    baas: String,
}

impl Platform {
    fn start(home: &Path) -> Self {
        let any = "127.0.0.1:0";
        let mut child = faas(home)
            .args(["up", "--listen", any, "--control", any, "--baas", any, "--log", "trace", "-o", "json"])
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(home.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let url = |key: &str| format!("http://{}", ready[key].as_str().unwrap());
        Self { child, url: url("control"), baas: url("baas") }
    }

    fn end(mut self) -> i32 {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn exit_codes_say_what_went_wrong() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    std::fs::write(home.join("faas.toml"), "[functions.a]\nlimts = {}\n").unwrap();
    std::fs::write(home.join("bad.toml"), "[sever]\n").unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["nonsense"], 64, "unrecognized subcommand"),
        (&["ls", "--url", "https://example.org"], 64, "ssh -L"),
        (&["describe", "Not-A-Name"], 64, "is not valid"),
        (&["invoke", "a", "--path", "x"], 64, "does not start with '/'"),
        (&["deploy", "nowhere.wasm", "--name", "a"], 64, "neither a folder nor a file"),
        (&["up", "--listen", "0.0.0.0:0"], 64, "--expose"),
        (&["deploy"], 65, "did you mean `limits`?"),
        (&["config", "--config", "bad.toml"], 65, "did you mean `server`?"),
        (&["ls", "--url", "http://127.0.0.1:1"], 69, "hint: start one"),
        (&["ls", "--token-file", "nowhere"], 77, "--token-file"),
    ];
    for (arguments, code, part) in cases {
        let (exit, stdout, stderr) = told(&run(home, arguments));
        assert_eq!(exit, *code, "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}: stdout is for data");
    }
    for arguments in [&["version"][..], &["--version"], &["--help"], &["config"], &["up", "--help"]] {
        let (exit, stdout, stderr) = told(&run(home, arguments));
        assert_eq!((exit, stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(!stdout.is_empty() && !stdout.contains('\u{1b}'), "{arguments:?}");
    }
}

#[test]
fn a_server_starts_answers_drains_and_never_says_its_token() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let platform = Platform::start(home);
    let call = |arguments: &[&str]| told(&faas(home).args(arguments).env("FAAS_URL", &platform.url).output().unwrap());
    assert_eq!(call(&["ls", "-o", "json"]), (0, "[]\n".into(), String::new()));
    assert_eq!(call(&["invoke", "nothing"]).0, 1);
    assert_eq!(call(&["describe", "nothing"]).0, 1);
    std::fs::write(home.join("bad.wasm"), "no component").unwrap();
    let (exit, stdout, stderr) = call(&["deploy", "bad.wasm", "--name", "bad"]);
    assert_eq!((exit, stdout.as_str()), (1, ""));
    assert!(stderr.contains("compile failed: unprocessable") && stderr.contains("hint: "), "{stderr}");

    let baas = ["--baas-url", &platform.baas];
    assert_eq!(call(&[&["kv", "put", "things", "a/ b", "-value"], &baas[..]].concat()).0, 0);
    assert_eq!(call(&[&["kv", "get", "things", "a/ b"], &baas[..]].concat()).1, "-value");
    assert_eq!(call(&[&["kv", "ls", "things"], &baas[..]].concat()).1, "a/ b\n");
    assert_eq!(call(&[&["kv", "get", "things", "none"], &baas[..]].concat()).0, 1);
    std::fs::write(home.join("long"), vec![0; (1 << 20) + 1]).unwrap();
    let (exit, _, stderr) = call(&[&["kv", "put", "things", "a", "@long"], &baas[..]].concat());
    assert_eq!(exit, 1, "{stderr}");
    assert!(stderr.contains("longer than 1048576 bytes"), "{stderr}");

    let wrong = faas(home).args(["ls", "--url", &platform.url]).env("FAAS_TOKEN", "faas_root_0_wrong").output();
    assert_eq!(told(&wrong.unwrap()).0, 77);
    let (exit, _, stderr) =
        told(&run(home, &["up", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--baas", "127.0.0.1:0"]));
    assert_eq!(exit, 75, "{stderr}");
    assert!(stderr.contains("in use by another"), "{stderr}");

    assert_eq!(platform.end(), 0);
    let data = home.join(".local/share/faas");
    for file in ["lock", "store.redb", "token"] {
        assert_eq!(data.join(file).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let token = std::fs::read_to_string(data.join("token")).unwrap();
    let mut log = String::new();
    std::fs::File::open(home.join("log")).unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("draining") && log.contains("stopped"), "{log}");
    for secret in [token.trim(), token.trim().rsplit('_').next().unwrap(), "faas_root_0_wrong"] {
        assert!(!log.contains(secret), "the log holds a token");
    }
}

#[test]
fn a_signal_during_the_start_ends_it() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // A start that blocks: its token comes out of a pipe that nobody writes into.
    assert!(Command::new("mkfifo").arg(data.join("token")).status().unwrap().success());
    let any = "127.0.0.1:0";
    let mut child = faas(home.path())
        .args(["up", "--data", "data", "--listen", any, "--control", any, "--baas", any])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Opens once the other end is being read.
    let pipe = std::fs::File::options().write(true).open(data.join("token")).unwrap();
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let (said, all) = std::sync::mpsc::channel();
    let stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || said.send(std::io::read_to_string(stderr).unwrap()));
    let log = all.recv_timeout(std::time::Duration::from_secs(30)).inspect_err(|_| child.kill().unwrap());
    let log = log.expect("the process ends with its signal");
    assert_eq!(child.wait().unwrap().code(), Some(0), "{log}");
    assert!(log.contains("stopping before the start was done") && !log.contains("is ready"), "{log}");
    drop(pipe);
}

/// Answers one request with `answer`, or leaves it without one; returns the URL.
fn stub(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        stream.write_all(answer.as_bytes()).unwrap();
        // Open until the other side has what it wants.
        lines.next();
    });
    url
}

#[test]
fn answers_of_functions_and_missing_answers_have_exit_codes_of_their_own() {
    let home = tempfile::tempdir().unwrap();
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine", 0, "fine", ""),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone", 22, "none", "a answered 404 Not Found"),
        ("HTTP/1.1 503 Busy\r\nx-faas-origin: function\r\ncontent-length: 4\r\n\r\nbusy", 22, "busy", "faas logs a"),
        ("HTTP/1.1 503 Busy\r\nx-faas-origin: platform\r\ncontent-length: 2\r\n\r\n{}", 75, "", "answered 503"),
        ("HTTP/1.1 504 Late\r\nx-faas-origin: platform\r\ncontent-length: 2\r\n\r\n{}", 124, "", "answered 504"),
        ("", 124, "", "no answer from http://127.0.0.1:"),
    ];
    for (answer, code, out, part) in cases {
        // A silent server is given up on at once; one that answers has all the time it needs.
        let timeout = if answer.is_empty() { "100ms" } else { "60s" };
        let call = ["invoke", "a", "--url", &stub(answer), "--timeout", timeout];
        let (exit, stdout, stderr) = told(&run(home.path(), &call));
        assert_eq!((exit, stdout.as_str()), (code, out), "{answer}: {stderr}");
        assert!(stderr.contains(part), "{answer}: {stderr}");
    }
}
