//! The way out: what functions send over HTTP, for every runtime.
//!
//! [`Egress`] is the platform's, [`Outlet`] one revision's with its list,
//! [`Sender`] one call's. A request passes in this order: its target is read in
//! one way only; the list decides ([`policy`]); places are taken; a kept
//! connection of the same function is used, or the name is resolved once,
//! every address judged, and the judged address connected to. Redirects are
//! answers like all others: what the function sends next is judged anew.
//!
//! Nothing waits for a bound: what is over one is refused and says which.
//! Dropping the future of a request, or the body of its answer, closes its connection.

mod address;
mod body;
mod config;
mod connect;
mod error;
mod head;
mod metrics;
mod names;
mod policy;
mod pool;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use faas_model::FunctionName;
use faas_model::manifest::{EgressRule, Host};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use body::{BoxError, ResponseBody};
pub use config::Config;
pub use error::Error;
pub use names::Lookup;

use body::{Budget, Lease, Place, Upload};
use connect::{Connection, Connector};
use names::Names;
use policy::{Policy, Target};
use pool::{Key, Pool};

use crate::logs::CallLog;

/// Refusals of one call that are told in the function's log; each different one once.
const TOLD_MAX: usize = 8;

/// What all functions share of the way out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Egress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    names: Names,
    connector: Connector,
    pool: Arc<Pool>,
    requests: Arc<Semaphore>,
    functions: Mutex<HashMap<FunctionName, Weak<Share>>>,
}

/// What all revisions of a function share.
#[derive(Debug)]
struct Share {
    function: FunctionName,
    requests: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

/// The way out of one revision. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outlet {
    shared: Arc<Shared>,
    share: Arc<Share>,
    policy: Arc<Policy>,
}

/// The way out of one call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    call: Arc<OneCall>,
}

#[derive(Debug)]
struct OneCall {
    outlet: Outlet,
    log: Arc<CallLog>,
    requests: Arc<Semaphore>,
    sent: Arc<Budget>,
    received: Arc<Budget>,
    told: Mutex<BTreeSet<String>>,
}

/// How long the function itself wants to wait; the bounds of the configuration hold as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patience {
    /// For the open connection.
    pub connect: Option<Duration>,
    /// For the head of the answer.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the answer.
    pub between_bytes: Option<Duration>,
}

impl Egress {
    /// Opens the way out, with the names of this machine.
    ///
    /// # Errors
    /// When `ca_file` cannot be read or holds no certificate.
    pub fn open(config: Config) -> io::Result<Self> {
        Self::with_lookup(config, names::system())
    }

    /// Opens the way out with names of another source.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_lookup(config: Config, lookup: Lookup) -> io::Result<Self> {
        metrics::describe();
        let config = Arc::new(config);
        let shared = Shared {
            names: Names::new(lookup, Arc::clone(&config)),
            connector: Connector::open(Arc::clone(&config))?,
            pool: Arc::new(Pool::new(Arc::clone(&config))),
            requests: places(config.requests_max, 100_000),
            functions: Mutex::default(),
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the way out of a revision of `function` whose list is `rules`.
    #[must_use]
    pub fn outlet(&self, function: &FunctionName, rules: &BTreeSet<EgressRule>) -> Outlet {
        let share = self.shared.share(function);
        Outlet { shared: Arc::clone(&self.shared), share, policy: Arc::new(Policy::new(rules)) }
    }
}

impl Shared {
    fn share(&self, function: &FunctionName) -> Arc<Share> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = functions.get(function).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share {
            function: function.clone(),
            requests: places(self.config.requests_per_function_max, 100_000),
            lookups: places(self.config.lookups_max.min(512) / 4, 512),
        });
        functions.retain(|_, share| share.strong_count() > 0);
        functions.insert(function.clone(), Arc::downgrade(&share));
        share
    }
}

impl Outlet {
    /// Returns the way out of one call, which refusals are told in the log of.
    #[must_use]
    pub fn sender(&self, log: &Arc<CallLog>) -> Sender {
        let config = &self.shared.config;
        let call = OneCall {
            requests: places(config.requests_per_call_max, 10_000),
            sent: Arc::new(Budget::new(config.request_bytes_max.0)),
            received: Arc::new(Budget::new(config.response_bytes_max.0)),
            log: Arc::clone(log),
            outlet: self.clone(),
            told: Mutex::default(),
        };
        Sender { call: Arc::new(call) }
    }
}

impl Sender {
    /// Sends a request and returns the head of its answer, whose body goes on as it is polled.
    ///
    /// # Errors
    /// Why the request was refused or failed. What the function's list refuses is
    /// told in its log, with what to add.
    ///
    /// # Cancel safety
    /// Dropping the future, or the body of the answer before its end, closes the connection.
    pub async fn send<B, E>(&self, request: Request<B>, patience: Patience) -> Result<Response<ResponseBody>, Error>
    where
        B: Body<Data = Bytes, Error = E> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let answer = match Target::of(request.uri()) {
            Ok(target) => {
                let answer = Box::pin(self.exchange(&target, request, patience)).await;
                answer.inspect_err(|error| self.tell(refusal(&target, error)))
            }
            Err(error) => {
                self.tell(Some(format!("egress refused a request: {error}")));
                Err(error)
            }
        };
        metrics::ended(answer.as_ref().map(|_| ()));
        answer
    }

    async fn exchange(
        &self,
        target: &Target,
        request: Request<http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>>,
        patience: Patience,
    ) -> Result<Response<ResponseBody>, Error> {
        let Outlet { shared, share, policy } = &self.call.outlet;
        if !policy.admits(target) {
            return Err(Error::Denied);
        }
        let (mut head, body) = request.into_parts();
        head::outgoing(&mut head, target, &body.size_hint())?;
        let place = self.place()?;
        let (upload, sending) = Upload::new(body, Arc::clone(&self.call.sent));
        let mut request = Request::from_parts(head, upload);
        let key = Key { function: share.function.clone(), target: target.clone() };
        let bound = |wanted: Option<Duration>, max: Duration| wanted.map_or(max, |wanted| wanted.min(max));
        let first_byte = bound(patience.first_byte, shared.config.first_byte_timeout.duration());
        let between = bound(patience.between_bytes, shared.config.between_bytes_timeout.duration());
        loop {
            let kept = shared.pool.take(&key, |address| policy.judge(target, address) == Ok(address)).await;
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect(target, bound(patience.connect, shared.config.connect_timeout.duration())).await?,
            };
            let sent = timeout(first_byte, connection.sender.try_send_request(request)).await;
            let mut failed = match sent.map_err(|_| Error::FirstByteTimeout)? {
                Ok(answer) => {
                    let pool = Arc::clone(&shared.pool);
                    let lease = Lease { connection, key, pool, sending, place };
                    return self.answer(answer, lease, between);
                }
                Err(failed) => failed,
            };
            // A kept connection that the server closed meanwhile gives back what it never sent.
            match failed.take_message() {
                Some(unsent) if reused => request = unsent,
                _ => return Err(Error::of_exchange(&failed.into_error(), Error::Terminated)),
            }
        }
    }

    /// Resolves, judges and connects, each once.
    async fn connect(&self, target: &Target, limit: Duration) -> Result<Connection, Error> {
        let Outlet { shared, share, policy } = &self.call.outlet;
        let found: Arc<[IpAddr]> = match &target.host {
            Host::Address(address) => [*address].into(),
            Host::Name(name) => shared.names.resolve(name, &share.lookups).await?,
        };
        // What the list does not name is never connected to; the others of the same name may be.
        let (mut permitted, mut refused) = (Vec::new(), None);
        for address in found.iter() {
            match policy.judge(target, *address) {
                Ok(address) => permitted.push(address),
                Err(block) => refused = Some(Error::AddressRefused { kind: block.kind }),
            }
        }
        match refused {
            Some(refused) if permitted.is_empty() => Err(refused),
            _ => shared.connector.connect(target, &permitted, limit).await,
        }
    }

    fn answer(
        &self,
        answer: Response<hyper::body::Incoming>,
        lease: Lease,
        between: Duration,
    ) -> Result<Response<ResponseBody>, Error> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::Upgrade);
        }
        let (mut head, body) = answer.into_parts();
        head::incoming(&mut head);
        let body = ResponseBody::new(body, lease, Arc::clone(&self.call.received), between);
        Ok(Response::from_parts(head, body))
    }

    /// Takes a place of each bound.
    fn place(&self) -> Result<Place, Error> {
        let Outlet { shared, share, .. } = &self.call.outlet;
        let config = &shared.config;
        let take = |places: &Arc<Semaphore>, bound, max| {
            Arc::clone(places).try_acquire_owned().map_err(|_| Error::Busy { bound, max })
        };
        Ok([
            take(&self.call.requests, "egress.requests_per_call_max", config.requests_per_call_max)?,
            take(&share.requests, "egress.requests_per_function_max", config.requests_per_function_max)?,
            take(&shared.requests, "egress.requests_max", config.requests_max)?,
        ])
    }

    /// Tells the author what to do about a refusal.
    fn tell(&self, line: Option<String>) {
        let Some(line) = line else { return };
        let mut told = self.call.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD_MAX && !told.contains(&line) {
            self.call.log.platform(&line);
            told.insert(line);
        }
    }
}

/// Returns the line for the author, `None` for what is the server's or the network's doing.
fn refusal(target: &Target, error: &Error) -> Option<String> {
    let own = target.authority();
    Some(match (error, &target.host) {
        (Error::Denied, _) => format!("egress refused {target}: add \"{own}\" to `egress` of the function to allow it"),
        (Error::AddressRefused { kind }, Host::Address(_)) => {
            format!(
                "egress refused {target}: a special address ({kind}) must be named; add \"{own}\" to `egress` to allow it"
            )
        }
        (Error::AddressRefused { kind }, Host::Name(_)) => format!(
            "egress refused {target}: its addresses are special ({kind}), and a name does not stand for those; \
             add \"ADDRESS:{port}\" or \"NETWORK/LENGTH:{port}\" to `egress` to allow it",
            port = target.port
        ),
        (Error::Busy { .. } | Error::Method | Error::Length | Error::RequestBytes { .. }, _) => {
            format!("egress refused {target}: {error}")
        }
        _ => return None,
    })
}

fn places(wanted: usize, max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(wanted.clamp(1, max)))
}

#[cfg(test)]
mod tests;
