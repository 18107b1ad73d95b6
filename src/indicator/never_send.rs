//! What must never go out, whatever the source says: own domains, own networks, public resolvers.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Kind, Observable};

/// The user's list, parsed: values, domains (with their subdomains), networks.
#[derive(Debug, Clone, Default)]
pub struct NeverSend {
    values: HashSet<String>,
    domains: HashSet<String>,
    networks: Vec<IpNet>,
}

impl NeverSend {
    /// Reads entries: networks and addresses, domains, any other value as it is.
    ///
    /// # Errors
    /// A line per entry that can be none of them.
    pub fn parse(entries: &[String]) -> Result<Self, Vec<String>> {
        let mut list = Self::default();
        let mut problems = Vec::new();
        for entry in entries {
            let text = entry.trim();
            if let Ok(address) = text.parse::<IpAddr>() {
                list.networks.push(IpNet::from(address));
            } else if looks_like_network(text) {
                match text.parse::<IpNet>() {
                    Ok(network) => list.networks.push(network.trunc()),
                    Err(_) => problems.push(format!("`{text}` is no network; accepted are values, domains, and networks such as 192.0.2.0/24")),
                }
            } else if let Ok(domain) = Observable::parse(Kind::Host, text.trim_start_matches("*.").trim_start_matches('.')) {
                list.domains.insert(domain.value().to_owned());
                list.values.insert(text.to_owned());
            } else if text.is_empty() {
                problems.push("an empty entry; accepted are values, domains, and networks such as 192.0.2.0/24".to_owned());
            } else {
                list.values.insert(text.to_owned());
                let normal = Kind::ALL.iter().filter_map(|kind| Observable::parse(*kind, text).ok());
                list.values.extend(normal.map(|observable| observable.value().to_owned()));
            }
            if let Some(hash) = Kind::ALL.iter().filter(|kind| kind.type_name() == "File").find_map(|kind| Observable::parse(*kind, text).ok()) {
                list.values.insert(hash.value().to_owned());
            }
        }
        if problems.is_empty() { Ok(list) } else { Err(problems) }
    }

    /// True if the observable must not go out: by value, by domain or a domain above, by network or an overlapping one.
    #[must_use]
    pub fn covers(&self, observable: &Observable) -> bool {
        if self.values.is_empty() && self.domains.is_empty() && self.networks.is_empty() {
            return false;
        }
        self.values.contains(observable.value())
            || observable.host().is_some_and(|host| self.covers_host(host))
            || observable.address().is_some_and(|address| self.covers_address(address))
            || observable.network().is_some_and(|network| self.networks.iter().any(|own| own.contains(&network) || network.contains(own)))
    }

    fn covers_host(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.covers_address(address);
        }
        let mut name = host;
        loop {
            if self.domains.contains(name) {
                return true;
            }
            match name.split_once('.') {
                Some((_, above)) => name = above,
                None => return false,
            }
        }
    }

    fn covers_address(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// Digits, colons and dots before a slash, a number after it: meant as a network, right or wrong.
fn looks_like_network(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, prefix)| {
        let address_like = address.contains(['.', ':']) && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b'.' || b == b':');
        address_like && !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(entries: &[&str], kind: Kind, value: &str) -> bool {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        let list = NeverSend::parse(&entries).expect("good entries");
        list.covers(&Observable::parse(kind, value).expect("a good value"))
    }

    #[test]
    fn a_domain_covers_its_subdomains_urls_and_mail() {
        let own = ["Contoso.example"];
        assert!(covers(&own, Kind::Host, "contoso.example"));
        assert!(covers(&own, Kind::Host, "login.contoso.example"));
        assert!(covers(&own, Kind::Url, "https://user@Login.Contoso.example:8443/x"));
        assert!(covers(&own, Kind::EmailAddress, "ceo@mail.contoso.example"));
        assert!(!covers(&own, Kind::Host, "notcontoso.example"));
    }

    #[test]
    fn a_network_covers_addresses_overlapping_ranges_and_urls() {
        let own = ["192.0.2.0/24", "2001:db8::53"];
        assert!(covers(&own, Kind::Address, "192.0.2.77"));
        assert!(covers(&own, Kind::Cidr, "192.0.0.0/16"));
        assert!(covers(&own, Kind::Cidr, "192.0.2.128/25"));
        assert!(covers(&own, Kind::Url, "http://192.0.2.1/a"));
        assert!(covers(&own, Kind::Url, "http://[2001:db8::53]/a"));
        assert!(!covers(&own, Kind::Address, "192.0.3.1"));
    }

    #[test]
    fn other_values_are_compared_in_normal_form() {
        assert!(covers(&["D41D8CD98F00B204E9800998ECF8427E"], Kind::Md5, "d41d8cd98f00b204e9800998ecf8427e"));
        assert!(covers(&["HTTP://Example.org/Path"], Kind::Url, "http://example.org/Path"));
        assert!(covers(&["curl/8.0 (x)"], Kind::UserAgent, "curl/8.0 (x)"));
        assert!(NeverSend::parse(&["10.0.0.0/99".to_owned()]).is_err());
    }
}
