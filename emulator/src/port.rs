//! A port that is kept for somebody who does not listen yet, or not any more.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A free port of loopback. While this lives, who is named the port can listen on it, and nobody gets it by chance; until then,
/// and afterwards, connections are refused. Elsewhere than on Linux it is free when it is found, and no more.
#[derive(Debug)]
pub struct FreePort {
    number: u16,
    /// Bound and never listening: beside it, one more may be bound, if it allows that too, as listeners do.
    _held: Option<TcpSocket>,
}

impl FreePort {
    /// # Errors
    /// No port is free.
    pub fn find() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let number = socket.local_addr()?.port();
        Ok(Self { number, _held: cfg!(target_os = "linux").then_some(socket) })
    }

    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}
