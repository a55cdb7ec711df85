//! What is refused before a packet leaves, and what is said about it.

use super::*;

#[tokio::test]
async fn an_empty_list_refuses_everything_before_any_name_is_resolved() {
    let (bench, server) = (Bench::new(), Server::http().await);
    let sender = bench.sender_of("f", &[]);
    for url in [server.url("/"), format!("http://server.test:{}/", server.port()), "https://a.test".into()] {
        assert_eq!(sender.failure(&url).await, Error::Denied, "{url}");
    }
    assert_eq!((server.connections(), bench.lookups.load(Ordering::SeqCst)), (0, 0));
    let log = bench.log("f").await;
    assert_eq!(log.len(), 3);
    assert_eq!(log[2], "egress refused https://a.test: add \"a.test\" to `egress` of the function to allow it");
    assert!(log[0].contains(&format!("add \"{}\"", server.address)), "{log:?}");
}

#[tokio::test]
async fn a_name_stands_for_no_special_address_and_the_log_says_what_to_do() {
    let server = Server::http().await;
    let port = server.port();
    for (address, kind) in [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0", "this host"),
        ("169.254.169.254", "link-local"),
        ("10.0.0.7", "private"),
        ("64:ff9b::7f00:1", "loopback"),
    ] {
        let bench = Bench::with(|_| {}, &[("metadata.google.internal", &[address])]);
        let sender = bench.sender_of("f", &[&format!("*:{port}")]);
        let failure = sender.failure(&format!("http://metadata.google.internal:{port}/")).await;
        assert_eq!(failure, Error::AddressRefused { kind }, "{address}");
        let log = bench.log("f").await;
        assert!(log.len() == 1 && log[0].contains(kind) && log[0].contains(&format!("\"ADDRESS:{port}\"")), "{log:?}");
        let told = format!("{failure} {log:?}");
        assert!(!told.contains(address), "neither the guest nor the log is told the address: {told}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn the_platforms_own_listeners_are_out_of_reach_unless_named() {
    let bench = Bench::with(|_| {}, &[("localhost", &["127.0.0.1 ::1"])]);
    let sender = bench.sender_of("f", &["*", "*:8080", "*:8081", "*:8181", "localhost:8081", "0.0.0.0/0:8081"]);
    for port in [8080, 8081, 8181] {
        for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "localhost", "127.0.0.2"] {
            let failure = sender.failure(&format!("http://{host}:{port}/v1/functions")).await;
            assert!(matches!(failure, Error::AddressRefused { .. }), "{host}:{port} {failure}");
        }
    }
    let server = Server::http().await;
    let named = bench.sender_of("f", &[&server.address.to_string(), &format!("localhost:{}", server.port())]);
    assert_eq!(
        named.text(&format!("http://localhost:{}/", server.port())).await.unwrap(),
        "hello",
        "as development needs"
    );
}

#[tokio::test]
async fn only_the_named_ones_of_several_addresses_are_connected_to() {
    let server = Server::on("127.0.0.1:0").await;
    let forbidden = Server::on(&format!("127.0.0.2:{}", server.port())).await;
    let bench = Bench::with(|_| {}, &[("server.test", &["127.0.0.2 127.0.0.1 127.0.0.2"])]);
    let sender = bench.sender(&server);
    assert_eq!(sender.text(&format!("http://server.test:{}/", server.port())).await.unwrap(), "hello");
    assert_eq!((server.connections(), forbidden.connections()), (1, 0));
}

#[tokio::test]
async fn the_judged_address_is_the_connected_one_whatever_the_name_becomes() {
    let victim = Server::http().await;
    let port = victim.port();
    // The first answer is permitted, and nobody listens there; every later one is the victim's.
    let rebinding: &[(&str, &[&str])] = &[("rebind.test", &["127.0.0.2", "127.0.0.1"])];
    let bench = Bench::with(|config| config.name_age_max = Millis(0), rebinding);
    let sender = bench.sender_of("f", &[&format!("rebind.test:{port}"), &format!("127.0.0.2:{port}")]);
    let url = format!("http://rebind.test:{port}/");
    assert_eq!(sender.failure(&url).await, Error::ConnectRefused);
    assert_eq!(bench.lookups.load(Ordering::SeqCst), 1, "one request resolves once");
    assert_eq!(sender.failure(&url).await, Error::AddressRefused { kind: "loopback" });
    assert_eq!((bench.lookups.load(Ordering::SeqCst), victim.connections()), (2, 0));
}

#[tokio::test]
async fn odd_spellings_of_an_address_are_not_sent() {
    let bench = Bench::new();
    let sender = bench.sender_of("f", &["*", "server.test", "127.0.0.1"]);
    for host in ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1.", "server.test.", "user@server.test"] {
        let Ok(request) = Request::get(format!("http://{host}/")).body(Empty::<Bytes>::new()) else { continue };
        let failure = sender.send(request, Patience::default()).await.unwrap_err();
        assert!(matches!(failure, Error::Uri(_)), "{host}: {failure}");
    }
    assert_eq!(bench.lookups.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_flood_of_refusals_is_a_few_lines() {
    let bench = Bench::new();
    let sender = bench.sender_of("f", &[]);
    for n in 0..100 {
        sender.failure(&format!("https://host-{n}.test/")).await;
        sender.failure("https://same.test/").await;
    }
    assert_eq!(bench.log("f").await.len(), TOLD_MAX);
}
