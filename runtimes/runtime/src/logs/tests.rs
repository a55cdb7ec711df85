use super::*;

fn book(config: LogConfig) -> (tempfile::TempDir, LogBook, FunctionName) {
    let dir = tempfile::tempdir().unwrap();
    let book = LogBook::open(dir.path().join("logs"), config).unwrap();
    (dir, book, FunctionName::in_default("hello").unwrap())
}

async fn texts(book: &LogBook, function: &FunctionName) -> Vec<String> {
    book.tail(function, 10_000).await.unwrap().into_iter().map(|line| line.text).collect()
}

#[tokio::test]
async fn lines_come_back_in_order_with_their_call_and_stream() {
    let (_dir, book, function) = book(LogConfig::default());
    let call = CallId::fresh();
    let log = book.writer(&function).call(call);
    log.write(Stream::Stdout, b"one\ntw");
    log.write(Stream::Stderr, b"bad\n");
    log.write(Stream::Stdout, b"o\nrest");
    drop(log);
    let lines = book.tail(&function, 10).await.unwrap();
    let seen: Vec<_> = lines.iter().map(|l| (l.stream, l.text.as_str())).collect();
    let want = [(Stream::Stdout, "one"), (Stream::Stderr, "bad"), (Stream::Stdout, "two"), (Stream::Stdout, "rest")];
    assert_eq!(seen, want);
    assert!(lines.iter().all(|l| l.call == call && l.time > 0));
    assert_eq!(book.tail(&function, 1).await.unwrap().first().unwrap().text, "rest");
    assert!(texts(&book, &FunctionName::in_default("other").unwrap()).await.is_empty());
}

#[tokio::test]
async fn output_cannot_forge_lines_or_steer_a_terminal() {
    let (_dir, book, function) = book(LogConfig::default());
    let log = book.writer(&function).call(CallId::fresh());
    log.write(Stream::Stdout, b"\x1b[2Jgone\r{\"forged\":1}\0\xff\xc2\x9b\xe2\x80\xae\n");
    let lines = texts(&book, &function).await;
    assert_eq!(lines, ["\\u{1b}[2Jgone\\r{\"forged\":1}\\u{0}\u{fffd}\\u{9b}\\u{202e}"]);
}

#[tokio::test]
async fn a_long_line_is_cut_and_the_rest_is_counted() {
    let (_dir, book, function) = book(LogConfig { line_bytes_max: 80, ..LogConfig::default() });
    let log = book.writer(&function).call(CallId::fresh());
    log.write(Stream::Stdout, &[b'x'; 100]);
    log.write(Stream::Stdout, b"y\nnext\n");
    drop(log);
    let lines = texts(&book, &function).await;
    assert_eq!(lines.first().unwrap(), &"x".repeat(80));
    assert_eq!(lines.get(1).unwrap(), "next");
    assert!(lines.get(2).unwrap().starts_with("21 bytes of output were dropped"), "{lines:?}");
}

#[tokio::test]
async fn a_flood_of_one_call_ends_at_its_bound_with_one_line_that_counts() {
    let (_dir, book, function) = book(LogConfig { call_bytes_max: 4096, ..LogConfig::default() });
    let log = book.writer(&function).call(CallId::fresh());
    for _ in 0..10_000 {
        log.write(Stream::Stdout, b"\n0123456789");
    }
    drop(log);
    let lines = texts(&book, &function).await;
    let bytes: usize = lines.iter().map(String::len).sum();
    assert!(bytes < 4096 + 200, "{bytes}");
    let dropped = lines.iter().filter(|l| l.contains("were dropped")).count();
    assert_eq!(dropped, 1, "{lines:?}");
}

#[tokio::test]
async fn the_files_of_a_function_stay_within_two_rings() {
    let config = LogConfig { file_bytes_max: 16 << 10, queue_lines_max: 65_536, ..LogConfig::default() };
    let (dir, book, function) = book(config);
    let writer = book.writer(&function);
    let call = CallId::fresh();
    for n in 0..2000 {
        writer.line(call, Stream::Stdout, format!("line {n}").as_bytes());
    }
    let lines = texts(&book, &function).await;
    assert_eq!(lines.last().unwrap(), "line 1999");
    let sizes: Vec<u64> =
        std::fs::read_dir(dir.path().join("logs")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes.iter().all(|s| *s <= 16 << 10), "{sizes:?}");
    assert!(lines.len() > 100);
    // No gap: what is kept is the newest part.
    let first: usize = lines.first().unwrap().trim_start_matches("line ").parse().unwrap();
    assert_eq!(lines.len(), 2000 - first);
}

#[tokio::test]
async fn a_follower_sees_new_lines_and_no_path_is_built_from_a_name() {
    let (dir, book, function) = book(LogConfig::default());
    let writer = book.writer(&function);
    let mut follower = book.follow(&function);
    writer.line(CallId::fresh(), Stream::Platform, b"hi");
    assert_eq!(follower.next().await.unwrap().text, "hi");
    book.tail(&function, 1).await.unwrap();
    let names: Vec<_> = std::fs::read_dir(dir.path().join("logs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 1);
    assert!(!names.first().unwrap().contains("hello"), "{names:?}");
}

#[tokio::test]
async fn removed_logs_are_gone_and_can_begin_again() {
    let (dir, book, function) = book(LogConfig::default());
    let writer = book.writer(&function);
    writer.line(CallId::fresh(), Stream::Stdout, b"old");
    assert_eq!(texts(&book, &function).await, ["old"]);
    book.remove(&function).await.unwrap();
    book.remove(&function).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("logs")).unwrap().count(), 0);
    writer.line(CallId::fresh(), Stream::Stdout, b"new");
    assert_eq!(texts(&book, &function).await, ["new"]);
}

#[tokio::test]
async fn the_lines_of_before_are_there_after_a_new_start() {
    let (dir, first, function) = book(LogConfig::default());
    first.writer(&function).line(CallId::fresh(), Stream::Stdout, b"before");
    assert_eq!(texts(&first, &function).await, ["before"]);
    drop(first);
    // A line that a crash cut.
    let file = std::fs::read_dir(dir.path().join("logs")).unwrap().next().unwrap().unwrap().path();
    use std::io::Write as _;
    std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"time\":1").unwrap();
    let again = LogBook::open(dir.path().join("logs"), LogConfig::default()).unwrap();
    assert_eq!(texts(&again, &function).await, ["before"]);
    again.writer(&function).line(CallId::fresh(), Stream::Stdout, b"after");
    assert_eq!(texts(&again, &function).await, ["before", "after"]);
}

#[test]
fn a_writer_that_discards_takes_everything() {
    let writer = LogWriter::discard();
    let log = writer.call(CallId::fresh());
    log.write(Stream::Stdout, b"x\n");
    log.platform("y");
}

#[tokio::test]
async fn a_book_that_keeps_nothing_takes_lines_and_has_none() {
    let (book, function) = (LogBook::discard(), FunctionName::in_default("f").unwrap());
    let log = book.writer(&function).call(CallId::fresh());
    log.write(Stream::Stdout, b"lost\n");
    drop(log);
    assert!(book.tail(&function, 10).await.unwrap().is_empty());
    assert_eq!(book.follow(&function).next().await, None);
    book.remove(&function).await.unwrap();
}
