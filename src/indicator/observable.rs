//! Observables: kind and value in normal form. What is keyed is what is sent.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use aws_lc_rs::digest;
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use ipnet::{IpNet, Ipv4Net};

/// The guide's ten kinds, in the order of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    Address,
    Cidr,
    EmailAddress,
    EmailSubject,
    Md5,
    Sha1,
    Sha256,
    Host,
    Url,
    UserAgent,
}

/// Which of the guide's three expiration settings applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    Email,
    File,
    Network,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Address,
        Self::Cidr,
        Self::EmailAddress,
        Self::EmailSubject,
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Host,
        Self::Url,
        Self::UserAgent,
    ];

    /// The guide's name (`Email Address`, `MD5`).
    #[must_use]
    pub fn guide_name(self) -> &'static str {
        match self {
            Self::Address => "Address",
            Self::Cidr => "CIDR",
            Self::EmailAddress => "Email Address",
            Self::EmailSubject => "Email Subject",
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Host => "Host",
            Self::Url => "URL",
            Self::UserAgent => "User Agent",
        }
    }

    /// The name in reports: the guide's, with ThreatConnect's spelling of `EmailAddress`.
    #[must_use]
    pub fn report_name(self) -> &'static str {
        match self {
            Self::EmailAddress => "EmailAddress",
            other => other.guide_name(),
        }
    }

    /// ThreatConnect's `typeName`; the three hashes are all `File`.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::EmailAddress => "EmailAddress",
            Self::Md5 | Self::Sha1 | Self::Sha256 => "File",
            other => other.guide_name(),
        }
    }

    #[must_use]
    pub fn group(self) -> Group {
        match self {
            Self::EmailAddress | Self::EmailSubject => Group::Email,
            Self::Md5 | Self::Sha1 | Self::Sha256 => Group::File,
            Self::Address | Self::Cidr | Self::Host | Self::Url | Self::UserAgent => Group::Network,
        }
    }
}

/// A kind and a value in normal form. Cannot be invalid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observable {
    kind: Kind,
    value: String,
}

/// Why a value is not one of its kind: completes "skipped: …", names no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Malformed(pub &'static str);

/// SHA-256 over kind and normal form: names an observable in stored rows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObservableKey(pub [u8; 32]);

impl Observable {
    /// Brings `text` to the normal form of `kind`; a value in normal form stays as it is.
    ///
    /// Address: canonical text. CIDR: masked. Host: punycode in lower case without the dot of the root. E-mail address: lower
    /// case. Hash: lower case. URL: scheme and host in lower case, the rest byte for byte. All else as it came.
    ///
    /// # Errors
    /// When the text is no value of that kind.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Malformed> {
        let value = match kind {
            Kind::Address => address(text.trim()),
            Kind::Cidr => network(text.trim()),
            Kind::EmailAddress => email_address(text.trim()),
            Kind::EmailSubject | Kind::UserAgent => free_text(text),
            Kind::Md5 => hash(text.trim(), 32, "no MD5 hash (32 hexadecimal digits)"),
            Kind::Sha1 => hash(text.trim(), 40, "no SHA1 hash (40 hexadecimal digits)"),
            Kind::Sha256 => hash(text.trim(), 64, "no SHA256 hash (64 hexadecimal digits)"),
            Kind::Host => host(text.trim()),
            Kind::Url => url(text.trim()),
        }?;
        Ok(Self { kind, value })
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The value in normal form: what is sent.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The addresses that an Address or a CIDR stands for; none for the other kinds.
    ///
    /// An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) counts as the IPv4 address that packets go to.
    pub(crate) fn network(&self) -> Option<IpNet> {
        match self.kind {
            Kind::Address => self.value.parse::<IpAddr>().ok().map(|address| plain(address.into())),
            Kind::Cidr => self.value.parse().ok().map(plain),
            _ => None,
        }
    }

    /// The host of a URL, without the brackets of an IPv6 address; none for the other kinds.
    pub(super) fn url_host(&self) -> Option<&str> {
        let host = host_of_url(&self.value).ok().filter(|_| self.kind == Kind::Url)?;
        Some(self.value[host].trim_matches(['[', ']']))
    }

    /// `{kind}:{normal form}`, hashed. Stored rows hang on it: the kind's name is the guide's and never changes.
    #[must_use]
    pub fn key(&self) -> ObservableKey {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.kind.guide_name().as_bytes());
        context.update(b":");
        context.update(self.value.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        ObservableKey(key)
    }
}

fn address(text: &str) -> Result<String, Malformed> {
    text.parse::<IpAddr>().map(|address| address.to_string()).map_err(|_| Malformed("no IP address"))
}

fn network(text: &str) -> Result<String, Malformed> {
    text.parse::<IpNet>().map(|network| network.trunc().to_string()).map_err(|_| Malformed("no network in CIDR notation"))
}

pub(super) fn plain(network: IpNet) -> IpNet {
    let IpNet::V6(wide) = network else { return network };
    let narrow = wide.addr().to_ipv4_mapped().zip(wide.prefix_len().checked_sub(96));
    narrow.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

fn free_text(text: &str) -> Result<String, Malformed> {
    if text.trim().is_empty() {
        return Err(Malformed("the text is empty"));
    }
    Ok(text.to_owned())
}

fn hash(text: &str, length: usize, reason: &'static str) -> Result<String, Malformed> {
    if text.len() != length || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Malformed(reason));
    }
    Ok(text.to_ascii_lowercase())
}

fn email_address(text: &str) -> Result<String, Malformed> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Malformed("the e-mail address has a blank or a control character"));
    }
    match text.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !domain.contains('@') => Ok(text.to_lowercase()),
        _ => Err(Malformed("no e-mail address (one @ with a name before it and a domain after it)")),
    }
}

fn host(text: &str) -> Result<String, Malformed> {
    // Unicode has dots of its own that only become one in ASCII: the root's dot goes after the conversion.
    let ascii = ascii_host(text)?;
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    check_host(name)?;
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Malformed("the host name ends in a number, as an IP address does"));
    }
    Ok(name.to_owned())
}

/// Lower-case punycode. Names in ASCII skip IDNA: it refuses names that exist, such as those with odd punycode.
pub(super) fn ascii_host(text: &str) -> Result<Cow<'_, str>, Malformed> {
    if !text.is_ascii() {
        return Uts46::new()
            .to_ascii(text.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| Malformed("the host name is no valid internationalised name"));
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(Cow::Owned(text.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(text))
}

/// What names in the wild obey: the limits of the DNS, and its characters with the underscore.
fn check_host(name: &str) -> Result<(), Malformed> {
    if name.is_empty() {
        return Err(Malformed("the host name is empty"));
    }
    if name.contains('*') {
        return Err(Malformed("the host name has a wildcard"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(Malformed("the host name has a character that no host name has"));
    }
    if name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
        return Err(Malformed("the host name is too long (63 characters a label, 253 in all)"));
    }
    if name.starts_with('.') {
        return Err(Malformed("the host name begins with a dot"));
    }
    if name.contains("..") {
        return Err(Malformed("the host name has two dots in a row"));
    }
    Ok(())
}

/// Not through the `url` crate, whose serialisation changes paths and queries; what is matched in logs is what was seen.
fn url(text: &str) -> Result<String, Malformed> {
    if text.contains(|c: char| c.is_control()) {
        return Err(Malformed("the URL has a control character"));
    }
    let host = host_of_url(text)?;
    let name = ascii_host(&text[host.clone()])?;
    if !name.starts_with('[') {
        check_host(name.strip_suffix('.').unwrap_or(&name))?;
    }
    let scheme = text.find(':').unwrap_or_default();
    let mut value = String::with_capacity(text.len() + name.len());
    value.push_str(&text[..scheme]);
    value.make_ascii_lowercase();
    value.push_str(&text[scheme..host.start]);
    value.push_str(&name);
    value.push_str(&text[host.end..]);
    Ok(value)
}

/// Where the host is, its brackets included; checks scheme and port on the way.
fn host_of_url(text: &str) -> Result<Range<usize>, Malformed> {
    let (scheme, rest) = text.split_once("://").ok_or(Malformed("the URL has no scheme"))?;
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    {
        return Err(Malformed("the URL has no scheme"));
    }
    // Browsers read a backslash as a slash, so the host ends there too.
    let authority = &rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())];
    // A file URL has no user (RFC 8089); Windows writes WebDAV servers as `file://host@SSL/` and `file://host@8080/`.
    let webdav = scheme.eq_ignore_ascii_case("file");
    let user = authority.rfind('@').filter(|_| !webdav).map_or(0, |at| at + 1);
    let server = &authority[user..];
    let length = if server.starts_with('[') {
        let close = server.find(']').ok_or(Malformed("the URL's host is no IP address"))?;
        server[1..close].parse::<Ipv6Addr>().map_err(|_| Malformed("the URL's host is no IP address"))?;
        close + 1
    } else {
        server.find([':', '@']).unwrap_or(server.len())
    };
    let port = &server[length..];
    let number = port.strip_prefix(':').unwrap_or(port);
    let is_port = number.bytes().all(|b| b.is_ascii_digit()) && (number.is_empty() || number.parse::<u16>().is_ok());
    if !is_port && !(webdav && port.starts_with('@')) {
        return Err(Malformed("the URL's port is no port number"));
    }
    if length == 0 {
        return Err(Malformed("the URL has no host"));
    }
    let start = scheme.len() + "://".len() + user;
    Ok(start..start + length)
}

impl fmt::Debug for ObservableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ObservableKey {
    /// Base64url without padding, 43 characters: safe in row keys of every store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        f.write_str(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(kind: Kind, text: &str) -> String {
        match Observable::parse(kind, text) {
            Ok(observable) => observable.value,
            Err(Malformed(reason)) => format!("malformed: {reason}"),
        }
    }

    #[track_caller]
    fn assert_malformed(kind: Kind, texts: &[&str]) {
        for text in texts {
            assert!(Observable::parse(kind, text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn addresses_have_one_text() {
        assert_eq!(normal(Kind::Address, "192.0.2.7"), "192.0.2.7");
        assert_eq!(normal(Kind::Address, "2001:0DB8:0000:0000:0000:0000:0000:0001"), "2001:db8::1");
        assert_eq!(normal(Kind::Address, "::FFFF:192.0.2.7"), "::ffff:192.0.2.7");
        assert_malformed(
            Kind::Address,
            &["", "192.0.2", "192.0.2.256", "192.0.2.07", "fe80::1%eth0", "[2001:db8::1]", "192.0.2.7:80", "192.0.2.0/24"],
        );
    }

    #[test]
    fn networks_are_masked() {
        assert_eq!(normal(Kind::Cidr, "192.0.2.77/24"), "192.0.2.0/24");
        assert_eq!(normal(Kind::Cidr, "192.0.2.77/32"), "192.0.2.77/32");
        assert_eq!(normal(Kind::Cidr, "2001:db8:1234:0:0:0:0:0/48"), "2001:db8:1234::/48");
        assert_malformed(
            Kind::Cidr,
            &["", "192.0.2.77", "192.0.2.0/33", "192.0.2.0/255.255.255.0", "192.0.2/24", "2001:db8::/129"],
        );
    }

    #[test]
    fn hosts_are_punycode_in_lower_case_without_the_root() {
        assert_eq!(normal(Kind::Host, "WWW.Evil.Example."), "www.evil.example");
        assert_eq!(normal(Kind::Host, "Bücher.example"), "xn--bcher-kva.example");
        assert_eq!(normal(Kind::Host, "bücher。example。"), "xn--bcher-kva.example");
        assert_eq!(normal(Kind::Host, "_dmarc.evil.example"), "_dmarc.evil.example");
        assert_eq!(normal(Kind::Host, "a--b.xn--zz--.example"), "a--b.xn--zz--.example");
    }

    #[test]
    fn what_no_resolver_takes_is_no_host() {
        let label = "a".repeat(64);
        let long = "a.".repeat(127) + "example";
        assert_malformed(
            Kind::Host,
            &[
                "",
                ".",
                "..",
                ".evil.example",
                "*.evil.example",
                "evil example",
                "evil..example",
                "evil.example..",
                "evil.example/x",
            ],
        );
        assert_malformed(Kind::Host, &["evil.example:80", "192.0.2.7", "2001:db8::1", "a@evil.example", "evil\u{fffd}.example"]);
        assert_malformed(Kind::Host, &[&label, &long]);
    }

    #[test]
    fn email_addresses_are_lower_case() {
        assert_eq!(normal(Kind::EmailAddress, " Bad.Guy@Evil.Example"), "bad.guy@evil.example");
        assert_malformed(Kind::EmailAddress, &["", "@", "a@", "@evil.example", "a@b@c", "bad guy@evil.example", "bad.guy"]);
    }

    #[test]
    fn free_text_stays_as_it_came() {
        assert_eq!(normal(Kind::EmailSubject, " RE: Your Invoice "), " RE: Your Invoice ");
        assert_eq!(normal(Kind::UserAgent, "Mozilla/5.0 (X11)"), "Mozilla/5.0 (X11)");
        assert_malformed(Kind::EmailSubject, &["", " \t"]);
    }

    #[test]
    fn hashes_are_lower_case_and_of_the_right_length() {
        assert_eq!(normal(Kind::Md5, "D41D8CD98F00B204E9800998ECF8427E"), "d41d8cd98f00b204e9800998ecf8427e");
        assert_malformed(Kind::Md5, &["", "d41d8cd98f00b204e9800998ecf8427", "g41d8cd98f00b204e9800998ecf8427e"]);
        assert_malformed(Kind::Sha1, &["d41d8cd98f00b204e9800998ecf8427e"]);
    }

    #[test]
    fn urls_keep_all_but_the_case_of_scheme_and_host() {
        for (text, expected) in [
            ("HTTP://Evil.Example", "http://evil.example"),
            ("https://User:Pass@Evil.Example:8443/A%2f/../B?Q=1#F", "https://User:Pass@evil.example:8443/A%2f/../B?Q=1#F"),
            ("http://evil.example?x=http://B.Example/", "http://evil.example?x=http://B.Example/"),
            ("http://Bücher.Example/Ü", "http://xn--bcher-kva.example/Ü"),
            ("http://EVIL.example\\Path@Other", "http://evil.example\\Path@Other"),
            ("ftp://[2001:DB8::1]:21/X", "ftp://[2001:db8::1]:21/X"),
            ("file://Evil.Example@SSL/DavWWWRoot/A.lnk", "file://evil.example@SSL/DavWWWRoot/A.lnk"),
            ("http://a_b.example./ x", "http://a_b.example./ x"),
            ("http://192.0.2.7:80/", "http://192.0.2.7:80/"),
        ] {
            assert_eq!(normal(Kind::Url, text), expected);
        }
    }

    #[test]
    fn what_names_no_server_is_no_url() {
        assert_malformed(
            Kind::Url,
            &["", "evil.example/x", "://evil.example", "http:///x", "http://", "http://user@/x", "mailto:a@b"],
        );
        assert_malformed(
            Kind::Url,
            &["http://evil.example:http/", "http://evil.example:70000/", "http://[::1/", "http://[evil]/"],
        );
        assert_malformed(
            Kind::Url,
            &["http://evil example/", "http://*.evil.example/", "http://evil.example/a\nb", "1http://a.example"],
        );
    }

    #[test]
    fn the_key_never_changes() {
        let observable = Observable::parse(Kind::Host, "evil.example").unwrap();
        insta::assert_snapshot!(observable.key(), @"po9nTtxjeHf_cWTGxV_G2uh-_UxB8_s7Uye30JihEdc");
    }

    /// Texts near enough to values of every kind that some are.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            ".{0,40}",
            "[hH]ttps?://([a-zA-Z]{1,3}@)?[a-zA-ZüßΣİ。._-]{0,20}(:[0-9]{0,6})?[/?#\\\\]?.{0,10}",
            "[A-Za-zÄΣİ0-9._-]{1,20}@[A-Za-zÄΣ.-]{1,20}",
            "[a-zA-Zäöüßς。．0-9._-]{1,70}",
            "[0-9a-fA-F:.]{2,30}(/[0-9]{1,3})?",
            "[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64}",
        ]
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own(text in texts()) {
            for kind in Kind::ALL {
                if let Ok(once) = Observable::parse(kind, &text) {
                    prop_assert_eq!(Observable::parse(kind, once.value()), Ok(once));
                }
            }
        }

        #[test]
        fn keys_are_equal_when_kind_and_value_are(left in texts(), right in texts()) {
            let parse = |text: &str| Kind::ALL.map(|kind| Observable::parse(kind, text).ok());
            for a in parse(&left).iter().flatten() {
                for b in parse(&right).iter().chain(&parse(&left)).flatten() {
                    prop_assert_eq!(a == b, a.key() == b.key());
                }
            }
        }
    }
}
