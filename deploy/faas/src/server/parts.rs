//! Every concrete part, named once: opened in the order of their needs, closed
//! in the order of the traffic.

use std::sync::Arc;

use faas_baas::{Auth, Door};
use faas_control::token::share::Sharing;
use faas_control::{Control, Phase, Readiness};
use faas_data_folder::DataFolder;
use faas_function_service::FunctionService;
use faas_gateway::amqp::Consumers;
use faas_gateway::front::{self, Handler, Peer};
use faas_gateway::{amqp, http as gateway};
use faas_model::{Body, Component, FunctionName, Name};
use faas_runtime::Runtime;
use faas_runtime::egress::Egress;
use faas_runtime::logs::LogBook;
use faas_runtime_wasm::{CompileCommand, WasmRuntime};
use faas_store::WallClock;
use faas_store::bucket::Buckets;
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::listeners::{Listener, Listeners};
use super::store::Opened;
use crate::failure::{Exit, Failure, Outcome};
use crate::observe;
use crate::settings::Settings;

/// A running platform.
pub(crate) struct Parts {
    pub(crate) readiness: Readiness,
    service: FunctionService,
    consumers: Consumers,
    store: Opened,
    /// Ends the functions' listener.
    stop_traffic: CancellationToken,
    /// Ends the listeners that operators need until the end.
    stop_operators: CancellationToken,
    traffic: JoinSet<()>,
    operators: JoinSet<()>,
}

impl Parts {
    /// Opens the parts and lets traffic in.
    pub(crate) async fn open(settings: Settings, data: &DataFolder, listeners: Listeners) -> Outcome<Self> {
        let metrics = observe::metrics(&settings.metrics)?;
        let token = faas_control::token::load_or_create(&data.file("token"))
            .map_err(|e| cannot("the token", &e, "the token file is `token` in the data folder"))?;
        let store = Opened::open(&settings, data).await?;
        let buckets = Buckets::new(store.store.clone());
        let service = open_service(&settings, data, &store, buckets.clone()).await?;
        store.forget_pages().await;
        let (stop_traffic, stop_operators) = (CancellationToken::new(), CancellationToken::new());
        let (mut traffic, mut operators) = (JoinSet::new(), JoinSet::new());
        if store.shared() {
            let sharing = Sharing::begin(token.clone(), store.store.clone(), WallClock::system()).await;
            let sharing = sharing.map_err(|e| cannot("the shared tokens", &e, "see docs/cassandra.md"))?;
            let until = stop_operators.clone();
            operators.spawn(async move {
                until.run_until_cancelled(sharing.go_on()).await;
            });
        }
        let dispatch: Arc<dyn faas_invoke::Dispatch> = Arc::new(service.clone());
        let handler = gateway::handler(settings.gateway.clone(), dispatch.clone(), service.catalogue());
        let readiness = Readiness::default();
        let control = Control::new(
            settings.control.clone(),
            faas_control::Parts {
                service: service.clone(),
                invoke: invoke(handler.clone()),
                token: token.clone(),
                readiness: readiness.clone(),
                metrics,
                store_status: store.status.clone(),
                functions_url: format!("http://{}", listeners.functions.address),
            },
        );
        // Whatever tokens there are belong to the operator, and to the default namespace.
        let auth = Auth::check(move |given| token.is(given.as_bytes()).then(Name::namespace_default));
        let door = Door::new(buckets, store.name, auth, settings.baas.clone(), WallClock::system());
        let consumers = amqp::start(settings.amqp.clone(), dispatch, service.catalogue(), stop_traffic.child_token());

        let grace = settings.server.grace.duration();
        let serve = |listener: Listener, component, handler, stop: &CancellationToken| {
            front::serve(listener.socket, settings.front.clone(), component, handler, stop.clone(), grace)
        };
        let control: Handler = Arc::new(move |request, _| control.handle(request));
        let door: Handler = Arc::new(move |request, _| door.handle(request));
        traffic.spawn(serve(listeners.functions, Component::Gateway, handler, &stop_traffic));
        operators.spawn(serve(listeners.control, Component::Control, control, &stop_operators));
        operators.spawn(serve(listeners.baas, Component::Baas, door, &stop_operators));
        Ok(Self { readiness, service, consumers, store, stop_traffic, stop_operators, traffic, operators })
    }

    /// Stops taking work, waits for what runs until `by`, and closes the store.
    pub(crate) async fn close(mut self, by: Instant) -> Outcome {
        self.readiness.set(Phase::Draining);
        self.stop_traffic.cancel();
        let listener = tokio::time::timeout_at(by, async { while self.traffic.join_next().await.is_some() {} });
        let left = by.saturating_duration_since(Instant::now());
        let (_, _) = tokio::join!(listener, self.consumers.drained(left));
        self.service.drain(by.saturating_duration_since(Instant::now())).await;
        self.stop_operators.cancel();
        let ended = tokio::time::timeout_at(by, async { while self.operators.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!("operators' connections were cut at the end of the grace period");
        }
        self.operators.shutdown().await;
        self.store.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

async fn open_service(
    settings: &Settings,
    data: &DataFolder,
    store: &Opened,
    buckets: Buckets,
) -> Outcome<FunctionService> {
    let hint = "check the disk and the owner of the data folder";
    let logs = LogBook::open(data.folder("logs")?, settings.logs.clone()).map_err(|e| cannot("the logs", &e, hint))?;
    let repo = store.repo(settings, data).await?;
    // Whatever happens to this program's file meanwhile: this very program compiles.
    let compile = CompileCommand { program: "/proc/self/exe".into(), args: vec!["__compile".into()] };
    let egress = Egress::open(settings.egress.clone())
        .map_err(|e| cannot("the way out", &e, "see the keys of [egress] in `faas config`"))?;
    let wasm = WasmRuntime::new(settings.wasm.clone(), data.folder("compiled")?, compile, buckets, egress)
        .map_err(|e| cannot("the wasm runtime", &e, "see the keys of [wasm] in `faas config`"))?;
    let runtimes: Vec<Arc<dyn Runtime>> = vec![wasm];
    FunctionService::open(settings.functions.clone(), Arc::new(repo), runtimes, logs)
        .await
        .map_err(|e| cannot("the function service", &e, hint))
}

/// Calls of the control API take the way of every other call, from this machine.
fn invoke(handler: Handler) -> faas_control::Invoke {
    Arc::new(
        move |function: FunctionName, alias: Name, mut request: Request<Body>| -> BoxFuture<'static, Response<Body>> {
            let rest = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            match format!("/function/{function}:{alias}{rest}").parse::<Uri>() {
                Ok(uri) => *request.uri_mut() = uri,
                Err(_) => return Box::pin(std::future::ready(too_long())),
            }
            handler(request, Peer { address: ([127, 0, 0, 1], 0).into() })
        },
    )
}

fn too_long() -> Response<Body> {
    faas_model::Problem::new(Component::Control, faas_model::Reason::UriTooLong, "the path is too long").into_response()
}

pub(super) fn cannot(what: &str, error: &dyn std::fmt::Display, hint: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("{what} cannot be opened: {error}"), hint)
}
