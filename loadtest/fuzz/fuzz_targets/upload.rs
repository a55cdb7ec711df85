//! Deploys: the control API's own handler, over a code folder and a store in memory, takes
//! any request; it answers each, never with a fault of its own, and leaves no upload behind.
//!
//! Input: lines `name: value` of headers (`cut: N` says how the body is cut), an empty line,
//! and the body of the form.
#![no_main]

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use faas_control::{Config, Control, Parts, Readiness, Tokens};
use faas_function_service::FunctionService;
use faas_model::units::ByteSize;
use faas_model::{Body, BodyError};
use faas_repo::FolderRepo;
use faas_runtime::logs::{LogBook, LogConfig};
use faas_runtime::scripted::Scripted;
use faas_store::Memory;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use tokio::runtime::Runtime;

const TOKEN: &str = "faas_root_0_for-fuzzing-alone";
const FUNCTION: &str = "/v1/namespaces/default/functions/hello";
/// Requests to one service, whose records and code only grow.
const REQUESTS_MAX: usize = 5000;
/// Below the longest input, so that the bound is met.
const CODE_BYTES_MAX: u64 = 2048;

/// The control API over a service of its own.
struct World {
    runtime: Runtime,
    control: Control,
    folder: tempfile::TempDir,
    requests: usize,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|data: &[u8]| -> Corpus {
    WORLD.with_borrow_mut(|world| {
        if world.as_ref().is_some_and(|world| world.requests == REQUESTS_MAX) {
            *world = None;
        }
        let world = world.get_or_insert_with(World::new);
        world.requests += 1;
        let Some(request) = request(data) else { return Corpus::Reject };
        let before = world.live();
        let (status, answer) = world.send(request);
        judge(status, &answer);
        let after = world.live();
        if status.is_success() {
            assert_eq!(after.as_ref(), answer.get("revision"), "what was deployed is live");
        } else {
            assert_eq!(after, before, "what was refused changed nothing");
        }
        assert_eq!(files(&world.folder.path().join("blobs/tmp")), 0, "an upload was left behind");
        Corpus::Keep
    })
});

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("the folder is there").count()
}

fn judge(status: StatusCode, answer: &Value) {
    match status.as_u16() {
        200 | 201 => {
            assert!(answer["revision"].is_string() && answer["version"].as_u64() > Some(0), "{answer}");
        }
        400..=499 => {
            let text = |name: &str| answer[name].as_str().is_some_and(|text| !text.is_empty());
            assert!(text("reason") && text("detail"), "{answer}");
            assert_eq!(answer["status"], status.as_u16(), "{answer}");
        }
        _ => panic!("{status}: {answer}"),
    }
}

/// Reads the input; nothing if a header cannot be one.
fn request(data: &[u8]) -> Option<Request<Body>> {
    let end = data.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, body) = (&data[..end], &data[end + 2..]);
    let mut request = Request::new(Body::Empty);
    let mut cut = body.len();
    for line in head.split(|b| *b == b'\n') {
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name == b"cut" {
            cut = std::str::from_utf8(value).ok()?.parse().ok()?;
            continue;
        }
        request.headers_mut().append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    let pieces: Vec<Bytes> = body.chunks(cut.max(1)).map(Bytes::copy_from_slice).collect();
    let frames = pieces.into_iter().map(|piece| Ok::<_, BodyError>(Frame::data(piece)));
    *request.body_mut() = Body::stream(StreamBody::new(stream::iter(frames)));
    *request.method_mut() = Method::PUT;
    *request.uri_mut() = FUNCTION.parse().expect("a path");
    Some(request)
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let control = runtime.block_on(async {
            let (blobs, store) = (folder.path().join("blobs"), Arc::new(Memory::default()));
            let repo = FolderRepo::open(blobs, faas_repo::Config::default(), store).await.expect("a repository");
            let logs = LogBook::open(folder.path().join("logs"), LogConfig::default()).expect("a log book");
            let (repo, runtimes) = (Arc::new(repo.on_this_thread()), vec![Arc::new(Scripted::default()) as _]);
            let service = FunctionService::open(Default::default(), repo, runtimes, logs).await.expect("a service");
            let parts = Parts {
                service,
                invoke: Arc::new(|_, _, _| Box::pin(std::future::ready(http::Response::new(Body::Empty)))),
                token: Tokens::of(TOKEN),
                readiness: Readiness::default(),
                metrics: faas_metrics::Metrics::new(&faas_metrics::Config::default()),
                functions_url: "http://functions.test".into(),
            };
            Control::new(Config { code_bytes_max: ByteSize(CODE_BYTES_MAX), followers_max: 1 }, parts)
        });
        Self { runtime, control, folder, requests: 0 }
    }

    fn send(&self, mut request: Request<Body>) -> (StatusCode, Value) {
        let token = HeaderValue::try_from(format!("Bearer {TOKEN}")).expect("a token");
        request.headers_mut().insert("authorization", token);
        self.runtime.block_on(async {
            let (parts, body) = self.control.handle(request).await.into_parts();
            let bytes = body.collect(1 << 20).await.expect("the answer has an end");
            let answer: Value = serde_json::from_slice(&bytes).expect("every answer is JSON");
            (parts.status, answer)
        })
    }

    /// The revision that is live, if there is one.
    fn live(&self) -> Option<Value> {
        let mut request = Request::new(Body::Empty);
        *request.uri_mut() = FUNCTION.parse().expect("a path");
        let (status, mut answer) = self.send(request);
        (status == StatusCode::OK).then(|| answer["live"]["id"].take())
    }
}
