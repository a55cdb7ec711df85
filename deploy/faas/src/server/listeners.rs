//! The three addresses: all bound before anything else is opened, none beyond
//! loopback unless asked for.

use std::net::SocketAddr;

use faas_gateway::front::Inherited;
use tokio::net::{TcpListener, lookup_host};
use tracing::warn;

use crate::failure::{Exit, Failure, Outcome};
use crate::settings::Server;

/// Connections that wait to be accepted.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    /// Where it really listens, port included.
    pub(crate) address: SocketAddr,
}

/// The sockets of one process.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) functions: Listener,
    pub(crate) control: Listener,
    pub(crate) baas: Listener,
}

impl Listeners {
    /// Takes the sockets that the process was started with, and binds the other addresses of the settings.
    ///
    /// # Errors
    /// `Refused` for a socket of no use, `Usage` for an address beyond loopback that was not allowed, `Unreachable` for one that cannot be bound.
    pub(crate) async fn bind(server: &Server) -> Outcome<Self> {
        let mut given = Inherited::from_environment().map_err(unusable)?;
        let asked = [
            ("server.listen", &server.listen, "functions, which have no credential of their own"),
            ("server.control", &server.control, "the control API, to whoever has the token"),
            ("server.baas", &server.baas, "all state, to whoever has the token"),
        ];
        let mut found = Vec::new();
        for (key, address, _) in asked {
            let inherited = given.address(name_of(key));
            found.push(if let Some(address) = inherited { address } else { resolve(key, address).await? });
        }
        let beyond: Vec<String> = asked
            .iter()
            .zip(&found)
            .filter(|(_, address)| !address.ip().is_loopback())
            .map(|((key, _, what), address)| format!("{key} = {address} would expose {what}"))
            .collect();
        if !beyond.is_empty() && !server.expose {
            let hint = "add --expose if that is meant; traffic is not encrypted, so put a TLS proxy in front";
            return Err(Failure::new(Exit::Usage, beyond.join("\n       "), hint));
        }
        beyond.iter().for_each(|what| warn!(%what, "listening beyond loopback"));
        let [functions, control, baas] = found.as_slice() else {
            return Err(Failure::new(Exit::Refused, "there are three addresses", "report this"));
        };
        Ok(Self {
            functions: open(&mut given, "server.listen", *functions).await?,
            control: open(&mut given, "server.control", *control).await?,
            baas: open(&mut given, "server.baas", *baas).await?,
        })
    }
}

async fn resolve(key: &str, address: &str) -> Outcome<SocketAddr> {
    let wrong = |why: String| {
        let message = format!("{key} = {address:?} is no address: {why}");
        Failure::new(Exit::Data, message, "use HOST:PORT, such as 127.0.0.1:8080; port 0 takes any free one")
    };
    let mut found = lookup_host(address).await.map_err(|e| wrong(e.to_string()))?;
    found.next().ok_or_else(|| wrong("the name has none".into()))
}

/// Returns the name of the socket that stands for an address of the settings.
fn name_of(key: &str) -> &str {
    let name = key.trim_start_matches("server.");
    if name == "listen" { "functions" } else { name }
}

fn unusable(error: std::io::Error) -> Failure {
    Failure::new(Exit::Refused, format!("LISTEN_FDS: {error}"), "see `FileDescriptorName=` in docs/faults.md")
}

async fn open(given: &mut Inherited, key: &str, address: SocketAddr) -> Outcome<Listener> {
    match given.take(name_of(key)).map_err(unusable)? {
        Some(socket) => Ok(Listener { socket, address }),
        None => bind(key, address).await,
    }
}

async fn bind(key: &str, address: SocketAddr) -> Outcome<Listener> {
    let failed = |e: std::io::Error| {
        let hint = "another `faas up` may run already; choose another address with --listen, --control or --baas";
        Failure::new(Exit::Unreachable, format!("{key} = {address} cannot be bound: {e}"), hint)
    };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    Ok(Listener { socket, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(listen: &str, expose: bool) -> Server {
        let any = || "127.0.0.1:0".to_owned();
        Server { listen: listen.into(), control: any(), baas: any(), expose, ..Server::default() }
    }

    #[tokio::test]
    async fn nothing_listens_beyond_loopback_unasked() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let failure = Listeners::bind(&server(address, false)).await.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.contains("server.listen") && failure.hint.contains("--expose"), "{failure}");
        }
        Listeners::bind(&server("0.0.0.0:0", true)).await.unwrap();
    }

    #[tokio::test]
    async fn port_0_takes_a_free_port_and_says_which() {
        let listeners = Listeners::bind(&server("127.0.0.1:0", false)).await.unwrap();
        assert_ne!(listeners.functions.address.port(), 0);
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let first = Listeners::bind(&server("127.0.0.1:0", false)).await.unwrap();
        let address = first.functions.address.to_string();
        let failure = Listeners::bind(&server(&address, false)).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.message.contains(&address), "{failure}");
        assert_eq!(Listeners::bind(&server("nonsense", false)).await.unwrap_err().exit, Exit::Data);
    }
}
