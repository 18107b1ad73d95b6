//! What must never go out, whatever the source says: own domains, own networks, public resolvers.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::observable::plain;
use super::{Kind, Observable};

/// The user's list, parsed: values, domains (with their subdomains), networks.
#[derive(Debug, Clone, Default)]
pub struct NeverSend {
    /// Each entry in the normal form of every kind that it can be.
    values: HashSet<Observable>,
    /// Lower-case punycode.
    domains: HashSet<String>,
    networks: Vec<IpNet>,
}

const ACCEPTED: &str = "accepted are addresses, networks (192.0.2.0/24), domains (example.com, which covers its subdomains), URLs, e-mail addresses, \
     hashes, e-mail subjects and user agents";

impl NeverSend {
    /// Reads the entries of the user's list.
    ///
    /// # Errors
    /// One line for each bad entry: the entry, what is wrong with it, what is accepted.
    pub fn parse(entries: &[String]) -> Result<Self, Vec<String>> {
        let mut list = Self::default();
        let problems: Vec<String> = entries
            .iter()
            .filter_map(|entry| list.add(entry.trim()).err().map(|problem| format!("`{entry}` {problem}; {ACCEPTED}")))
            .collect();
        if problems.is_empty() { Ok(list) } else { Err(problems) }
    }

    /// True if the observable must not go out.
    #[must_use]
    pub fn covers(&self, observable: &Observable) -> bool {
        if self.values.is_empty() {
            return false;
        }
        self.values.contains(observable)
            || match observable.kind() {
                Kind::Address | Kind::Cidr => observable.range().is_some_and(|range| self.overlaps(range)),
                Kind::Host => self.has_domain(observable.value()),
                Kind::EmailAddress | Kind::Url => observable.host().is_some_and(|host| self.has_server(host)),
                Kind::EmailSubject | Kind::Md5 | Kind::Sha1 | Kind::Sha256 | Kind::UserAgent => false,
            }
    }

    fn add(&mut self, entry: &str) -> Result<(), &'static str> {
        let domain = entry.strip_prefix("*.").or(entry.strip_prefix('.')).unwrap_or(entry);
        let text = |kind| if kind == Kind::Host { domain } else { entry };
        let known: Vec<Observable> = Kind::ALL.into_iter().filter_map(|kind| Observable::parse(kind, text(kind)).ok()).collect();
        let is_free_text = |kind| matches!(kind, Kind::EmailSubject | Kind::UserAgent);
        if known.iter().all(|observable| is_free_text(observable.kind())) {
            // A mistyped domain or network would otherwise pass as a subject that nobody sends, and protect nothing.
            mistyped(entry)?;
        }
        for observable in &known {
            self.networks.extend(observable.range());
            if observable.kind() == Kind::Host {
                self.domains.insert(observable.value().to_owned());
            }
        }
        self.values.extend(known);
        Ok(())
    }

    fn overlaps(&self, network: IpNet) -> bool {
        self.networks.iter().any(|own| own.contains(&network) || network.contains(own))
    }

    fn has_domain(&self, host: &str) -> bool {
        let mut rest = host;
        loop {
            if self.domains.contains(rest) {
                return true;
            }
            match rest.split_once('.') {
                Some((_, parent)) => rest = parent,
                None => return false,
            }
        }
    }

    /// For the host of a URL and the domain of an e-mail address, which may be IP addresses.
    fn has_server(&self, text: &str) -> bool {
        let text = text.trim_matches(['[', ']']).trim_start_matches("ipv6:");
        if let Ok(address) = text.parse::<IpAddr>() {
            return self.overlaps(plain(address.into()));
        }
        let host = text.strip_suffix('.').unwrap_or(text);
        // Browsers also reach an address by its other spellings: `0x7f.1`, `2130706433`.
        if let Ok(url::Host::Ipv4(address)) = url::Host::parse(host) {
            return self.overlaps(IpAddr::V4(address).into());
        }
        self.has_domain(host)
    }
}

/// Refuses text that was meant as something else than a subject or a user agent.
fn mistyped(entry: &str) -> Result<(), &'static str> {
    if entry.is_empty() {
        return Err("is empty");
    }
    let parts: Vec<&str> = entry.split([',', ';', ' ']).filter(|part| !part.is_empty()).collect();
    if parts.len() > 1 && parts.iter().all(|part| names_a_server(part)) {
        return Err("holds several values: separate them with | or write a JSON array");
    }
    if parts.len() > 1 {
        return Ok(());
    }
    if entry.contains("://") && entry.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err("is no valid URL");
    }
    if entry.contains('@') {
        return Err("is no valid e-mail address");
    }
    let numeric = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'/' | b'-' | b'*'));
    if numeric(entry)
        && (entry.matches(':').count() > 1 || entry.starts_with(|c: char| c.is_ascii_digit()))
        && entry.contains(['.', ':'])
    {
        return Err("is no valid address or network");
    }
    match entry.split_once('/') {
        Some((host, _)) if names_a_server(host) => Err("is no valid URL: it has no scheme"),
        None if entry.contains('.') => Err("is no valid domain"),
        _ => Ok(()),
    }
}

/// True for what is an address, a network, an e-mail address, a URL, or a host with a dot.
fn names_a_server(text: &str) -> bool {
    let is = |kind| Observable::parse(kind, text).is_ok();
    is(Kind::Address) || is(Kind::Cidr) || is(Kind::EmailAddress) || is(Kind::Url) || (text.contains('.') && is(Kind::Host))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[&str]) -> NeverSend {
        NeverSend::parse(&entries.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[track_caller]
    fn assert_covers(entry: &str, kind: Kind, values: &[&str]) {
        for value in values {
            assert!(list(&[entry]).covers(&Observable::parse(kind, value).unwrap()), "{entry} does not cover {value}");
        }
    }

    #[track_caller]
    fn assert_spares(entry: &str, kind: Kind, values: &[&str]) {
        for value in values {
            assert!(!list(&[entry]).covers(&Observable::parse(kind, value).unwrap()), "{entry} covers {value}");
        }
    }

    #[test]
    fn a_domain_covers_what_is_below_it() {
        assert_covers("Own.Example.", Kind::Host, &["own.example", "www.own.example", "a.b.OWN.example."]);
        assert_covers("own.example", Kind::Url, &["https://own.example/", "http://user@login.own.example.:8443/x"]);
        assert_covers("own.example", Kind::EmailAddress, &["ceo@own.example", "ceo@mail.own.example", "ceo@own.example."]);
        assert_covers("bücher.example", Kind::EmailAddress, &["a@Bücher.example", "a@xn--bcher-kva.example"]);
        assert_covers("own.example", Kind::Url, &["file://own.example@SSL/share"]);
        assert_covers("*.own.example", Kind::Host, &["own.example", "www.own.example"]);
        assert_covers(".own.example", Kind::Host, &["www.own.example"]);
    }

    #[test]
    fn a_domain_spares_what_only_looks_like_it() {
        assert_spares("own.example", Kind::Host, &["notown.example", "own.example.evil.test", "example"]);
        assert_spares("own.example", Kind::Url, &["http://own.example@evil.test/", "http://evil.test/own.example"]);
        assert_spares("own.example", Kind::EmailAddress, &["own.example@evil.test"]);
    }

    #[test]
    fn a_network_covers_every_overlap() {
        assert_covers("198.51.100.0/24", Kind::Address, &["198.51.100.7", "::ffff:198.51.100.7"]);
        assert_covers("198.51.100.0/24", Kind::Cidr, &["198.51.0.0/16", "198.51.100.128/25", "::ffff:198.51.100.0/120"]);
        assert_covers("198.51.100.0/24", Kind::Url, &["http://198.51.100.7:80/", "http://0xC6336407/", "http://3325256711/"]);
        assert_covers("198.51.100.7", Kind::Cidr, &["198.51.100.0/24"]);
        assert_covers("198.51.100.7", Kind::EmailAddress, &["a@[198.51.100.7]", "a@198.51.100.7"]);
        assert_covers("2001:db8::/32", Kind::Url, &["http://[2001:DB8::1]/"]);
        assert_spares("198.51.100.0/24", Kind::Address, &["198.51.101.7", "2001:db8::1"]);
    }

    #[test]
    fn a_value_covers_itself_in_every_spelling() {
        assert_covers("HTTPS://Own.Example/Path", Kind::Url, &["https://own.example/Path"]);
        assert_spares("https://own.example/Path", Kind::Url, &["https://own.example/path"]);
        assert_spares("https://own.example/Path", Kind::Host, &["own.example"]);
        assert_covers("D41D8CD98F00B204E9800998ECF8427E", Kind::Md5, &["d41d8cd98f00b204e9800998ecf8427e"]);
        assert_covers("Mozilla/5.0", Kind::UserAgent, &["Mozilla/5.0"]);
        assert_covers("Your invoice, as agreed", Kind::EmailSubject, &["Your invoice, as agreed"]);
        assert_covers("Ceo@Own.Example", Kind::EmailAddress, &["ceo@own.example"]);
    }

    #[test]
    fn mistyped_entries_are_errors() {
        for entry in [
            "",
            " ",
            "198.51.100.0/33",
            "198.51.100/24",
            "198.51.100.1-198.51.100.9",
            "198.51.100.*",
            "2001:db8:::/32",
            "@own.example",
            "own.example,other.example",
            "own.example, 198.51.100.0/24",
            "own.example/path",
            "own$.example",
            "http:///path",
            "a@b@own.example",
        ] {
            assert!(NeverSend::parse(&[entry.to_owned()]).is_err(), "{entry:?} was taken");
        }
    }

    #[test]
    fn every_bad_entry_is_named() {
        let entries = ["own.example", "own.example,other.example", "198.51.100.0/33"].map(str::to_owned);
        insta::assert_snapshot!(NeverSend::parse(&entries).unwrap_err().join("\n"), @r"
        `own.example,other.example` holds several values: separate them with | or write a JSON array; accepted are addresses, networks (192.0.2.0/24), domains (example.com, which covers its subdomains), URLs, e-mail addresses, hashes, e-mail subjects and user agents
        `198.51.100.0/33` is no valid address or network; accepted are addresses, networks (192.0.2.0/24), domains (example.com, which covers its subdomains), URLs, e-mail addresses, hashes, e-mail subjects and user agents
        ");
    }

    #[test]
    fn nothing_listed_covers_nothing() {
        assert!(!NeverSend::default().covers(&Observable::parse(Kind::Host, "own.example").unwrap()));
    }

    proptest! {
        #[test]
        fn an_entry_that_is_taken_covers_its_own_value(entry in ".{0,30}|[a-z0-9.:/@ -]{1,30}") {
            if let Ok(list) = NeverSend::parse(std::slice::from_ref(&entry)) {
                for kind in Kind::ALL {
                    if let Ok(observable) = Observable::parse(kind, entry.trim()) {
                        prop_assert!(list.covers(&observable));
                    }
                }
            }
        }
    }
}
