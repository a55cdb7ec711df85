//! Connections to judged addresses, over TLS where the scheme says so.
//!
//! No proxy is asked, whatever the environment of the server says. Roots of
//! trust are read at the first request over TLS, on a thread that may block.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use faas_model::manifest::{EgressScheme, Host};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::body::Upload;
use super::config::Config;
use super::error::Error;
use super::metrics::Open;
use super::policy::Target;

/// Fields of one answer's head at most.
const HEAD_FIELDS_MAX: usize = 256;
/// How long a kept connection may take to say that it is ready again.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Upload>,
    pub(super) address: IpAddr,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Returns whether the connection can take a further request.
    pub(super) async fn is_ready(&mut self) -> bool {
        // It is, as soon as its task has seen the end of the answer before.
        matches!(timeout(READY_WITHIN, self.sender.ready()).await, Ok(Ok(())))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Opens connections.
#[derive(Debug)]
pub(super) struct Connector {
    config: Arc<Config>,
    extra: Vec<CertificateDer<'static>>,
    tls: OnceCell<Arc<ClientConfig>>,
}

impl Connector {
    /// Reads the extra certificates.
    ///
    /// # Errors
    /// When `ca_file` cannot be read or holds no certificate.
    pub(super) fn open(config: Arc<Config>) -> io::Result<Self> {
        let extra = if config.ca_file.as_os_str().is_empty() { Vec::new() } else { certificates(&config.ca_file)? };
        Ok(Self { config, extra, tls: OnceCell::new() })
    }

    /// Connects to the first address that can be connected to, in their order.
    ///
    /// # Errors
    /// Why the last of them could not, or [`Error::ConnectTimeout`] after `limit`, TLS included.
    pub(super) async fn connect(
        &self,
        target: &Target,
        addresses: &[IpAddr],
        limit: Duration,
    ) -> Result<Connection, Error> {
        let until = Instant::now() + limit;
        let connected = timeout_at(until, async {
            let (stream, address) = tcp(addresses, target.port, until).await?;
            stream.set_nodelay(true).ok();
            let head_bytes_max = self.config.response_head_bytes_max.0;
            match target.scheme {
                EgressScheme::Http => start(stream, address, head_bytes_max).await,
                EgressScheme::Https => {
                    let tls = TlsConnector::from(self.tls().await?);
                    let stream = tls.connect(server_name(&target.host)?, stream).await;
                    start(stream.map_err(|e| Error::of_tls(&e))?, address, head_bytes_max).await
                }
            }
        });
        connected.await.map_err(|_| Error::ConnectTimeout)?
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, Error> {
        let made = self.tls.get_or_try_init(|| async {
            let extra = self.extra.clone();
            let made = tokio::task::spawn_blocking(move || tls_config(extra)).await;
            made.ok().flatten().map(Arc::new).ok_or(Error::TlsProtocol)
        });
        made.await.cloned()
    }
}

/// Tries each address with its share of the time that is left, so that one that is silent leaves time to the others.
async fn tcp(addresses: &[IpAddr], port: u16, until: Instant) -> Result<(TcpStream, IpAddr), Error> {
    let mut failure = Error::Unreachable;
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(Instant::now()) / left;
        failure = match timeout(share, TcpStream::connect((*address, port))).await {
            Ok(Ok(stream)) => return Ok((stream, *address)),
            Ok(Err(error)) => Error::of_connect(&error),
            Err(_) => Error::ConnectTimeout,
        };
    }
    Err(failure)
}

async fn start<T>(stream: T, address: IpAddr, head_bytes_max: u64) -> Result<Connection, Error>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    TokioIo<T>: Read + Write,
{
    let head_bytes_max = usize::try_from(head_bytes_max.clamp(8 << 10, 1 << 20)).unwrap_or(8 << 10);
    let mut http = http1::Builder::new();
    http.max_headers(HEAD_FIELDS_MAX).max_header_size(head_bytes_max).max_buf_size(head_bytes_max);
    let (sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(|_| Error::Terminated)?;
    let open = Open::new();
    let driver = tokio::spawn(async move {
        // How it ended is told to whoever waits for an answer.
        drop(connection.await);
        drop(open);
    });
    Ok(Connection { sender, address, driver })
}

fn server_name(host: &Host) -> Result<ServerName<'static>, Error> {
    match host {
        Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|_| Error::TlsCertificate),
        Host::Address(address) => Ok(ServerName::from(*address)),
    }
}

/// Returns a client that trusts the machine's roots and `extra`; without any of them, nobody.
fn tls_config(extra: Vec<CertificateDer<'static>>) -> Option<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (_, refused) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors = found.errors.len();
        tracing::warn!(refused, errors, "no root certificates were found on this machine");
    }
    roots.add_parsable_certificates(extra);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(config)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bad = |why: String| {
        let what = format!("egress.ca_file {} {why}; name a file of certificates in PEM form", path.display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let bytes = std::fs::read(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|_| bad("is not valid".into()))?;
    if all.is_empty() {
        return Err(bad("holds no certificate".into()));
    }
    for certificate in &all {
        RootCertStore::empty().add(certificate.clone()).map_err(|e| bad(format!("holds a bad certificate: {e}")))?;
    }
    Ok(all)
}
