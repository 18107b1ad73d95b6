//! "Network Protocol Analysis": free text, read only where it is unambiguous.

/// Port and protocol that an indicator was seen with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetworkUse {
    pub port: Option<u16>,
    pub transport: Option<Transport>,
}

/// A protocol of the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transport {
    /// Decimal number of the IPv4 header: TCP 6, UDP 17.
    pub number: u8,
    /// `TCP`, `UDP`, …
    pub name: &'static str,
}
