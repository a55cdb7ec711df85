//! A publisher that writes AMQP frames by hand: it can say what no client library says.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection with channel 1 open.
#[derive(Debug)]
pub(crate) struct Raw(TcpStream);

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap().to_be_bytes()
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [vec![u8::try_from(bytes.len()).unwrap()], bytes.to_vec()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [length(bytes.len()).to_vec(), bytes.to_vec()].concat()
}

/// A headers table nested `levels` deep, as the property's bytes.
pub(crate) fn nested(levels: usize) -> Vec<u8> {
    let mut table = Vec::new();
    for _ in 1..levels {
        table = [b"\x01kF".to_vec(), long(&table)].concat();
    }
    long(&table)
}

/// The bit of each property that tests use.
pub(crate) const HEADERS: u16 = 1 << 13;
pub(crate) const CONTENT_TYPE: u16 = 1 << 15;
pub(crate) const MESSAGE_ID: u16 = 1 << 7;

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        let authority = url.split('@').nth(1).unwrap().split('/').next().unwrap();
        let mut raw = Self(TcpStream::connect(authority).await.unwrap());
        raw.0.set_nodelay(true).unwrap();
        raw.0.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        raw.read().await;
        let start_ok = [long(b""), short(b"PLAIN"), long(b"\x00guest\x00guest"), short(b"en_US")].concat();
        raw.method(0, 10, 11, &start_ok).await;
        raw.read().await;
        raw.method(0, 10, 31, b"\x07\xff\x00\x02\x00\x00\x00\x00").await;
        raw.method(0, 10, 40, b"\x01/\x00\x00").await;
        raw.read().await;
        raw.method(1, 20, 10, b"\x00").await;
        raw.read().await;
        raw.method(1, 85, 10, b"\x00").await;
        raw.read().await;
        raw
    }

    /// Publishes and waits for the confirm.
    pub(crate) async fn publish(&mut self, exchange: &str, key: &[u8], flags: u16, properties: &[u8], body: &[u8]) {
        let publish = [b"\x00\x00".to_vec(), short(exchange.as_bytes()), short(key), vec![0]].concat();
        self.method(1, 60, 40, &publish).await;
        let size = u64::try_from(body.len()).unwrap().to_be_bytes();
        let header = [&b"\x00\x3c\x00\x00"[..], &size, &flags.to_be_bytes(), properties].concat();
        self.frame(2, 1, &header).await;
        for chunk in body.chunks(100_000) {
            self.frame(3, 1, chunk).await;
        }
        let answer = self.read().await;
        assert_eq!(answer.get(..4), Some(&[0, 60, 0, 80][..]), "no confirm: {:?}", String::from_utf8_lossy(&answer));
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind][..], &channel.to_be_bytes(), &length(payload.len()), payload, &[0xce]].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    async fn read(&mut self) -> Vec<u8> {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.unwrap();
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; usize::try_from(size).unwrap() + 1];
        self.0.read_exact(&mut payload).await.unwrap();
        payload
    }
}
