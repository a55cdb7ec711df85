//! The floor of a fresh call: hyper and wasmtime in one process, with the
//! platform's engine, allocator and bounds of nothing. What the whole platform
//! costs beyond this program is its own: `faas-bench` calls it the platform tax.
//!
//! Serves `COMPONENT` (a `wasi:http` 0.2 component) on a free port, which it
//! prints, until it is killed. Every request has a fresh instance.

#![allow(clippy::print_stdout, reason = "the address on stdout is what its caller waits for")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
}

struct Hooks;

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

fn main() -> wasmtime::Result<()> {
    let path = std::env::args_os().nth(1).expect("the component to serve is the argument");
    let engine = faas_runtime_wasm::engine(&faas_runtime_wasm::Config::default())?;
    let component = Component::from_file(&engine, path)?;
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    let proxy = Arc::new(ProxyPre::new(linker.instantiate_pre(&component)?)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(engine, proxy))
}

async fn serve(engine: Engine, proxy: Arc<ProxyPre<State>>) -> wasmtime::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection(stream, engine.clone(), Arc::clone(&proxy)));
    }
}

async fn connection(stream: TcpStream, engine: Engine, proxy: Arc<ProxyPre<State>>) {
    let service = service_fn(|request| {
        let (engine, proxy) = (engine.clone(), Arc::clone(&proxy));
        async move {
            let answer = call(&engine, &proxy, request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|error| {
                eprintln!("{error:?}");
                let mut failed = Response::new(Full::default());
                *failed.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                failed
            }))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // A client that breaks off is its own matter.
    builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn call(
    engine: &Engine,
    proxy: &ProxyPre<State>,
    request: http::Request<Incoming>,
) -> wasmtime::Result<Response<Full<Bytes>>> {
    let state =
        State { wasi: WasiCtx::builder().build(), http: WasiHttpCtx::new(), hooks: Hooks, table: ResourceTable::new() };
    let mut store = Store::new(engine, state);
    // Nobody ticks: the checks are paid for and never fire.
    store.set_epoch_deadline(u64::MAX / 2);
    let answer = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&answer);
    let set = move |given| *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
    let request = request.map(|body| body.map_err(|_| wasmtime_wasi_http::Error::ConnectionTerminated));
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let out = store.data_mut().http().new_response_outparam_from_callback(set)?;
    let instance = proxy.instantiate_async(&mut store).await?;
    instance.wasi_http_incoming_handler().call_handle(&mut store, request, out).await?;
    let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (head, body) = answer.ok_or_else(|| wasmtime::Error::msg("no answer"))??.into_parts();
    // Right for answers that fit the guest's two chunks, as those of the samples do.
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}
