//! Outgoing requests of guests (`wasi:http` 0.2 and 0.3), over the function's way out.

use std::sync::Arc;

use faas_runtime::egress::{self, Outlet, Patience, Sender};
use faas_runtime::logs::CallLog;
use http::HeaderName;
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Bytes of one write to a body at most; a guest waits when two of them are not taken yet.
const BODY_CHUNK_BYTES: usize = 64 << 10;

/// Header fields that guests may not name, made once: the constant would be made anew at each look.
static FORBIDDEN: [HeaderName; 9] = wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;

/// The hooks of a store: of its present call, or of all calls that share it.
pub(crate) struct Hooks {
    outlet: Arc<Outlet>,
    /// Whether calls run side by side in the store. What one of them sends cannot be told from
    /// what another does, so that the bounds of a call are those of a request.
    shared: bool,
    /// The log of the call; between the calls of a store there is none, and nothing is sent.
    log: Option<Arc<CallLog>>,
    /// Made with the first request: most calls send none.
    sender: Option<Sender>,
}

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Done), Error>;

impl Hooks {
    pub(crate) fn new(outlet: &Arc<Outlet>, shared: bool, log: &Arc<CallLog>) -> Self {
        Self { outlet: Arc::clone(outlet), shared, log: Some(Arc::clone(log)), sender: None }
    }

    /// Makes them another call's, with bounds of its own.
    pub(crate) fn begin(&mut self, log: &Arc<CallLog>) {
        self.log = Some(Arc::clone(log));
        self.sender = None;
    }

    /// Gives back what was only the call's.
    pub(crate) fn rest(&mut self) {
        self.log = None;
        self.sender = None;
    }
}

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        FORBIDDEN.contains(name)
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Done,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let Some(log) = &self.log else { return Box::new(std::future::ready(Err(Error::HttpRequestDenied))) };
        if self.shared {
            self.sender = None;
        }
        let sender = self.sender.get_or_insert_with(|| self.outlet.sender(log)).clone();
        let options = options.unwrap_or_default();
        let patience = Patience {
            connect: options.connect_timeout,
            first_byte: options.first_byte_timeout,
            between_bytes: options.between_bytes_timeout,
        };
        Box::new(async move {
            let answer = sender.send(request, patience).await.map_err(code)?;
            // The connection is driven by the way out; nothing is left to be done for the answer.
            Ok((answer.map(|body| body.map_err(code).boxed_unsync()), Box::new(std::future::ready(Ok(()))) as Done))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }
}

/// Tells a guest why, in the words of the interface.
fn code(error: egress::Error) -> Error {
    use egress::Error as E;
    match error {
        E::Uri(_) => Error::HttpRequestUriInvalid,
        E::Method => Error::HttpRequestMethodInvalid,
        E::Length => Error::HttpRequestBodySize(None),
        E::Denied => Error::HttpRequestDenied,
        E::AddressRefused { .. } => Error::DestinationIpProhibited,
        E::NameUnknown => Error::DnsError { rcode: None, info_code: None },
        E::NameTimeout => Error::DnsTimeout,
        E::Busy { .. } => Error::ConnectionLimitReached,
        E::ConnectRefused => Error::ConnectionRefused,
        E::Unreachable => Error::DestinationUnavailable,
        E::ConnectTimeout => Error::ConnectionTimeout,
        E::TlsCertificate => Error::TlsCertificateError,
        E::TlsAlert(id) => Error::TlsAlertReceived { alert_id: Some(id), alert_message: None },
        E::TlsProtocol => Error::TlsProtocolError,
        E::RequestBytes { max } => Error::HttpRequestBodySize(Some(max)),
        E::HeadTooLarge => Error::HttpResponseHeaderSectionSize(None),
        E::FirstByteTimeout => Error::HttpResponseTimeout,
        E::BetweenBytesTimeout => Error::ConnectionReadTimeout,
        E::ResponseBytes { max } => Error::HttpResponseBodySize(Some(max)),
        E::Incomplete => Error::HttpResponseIncomplete,
        E::Terminated => Error::ConnectionTerminated,
        E::Upgrade => Error::HttpUpgradeFailed,
        // No HTTP/1.1; or the guest broke its own body off, and knows.
        _ => Error::HttpProtocolError,
    }
}
