//! Why a request was not sent, or its answer not read to the end.

use tokio_rustls::rustls;

/// Why a request failed. No variant holds a resolved address: what it says may reach the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request's target cannot be read, or can be read in two ways.
    #[error("the request's target is not valid: {0}")]
    Uri(&'static str),
    /// CONNECT and TRACE are not sent.
    #[error("the method is not allowed")]
    Method,
    /// The length that the headers give has more than one reading.
    #[error("the request's content-length is not one decimal number")]
    Length,
    /// The function's list has no entry for the target.
    #[error("the target is not in the function's egress list")]
    Denied,
    /// Every address of the host is special, and the list does not name it.
    #[error("the host has only special addresses ({kind}) that the function's egress list does not name")]
    AddressRefused {
        /// What the addresses are for.
        kind: &'static str,
    },
    /// The name has no address.
    #[error("the name cannot be resolved")]
    NameUnknown,
    /// The name was not resolved in time.
    #[error("the name was not resolved in time")]
    NameTimeout,
    /// As many requests run as may.
    #[error("no further request at once: {bound} is {max}")]
    Busy {
        /// The key of the configuration.
        bound: &'static str,
        /// Its value.
        max: usize,
    },
    /// Nobody listens there.
    #[error("the connection was refused")]
    ConnectRefused,
    /// There is no way to the address.
    #[error("the host cannot be reached")]
    Unreachable,
    /// No connection was made in time.
    #[error("no connection was made in time")]
    ConnectTimeout,
    /// The server's certificate is not valid for the host.
    #[error("the server's certificate is not valid for the host")]
    TlsCertificate,
    /// The server refused the handshake.
    #[error("the server ended the TLS handshake with alert {0}")]
    TlsAlert(u8),
    /// The server does not speak TLS as we do.
    #[error("the TLS handshake failed")]
    TlsProtocol,
    /// The bodies of the call's requests are over their bound.
    #[error("the request bodies of the call are over egress.request_bytes_max = {max}")]
    RequestBytes {
        /// The bound, in bytes.
        max: u64,
    },
    /// The request's own body broke off or did not keep to its length.
    #[error("the request's body broke off")]
    RequestBroken,
    /// The head of the answer is too large.
    #[error("the head of the answer is too large")]
    HeadTooLarge,
    /// The head of the answer did not come in time.
    #[error("no answer came in time")]
    FirstByteTimeout,
    /// The body of the answer paused for too long.
    #[error("the answer paused for too long")]
    BetweenBytesTimeout,
    /// The bodies of the call's answers are over their bound.
    #[error("the answers of the call are over egress.response_bytes_max = {max}")]
    ResponseBytes {
        /// The bound, in bytes.
        max: u64,
    },
    /// The answer ended before its end.
    #[error("the answer broke off")]
    Incomplete,
    /// The connection ended before there was an answer.
    #[error("the connection ended without an answer")]
    Terminated,
    /// The server wants another protocol.
    #[error("the server asked for another protocol")]
    Upgrade,
    /// The answer is no HTTP/1.1.
    #[error("the answer is not valid HTTP/1.1")]
    Protocol,
}

impl Error {
    /// Returns what a metric counts the failure as; one of a closed set.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Uri(_) | Self::Method | Self::Length | Self::RequestBroken => "bad_request",
            Self::Denied => "denied",
            Self::AddressRefused { .. } => "address_refused",
            Self::NameUnknown | Self::NameTimeout => "name",
            Self::Busy { .. } | Self::RequestBytes { .. } | Self::ResponseBytes { .. } | Self::HeadTooLarge => "limit",
            Self::ConnectRefused | Self::Unreachable => "connect",
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::BetweenBytesTimeout => "timeout",
            Self::TlsCertificate | Self::TlsAlert(_) | Self::TlsProtocol => "tls",
            Self::Incomplete | Self::Terminated | Self::Upgrade | Self::Protocol => "bad_answer",
        }
    }

    /// Tells why a connection was not made.
    pub(super) fn of_connect(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::ConnectRefused,
            std::io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ => Self::Unreachable,
        }
    }

    /// Tells why a handshake failed.
    pub(super) fn of_tls(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => Self::TlsCertificate,
            Some(rustls::Error::AlertReceived(alert)) => Self::TlsAlert(u8::from(*alert)),
            _ => Self::TlsProtocol,
        }
    }

    /// Tells why an exchange failed; `otherwise` where the connection just ended.
    pub(super) fn of_exchange(error: &hyper::Error, otherwise: Self) -> Self {
        let own = |source: Option<&(dyn std::error::Error + 'static)>| source?.downcast_ref::<Self>().cloned();
        if let Some(error) = own(std::error::Error::source(error)) {
            return error;
        }
        if error.is_parse_too_large() {
            Self::HeadTooLarge
        } else if error.is_parse() {
            Self::Protocol
        } else if error.is_user() {
            Self::RequestBroken
        } else {
            otherwise
        }
    }
}
