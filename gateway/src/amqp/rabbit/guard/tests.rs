//! What leaves the guard can be read by the library; what it could read before is unchanged.

use super::*;

use proptest::prelude::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 0, 1];
    frame.extend_from_slice(&length(payload.len()));
    frame.extend_from_slice(payload);
    frame.push(FRAME_END);
    frame
}

fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    payload.extend_from_slice(&flags.to_be_bytes());
    payload.extend_from_slice(properties);
    frame(FRAME_HEADER, &payload)
}

fn table_of(levels: usize) -> Vec<u8> {
    let mut table = Vec::new();
    for _ in 1..levels {
        let mut outer = vec![1, b'k', b'F'];
        outer.extend_from_slice(&length(table.len()));
        outer.append(&mut table);
        table = outer;
    }
    let mut properties = length(table.len()).to_vec();
    properties.append(&mut table);
    properties
}

fn pass(input: &[u8]) -> Vec<u8> {
    let (mut guard, mut out) = (Guard::default(), Vec::new());
    guard.feed(input, &mut out).unwrap();
    assert!(guard.pending.is_empty(), "a whole frame was held back");
    out
}

/// Reads the properties with the library's own reader, on a thread as small as the library's own.
fn parsed(bytes: &[u8]) -> lapin::BasicProperties {
    let payload = bytes[7 + 12..bytes.len() - 1].to_vec();
    let reading = std::thread::spawn(move || {
        let (rest, properties) = lapin::protocol::basic::parse_properties(&payload[..]).unwrap();
        assert!(rest.is_empty());
        properties
    });
    reading.join().unwrap()
}

fn fault(properties: &lapin::BasicProperties) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(FAULT)? {
        lapin::types::AMQPValue::LongString(text) => Some(text.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn readable_frames_pass_unchanged() {
    let plain = header(1 << 15, b"\x0atext/plain");
    let nested = header(1 << 13, &table_of(NESTING_MAX));
    let body = frame(FRAME_BODY, &[0xff; 300]);
    let heartbeat = frame(FRAME_HEARTBEAT, &[]);
    let all = [plain, nested, body, heartbeat].concat();
    assert_eq!(pass(&all), all);
    let (mut guard, mut out) = (Guard::default(), Vec::new());
    all.iter().for_each(|b| guard.feed(&[*b], &mut out).unwrap());
    assert_eq!(out, all, "byte by byte");
}

#[test]
fn headers_the_library_cannot_read_are_replaced_and_kept_as_bytes() {
    let bad = [
        header(1 << 13, &table_of(NESTING_MAX + 2)),
        header(1 << 13, &table_of(1000)),
        header(1 << 13, &table_of(14_000)),
        header(1 << 15, b"\x02\xff\xfe"),
        header(1 << 13, b"\x00\x00\x00\x04\x01\xffV\x00"),
        header(1 << 13, b"\x00\x00\x00\x03\x01kZ"),
        header(1 << 13, b"\x00\x00\x00\xffx"),
        header(1, b""),
    ];
    for frame in bad {
        let properties = parsed(&pass(&frame));
        let text = fault(&properties).expect("the fault is named");
        assert!(!text.is_empty());
        let original = &frame[7 + 12..frame.len() - 1];
        match properties.headers().as_ref().unwrap().inner().get(ORIGINAL) {
            Some(lapin::types::AMQPValue::ByteArray(bytes)) => assert_eq!(bytes.as_slice(), original),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_foreign_routing_key_keeps_its_length() {
    let deliver = b"\x00\x3c\x00\x3c\x03tag\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x02\xffk";
    let mut expected = deliver.to_vec();
    let key = expected.len() - 2;
    expected[key] = b'?';
    assert_eq!(pass(&frame(FRAME_METHOD, deliver)), frame(FRAME_METHOD, &expected));
}

#[test]
fn frames_that_no_broker_sends_break_the_connection() {
    let mut guard = Guard::default();
    let huge = [FRAME_METHOD, 0, 1, 0xff, 0xff, 0xff, 0xff, 0];
    assert_eq!(guard.feed(&huge, &mut Vec::new()), Err(TooLarge));
    let old = b"AMQP\x00\x00\x08\x00more";
    assert_eq!(pass(old), old);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_the_properties_the_library_can_read_what_comes_out(
        flags in any::<u16>(), bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        parsed(&pass(&header(flags, &bytes)));
    }

    #[test]
    fn tables_of_odd_fields_never_panic(fields in proptest::collection::vec(
        (any::<[u8; 2]>(), proptest::sample::select(b"tbBsUuIifDLldTVSxAFZ".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..12)), 0..20,
    )) {
        let table: Vec<u8> = fields
            .into_iter()
            .flat_map(|(key, kind, value)| [vec![2, key[0], key[1], kind], value].concat())
            .collect();
        let properties = [length(table.len()).to_vec(), table].concat();
        parsed(&pass(&header(1 << 13, &properties)));
    }
}
