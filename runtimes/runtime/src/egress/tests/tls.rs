//! TLS against servers with certificates of our own making.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::*;

/// An authority, and the file that names it.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.clone().self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn acceptor(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::new(names).unwrap());
        change(&mut params);
        let issuer = self.params.clone().self_signed(&self.key).unwrap();
        let certificate = params.signed_by(&key, &issuer, &self.key).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

const NAMES: &[(&str, &[&str])] = &[("api.test", &["127.0.0.1"]), ("other.test", &["127.0.0.1"])];

/// A bench that trusts the authority, and a call that may reach the server's port.
fn trusting(authority: Option<&Authority>, server: &Server) -> (Bench, Sender, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    if let Some(authority) = authority {
        std::fs::write(&file, format!("a comment\n{}", authority.pem)).unwrap();
    }
    let bench = Bench::with(|config| config.ca_file = authority.map(|_| file).unwrap_or_default(), NAMES);
    let sender = bench.sender_of("f", &[&format!("*:{}", server.port()), &server.address.to_string()]);
    (bench, sender, dir)
}

#[tokio::test]
async fn a_trusted_server_is_answered_by_and_its_connection_kept() {
    let authority = Authority::new();
    let server = Server::tls(authority.acceptor(&["api.test", "127.0.0.1"], |_| {})).await;
    let (bench, sender, _dir) = trusting(Some(&authority), &server);
    for _ in 0..2 {
        assert_eq!(sender.text(&format!("https://api.test:{}/", server.port())).await.unwrap(), "hello");
    }
    assert_eq!((server.connections(), bench.kept()), (1, 1));
    assert_eq!(sender.text(&format!("https://127.0.0.1:{}/", server.port())).await.unwrap(), "hello");
    assert!(server.head().contains(&format!("host: 127.0.0.1:{}\n", server.port())));
}

#[tokio::test]
async fn a_certificate_must_be_of_a_known_authority_for_this_host_and_of_today() {
    let (authority, unknown) = (Authority::new(), Authority::new());
    let past = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let future = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    let cases = [
        ("another name", authority.acceptor(&["other.test"], |_| {})),
        ("another authority", unknown.acceptor(&["api.test"], |_| {})),
        ("expired", authority.acceptor(&["api.test"], past)),
        ("not yet valid", authority.acceptor(&["api.test"], future)),
    ];
    for (what, acceptor) in cases {
        let server = Server::tls(acceptor).await;
        let (_bench, sender, _dir) = trusting(Some(&authority), &server);
        let failure = sender.failure(&format!("https://api.test:{}/", server.port())).await;
        assert_eq!((failure, server.requests()), (Error::TlsCertificate, 0), "{what}");
    }
    let server = Server::tls(authority.acceptor(&["api.test"], |_| {})).await;
    let (_bench, sender, _dir) = trusting(None, &server);
    let failure = sender.failure(&format!("https://api.test:{}/", server.port())).await;
    assert_eq!(failure, Error::TlsCertificate, "the machine's roots do not know our authority");
}

#[tokio::test]
async fn a_server_without_tls_and_a_client_without_it_do_not_meet() {
    let authority = Authority::new();
    let (plain, tls) = (Server::http().await, Server::tls(authority.acceptor(&["api.test"], |_| {})).await);
    let (_bench, sender, _dir) = trusting(Some(&authority), &plain);
    assert_eq!(sender.failure(&format!("https://api.test:{}/", plain.port())).await, Error::TlsProtocol);
    let (_bench, sender, _dir) = trusting(Some(&authority), &tls);
    let failure = sender.failure(&format!("http://api.test:{}/", tls.port())).await;
    assert!(matches!(failure, Error::Protocol | Error::Terminated), "{failure}");
    assert_eq!((plain.requests(), tls.requests()), (0, 0));
}

#[tokio::test]
async fn a_handshake_that_hangs_counts_as_connecting() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let bench = Bench::with(|config| config.connect_timeout = Millis(100), NAMES);
    let failure = bench.sender_of("f", &[&address.to_string()]).failure(&format!("https://{address}/")).await;
    assert_eq!(failure, Error::ConnectTimeout);
}

#[test]
fn a_file_of_authorities_that_is_none_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let open = |bytes: Option<&[u8]>| {
        let file = dir.path().join("ca.pem");
        if let Some(bytes) = bytes {
            std::fs::write(&file, bytes).unwrap();
        }
        let ca_file = if bytes.is_some() { file } else { dir.path().join("missing.pem") };
        Egress::open(Config { ca_file, ..Config::default() }).unwrap_err().to_string()
    };
    let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (bytes, part) in [
        (None, "cannot be read"),
        (Some(&b""[..]), "holds no certificate"),
        (Some(b"text"), "holds no certificate"),
        (Some(broken), "bad certificate"),
    ] {
        let message = open(bytes);
        assert!(message.contains(part) && message.contains("egress.ca_file"), "{message}");
    }
}
