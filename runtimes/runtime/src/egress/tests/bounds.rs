//! Every bound at its edge.

use faas_model::units::ByteSize;
use http_body::Frame;
use http_body_util::StreamBody;

use super::*;

#[tokio::test]
async fn parallel_requests_are_bounded_for_a_call_for_a_function_and_for_all() {
    let bounds = |config: &mut Config| {
        (config.requests_per_call_max, config.requests_per_function_max, config.requests_max) = (2, 3, 4);
    };
    let (bench, server) = (Bench::with(bounds, &[]), Server::http().await);
    let (rule, url) = (server.address.to_string(), server.url("/pause"));
    let sender = |function: &str| bench.sender_of(function, &[&rule]);
    let (one, two, other) = (sender("f"), sender("f"), sender("other"));
    let busy = |bound: &'static str, max| Error::Busy { bound, max };
    let mut held = vec![one.get(&url).await.unwrap(), one.get(&url).await.unwrap()];
    assert_eq!(one.failure(&url).await, busy("egress.requests_per_call_max", 2));
    held.push(two.get(&url).await.unwrap());
    assert_eq!(two.failure(&url).await, busy("egress.requests_per_function_max", 3));
    held.push(other.get(&url).await.unwrap());
    assert_eq!(other.failure(&url).await, busy("egress.requests_max", 4));
    drop(held.pop());
    held.push(other.get(&url).await.unwrap());
    drop(held);
    for _ in 0..2 {
        assert_eq!(one.text(&server.url("/")).await.unwrap(), "hello", "what was refused holds no place");
    }
    assert!(bench.log("f").await[0].contains("egress.requests_per_call_max is 2"));
}

#[tokio::test]
async fn a_call_sends_so_many_bytes_and_not_one_more() {
    let bench = Bench::with(|config| config.request_bytes_max = ByteSize(1000), &[]);
    let server = Server::http().await;
    let (sender, url) = (bench.sender(&server), server.url("/echo"));
    let post = |n: usize| sender.send(post(&url, vec![b'x'; n]), Patience::default());
    assert_eq!(text(post(600).await.unwrap()).await.unwrap().len(), 600);
    assert_eq!(text(post(400).await.unwrap()).await.unwrap().len(), 400);
    let failure = match post(1).await {
        Ok(answer) => text(answer).await.unwrap_err(),
        Err(failure) => failure,
    };
    assert!(matches!(failure, Error::RequestBytes { max: 1000 } | Error::Incomplete), "{failure}");
    let parts = futures_util::stream::iter((0..1001).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x")))));
    let request = Request::post(server.url("/silent")).body(StreamBody::new(parts)).unwrap();
    let failure = bench.sender(&server).send(request, Patience::default()).await.unwrap_err();
    assert_eq!(failure, Error::RequestBytes { max: 1000 }, "a stream is counted as it goes");
}

#[tokio::test]
async fn a_call_receives_so_many_bytes_and_not_one_more() {
    let bench = Bench::with(|config| config.response_bytes_max = ByteSize(100_000), &[]);
    let server = Server::http().await;
    let sender = bench.sender(&server);
    assert_eq!(sender.text(&server.url("/size?99999")).await.unwrap().len(), 99_999);
    assert_eq!(sender.text(&server.url("/size?1")).await.unwrap().len(), 1);
    assert_eq!(sender.failure(&server.url("/size?1")).await, Error::ResponseBytes { max: 100_000 });
    assert_eq!(sender.text(&server.url("/size?0")).await.unwrap(), "");
    let other = bench.sender(&server);
    assert_eq!(other.failure(&server.url("/size?100001")).await, Error::ResponseBytes { max: 100_000 });
    until("the close of what was not read", || server.open() <= 1).await;
}

#[tokio::test]
async fn waiting_has_bounds_of_ours_and_shorter_ones_of_the_function() {
    let short = |config: &mut Config| {
        (config.first_byte_timeout, config.between_bytes_timeout) = (Millis(50), Millis(50));
    };
    let server = Server::http().await;
    for ours in [true, false] {
        let bench = if ours { Bench::with(short, &[]) } else { Bench::new() };
        let sender = bench.sender(&server);
        let wanted = Duration::from_millis(50);
        // Longer wishes than ours do not count.
        let wish = if ours { LONG * 100 } else { wanted };
        let patience = Patience { first_byte: Some(wish), between_bytes: Some(wish), connect: Some(wish) };
        let send = |path: &str| {
            let (sender, request) = (sender.clone(), get(&server.url(path)));
            async move { tokio::time::timeout(LONG, sender.send(request, patience)).await.unwrap() }
        };
        assert_eq!(send("/silent").await.unwrap_err(), Error::FirstByteTimeout, "ours: {ours}");
        let mut body = send("/pause").await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
        let failure = tokio::time::timeout(LONG, body.frame()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(failure, Error::BetweenBytesTimeout, "ours: {ours}");
        assert!(body.frame().await.is_none(), "a failed answer has no further piece");
    }
    until("the close of them all", || server.open() == 0).await;
}

#[tokio::test]
async fn a_connection_that_is_never_made_ends_with_its_time() {
    // A listener that accepts nothing, its queue filled: further handshakes are not answered.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, _listener) = (socket.local_addr().unwrap(), socket.listen(1).unwrap());
    let mut filling = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await
    {
        filling.push(stream);
        assert!(filling.len() < 100);
    }
    let bench = Bench::with(|config| config.connect_timeout = Millis(100), &[]);
    let failure = bench.sender_of("f", &[&address.to_string()]).failure(&format!("http://{address}/")).await;
    assert_eq!(failure, Error::ConnectTimeout);
}

#[tokio::test]
async fn names_are_remembered_for_a_while_and_only_so_many() {
    let server = Server::http().await;
    let all = |name: &str| (name.ends_with(".test")).then(|| vec!["127.0.0.1".parse().unwrap()]);
    let counted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&counted);
    let lookup = move |name: &str| {
        counter.fetch_add(1, Ordering::SeqCst);
        all(name).ok_or_else(|| io::Error::other("no such name"))
    };
    let bench = Bench::looking_up(|config| (config.names_max, config.idle_max) = (2, 0), Arc::clone(&counted), lookup);
    let any = format!("*:{}", server.port());
    let sender = bench.sender_of("f", &[&any, &server.address.to_string()]);
    let url = |name: &str| format!("http://{name}:{}/", server.port());
    for _ in 0..3 {
        sender.text(&url("a.test")).await.unwrap();
    }
    assert_eq!(counted.load(Ordering::SeqCst), 1, "the first lookup serves all three");
    for name in ["b.test", "c.test", "d.test"] {
        sender.text(&url(name)).await.unwrap();
    }
    assert_eq!((counted.load(Ordering::SeqCst), bench.egress.shared.names.len()), (4, 2));
    for _ in 0..2 {
        assert_eq!(sender.failure(&url("gone.example")).await, Error::NameUnknown);
    }
    assert_eq!(counted.load(Ordering::SeqCst), 6, "failures are not remembered");
}

#[tokio::test]
async fn names_that_hang_end_in_time_and_leave_other_functions_their_lookups() {
    let server = Server::http().await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let lookup = move |name: &str| {
        if name == "hangs.test" {
            held.lock().unwrap().recv().ok();
        }
        Ok(vec!["127.0.0.1".parse().unwrap()])
    };
    let few = |config: &mut Config| (config.lookups_max, config.lookup_timeout) = (8, Millis(50));
    let bench = Bench::looking_up(few, Arc::default(), lookup);
    let rules = [format!("*:{}", server.port()), server.address.to_string()];
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let url = |name: &str| format!("http://{name}:{}/", server.port());
    // Two are the share of one function; the third waits for a place and is refused in time as well.
    let hanging = bench.sender_of("hangs", &rules);
    for name in ["hangs.test", "hangs.test", "fine.test"] {
        assert_eq!(hanging.failure(&url(name)).await, Error::NameTimeout, "{name}");
    }
    let other = bench.sender_of("other", &rules);
    assert_eq!(other.text(&url("fine.test")).await.unwrap(), "hello");
    drop(release);
}
