//! Connections that are kept and used again, the latest first.

use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One connection, good for the next request.
pub type Connection = SendRequest<Full<Bytes>>;

/// The idle connections to one server; no more than were once busy together.
#[derive(Debug)]
pub struct Connections {
    authority: String,
    idle: Mutex<Vec<Connection>>,
}

impl Connections {
    /// Makes an empty set for `host:port`.
    #[must_use]
    pub fn new(authority: &str) -> Self {
        Self { authority: authority.to_owned(), idle: Mutex::new(Vec::new()) }
    }

    /// Returns an idle connection that still lives, or opens one.
    ///
    /// # Errors
    /// When none can be opened.
    pub async fn take(&self) -> std::io::Result<Connection> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
            match kept {
                // The driver has seen an end of a connection that is closed.
                Some(connection) if connection.is_closed() => {}
                Some(connection) => return Ok(connection),
                None => return self.open().await,
            }
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn open(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // It ends with the last handle of the connection, and its errors reach the sender.
        tokio::spawn(driver);
        Ok(sender)
    }

    /// Keeps a connection for the next request.
    pub fn keep(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).push(connection);
    }
}
