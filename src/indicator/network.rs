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

/// The words that are read (IANA's protocol numbers).
const TRANSPORTS: [(&str, Transport); 8] = [
    ("tcp", Transport { number: 6, name: "TCP" }),
    ("udp", Transport { number: 17, name: "UDP" }),
    ("icmp", Transport { number: 1, name: "ICMP" }),
    ("igmp", Transport { number: 2, name: "IGMP" }),
    ("gre", Transport { number: 47, name: "GRE" }),
    ("esp", Transport { number: 50, name: "ESP" }),
    ("ah", Transport { number: 51, name: "AH" }),
    ("sctp", Transport { number: 132, name: "SCTP" }),
];

impl NetworkUse {
    /// Reads `TCP/443`, `tcp:443`, `443/udp`, `port 443`. Nothing where two ports or two protocols are named, or none.
    #[must_use]
    pub fn read(texts: &[&str]) -> Option<Self> {
        let mut ports: Vec<u16> = Vec::new();
        let mut transports: Vec<Transport> = Vec::new();
        for text in texts {
            let lower = text.to_ascii_lowercase();
            let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
            for (i, word) in words.iter().enumerate() {
                if let Some((_, transport)) = TRANSPORTS.iter().find(|(name, _)| name == word) {
                    transports.push(*transport);
                }
                let near = |at: Option<&&str>| at.is_some_and(|w| *w == "port" || TRANSPORTS.iter().any(|(name, _)| name == w));
                let beside = near(i.checked_sub(1).and_then(|before| words.get(before))) || near(words.get(i + 1));
                if let Some(port) = word.parse::<u16>().ok().filter(|port| beside && *port > 0) {
                    ports.push(port);
                }
            }
        }
        ports.sort_unstable();
        ports.dedup();
        transports.sort_unstable_by_key(|transport| transport.number);
        transports.dedup();
        match (ports.as_slice(), transports.as_slice()) {
            ([], []) => None,
            (ports, transports) if ports.len() > 1 || transports.len() > 1 => None,
            (ports, transports) => Some(Self { port: ports.first().copied(), transport: transports.first().copied() }),
        }
    }
}

impl std::fmt::Display for NetworkUse {
    /// `443/TCP`, `443`, `TCP`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.port, self.transport) {
            (Some(port), Some(transport)) => write!(f, "{port}/{}", transport.name),
            (Some(port), None) => write!(f, "{port}"),
            (None, Some(transport)) => f.write_str(transport.name),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unambiguous_is_read() {
        let read = |text: &str| NetworkUse::read(&[text]).map(|found| found.to_string());
        assert_eq!(read("TCP/443").as_deref(), Some("443/TCP"));
        assert_eq!(read("Seen on 8080/udp last week").as_deref(), Some("8080/UDP"));
        assert_eq!(read("port 25").as_deref(), Some("25"));
        assert_eq!(read("HTTP over a non-standard port; see report."), None);
        assert_eq!(read("tcp:80 and tcp:443"), None);
        assert_eq!(read("2023 report, page 12"), None);
    }
}
