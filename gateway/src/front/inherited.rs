//! Listening sockets that this process was started with: systemd's socket
//! activation, sd_listen_fds(3).
//!
//! Whoever passes a socket keeps it too. During a restart new connections
//! therefore wait in the kernel's backlog for the next process instead of being
//! refused.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// What a socket may be called in `LISTEN_FDNAMES` (`FileDescriptorName=` of a unit).
const NAMES: [&str; 3] = ["functions", "control", "baas"];

/// Sockets by name.
#[derive(Debug, Default)]
pub struct Inherited(BTreeMap<String, TcpListener>);

impl Inherited {
    /// Takes the sockets that the environment tells of; none if it tells of none.
    /// Called once in a process, before it starts any other.
    ///
    /// # Errors
    /// For a malformed environment, and for a socket that has another name than [`NAMES`],
    /// the name of another one, or does not listen on TCP.
    pub fn from_environment() -> io::Result<Self> {
        let given = sd_listen_fds::get().map_err(io::Error::other)?;
        let mut sockets = Self::default();
        for (name, descriptor) in given {
            sockets.add(&name.unwrap_or_default(), &TcpListener::from(descriptor))?;
        }
        Ok(sockets)
    }

    fn add(&mut self, name: &str, given: &TcpListener) -> io::Result<()> {
        let wrong = |why: &str| io::Error::other(format!("the socket {name:?} {why}"));
        if !NAMES.contains(&name) {
            return Err(wrong(&format!("has none of the names {}", NAMES.join(", "))));
        }
        if !rustix::net::sockopt::socket_acceptconn(given)? {
            return Err(wrong("does not listen"));
        }
        given.local_addr().map_err(|_| wrong("is not a TCP socket"))?;
        // The copy closes on exec: the compiler's process gets none of them.
        let own = given.try_clone()?;
        own.set_nonblocking(true)?;
        if self.0.insert(name.to_owned(), own).is_some() {
            return Err(wrong("was given twice"));
        }
        Ok(())
    }

    /// Returns where the socket of that name listens.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.0.get(name)?.local_addr().ok()
    }

    /// Takes the socket of that name out.
    ///
    /// # Errors
    /// When the async runtime cannot have it.
    pub fn take(&mut self, name: &str) -> io::Result<Option<tokio::net::TcpListener>> {
        self.0.remove(name).map(tokio::net::TcpListener::from_std).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

    use super::*;

    fn listening() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[tokio::test]
    async fn a_socket_is_found_by_its_name_once_and_children_do_not_get_it() {
        let (given, mut sockets) = (listening(), Inherited::default());
        // As it comes from systemd.
        fcntl_setfd(&given, FdFlags::empty()).unwrap();
        sockets.add("functions", &given).unwrap();
        assert_eq!(sockets.address("functions"), given.local_addr().ok());
        assert_eq!(sockets.address("baas"), None);
        let taken = sockets.take("functions").unwrap().unwrap();
        assert!(fcntl_getfd(taken.as_fd()).unwrap().contains(FdFlags::CLOEXEC));
        assert!(sockets.take("functions").unwrap().is_none());
    }

    #[test]
    fn a_socket_that_cannot_be_used_is_refused_with_its_name() {
        let mut sockets = Inherited::default();
        let refused = |sockets: &mut Inherited, name: &str, socket: &TcpListener| {
            sockets.add(name, socket).unwrap_err().to_string()
        };
        assert!(refused(&mut sockets, "faas.socket", &listening()).contains("none of the names functions"));
        sockets.add("control", &listening()).unwrap();
        assert!(refused(&mut sockets, "control", &listening()).contains("twice"));
        let stream = std::net::TcpStream::connect(sockets.address("control").unwrap()).unwrap();
        let stream = TcpListener::from(OwnedFd::from(stream));
        assert!(refused(&mut sockets, "functions", &stream).contains("\"functions\" does not listen"));
        let path = std::env::temp_dir().join(format!("faas-inherited-{}", std::process::id()));
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let unix = TcpListener::from(OwnedFd::from(unix));
        assert!(refused(&mut sockets, "baas", &unix).contains("not a TCP socket"));
    }
}
