//! "Network Protocol Analysis": free text, read only where it is unambiguous.

use std::fmt;

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

/// Protocols that analysts name, with IANA's numbers. Short common words (`IP`, `AH`) are left out on purpose.
const TRANSPORTS: [Transport; 8] = [
    Transport { number: 1, name: "ICMP" },
    Transport { number: 2, name: "IGMP" },
    Transport { number: 6, name: "TCP" },
    Transport { number: 17, name: "UDP" },
    Transport { number: 47, name: "GRE" },
    Transport { number: 50, name: "ESP" },
    Transport { number: 58, name: "ICMPv6" },
    Transport { number: 132, name: "SCTP" },
];

impl NetworkUse {
    /// Reads the values of all "Network Protocol Analysis" attributes of one indicator together.
    ///
    /// None if they name nothing that we know, or more than one port or protocol: a wrong port is worse than none.
    #[must_use]
    pub fn read(texts: &[&str]) -> Option<Self> {
        let mut found = Found::default();
        for text in texts {
            found.add(&words(text));
        }
        if found.ambiguous || (found.port.is_none() && found.transport.is_none()) {
            return None;
        }
        Some(Self { port: found.port, transport: found.transport })
    }
}

impl fmt::Display for NetworkUse {
    /// `443/TCP`, `443`, `TCP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.transport) {
            (Some(port), Some(transport)) => write!(f, "{port}/{}", transport.name),
            (Some(port), None) => write!(f, "{port}"),
            (None, Some(transport)) => f.write_str(transport.name),
            (None, None) => Ok(()),
        }
    }
}

/// A word, and what separates it from the word before.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    gap: &'a str,
    text: &'a str,
}

impl Word<'_> {
    fn transport(self) -> Option<Transport> {
        TRANSPORTS.into_iter().find(|t| t.name.eq_ignore_ascii_case(self.text))
    }

    fn port(self) -> Option<u16> {
        let digits = self.text.bytes().all(|b| b.is_ascii_digit());
        self.text.parse().ok().filter(|port| digits && *port > 0)
    }

    fn is(self, words: &[&str]) -> bool {
        words.iter().any(|word| word.eq_ignore_ascii_case(self.text))
    }

    /// True if nothing but `allowed` and blanks stands before this word.
    fn joined_by(self, allowed: &[char]) -> bool {
        self.gap.chars().all(|c| c == ' ' || allowed.contains(&c))
    }
}

/// Words hold letters, digits, dots and hyphens, so that `198.51.100.7`, `80-90` and `3-way` are no numbers.
fn words(text: &str) -> Vec<Word<'_>> {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-');
    let mut words = Vec::new();
    let mut end = 0;
    while let Some(start) = text[end..].find(inside).map(|at| end + at) {
        let stop = text[start..].find(|c| !inside(c)).map_or(text.len(), |at| start + at);
        let word = text[start..stop].trim_end_matches(['.', '-']);
        words.push(Word { gap: &text[end..start], text: word });
        end = start + word.len().max(1);
    }
    words
}

#[derive(Debug, Default)]
struct Found {
    port: Option<u16>,
    transport: Option<Transport>,
    ambiguous: bool,
}

impl Found {
    fn add(&mut self, words: &[Word<'_>]) {
        for (at, word) in words.iter().enumerate() {
            let next = words.get(at + 1).copied();
            if let Some(transport) = word.transport() {
                self.add_transport(transport);
                // `TCP/443`, `tcp:443`, `TCP 443`
                if let Some(next) = next.filter(|next| next.joined_by(&['/', ':', '('])) {
                    self.add_port_at(words, at + 1, next);
                }
            } else if word.is(&["port", "ports"]) {
                // `port 443`, `Port: 443`
                if let Some(next) = next.filter(|next| next.joined_by(&[':', '=', '#'])) {
                    self.add_port_at(words, at + 1, next);
                }
            } else if word.is(&["protocol"]) {
                // `protocol 17`, `Protocol: 6`
                let number = next.filter(|next| next.joined_by(&[':', '=', '#'])).and_then(Word::port);
                if let Some(transport) = TRANSPORTS.into_iter().find(|t| Some(u16::from(t.number)) == number) {
                    self.add_transport(transport);
                }
            } else if next.is_some_and(|next| next.transport().is_some() && next.gap.contains(['/', '('])) {
                // `443/udp`, `443 (TCP)`
                self.add_port_at(words, at, *word);
            }
        }
    }

    fn add_transport(&mut self, transport: Transport) {
        self.ambiguous |= self.transport.is_some_and(|known| known != transport);
        self.transport = Some(transport);
    }

    fn add_port_at(&mut self, words: &[Word<'_>], at: usize, word: Word<'_>) {
        let Some(port) = word.port() else {
            // A range such as `8000-8080` names more than one port.
            self.ambiguous |= word.text.contains('-') && word.text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            return;
        };
        self.ambiguous |= self.port.is_some_and(|known| known != port);
        self.port = Some(port);
        // `ports 80, 443`, `ports 80 and 443`
        let mut rest = words[at + 1..].iter().copied().skip_while(|word| word.is(&["and", "or", "to"]));
        self.ambiguous |= rest.next().is_some_and(|word| word.port().is_some() && word.port() != Some(port));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(texts: &[&str]) -> String {
        NetworkUse::read(texts).map_or("nothing".to_owned(), |found| found.to_string())
    }

    #[test]
    fn usual_spellings_are_read() {
        for text in ["TCP/443", "tcp:443", "443/tcp", "TCP 443", "443 (TCP)", "Port: 443, protocol: TCP", "C2 over TCP port 443."]
        {
            assert_eq!(shown(&[text]), "443/TCP", "{text}");
        }
        assert_eq!(shown(&["beacons to port 8443 each hour"]), "8443");
        assert_eq!(shown(&["Protocol 17"]), "UDP");
        assert_eq!(shown(&["port 53", "UDP"]), "53/UDP");
    }

    #[test]
    fn what_is_ambiguous_is_nothing() {
        for text in
            ["TCP/80 and UDP/53", "ports 80 and 443", "ports 80, 443", "port 80,443", "tcp 8000-8080", "TCP/443, TCP/8443"]
        {
            assert_eq!(shown(&[text]), "nothing", "{text}");
        }
        assert_eq!(shown(&["port 80", "port 443"]), "nothing");
    }

    #[test]
    fn other_numbers_are_no_ports() {
        for text in ["", "443", "seen 12 times", "port 0", "port 70000", "https://a.example:8443/x", "version 2.0"] {
            assert_eq!(shown(&[text]), "nothing", "{text}");
        }
        assert_eq!(shown(&["TCP 3-way handshake with 198.51.100.7:443"]), "TCP");
        assert_eq!(shown(&["198.51.100.7 tcp"]), "TCP");
        assert_eq!(shown(&["Uses TCP. 12 hosts were seen."]), "TCP");
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in ".*", other in "(tcp|udp|port|ports|[0-9]{1,6}|[ /:.,()-]){0,12}") {
            let _ = NetworkUse::read(&[&text, &other]);
        }
    }
}
