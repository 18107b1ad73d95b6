//! Observables: kind and value in normal form. What is keyed is what is sent (design: normal form).

use std::fmt;
use std::net::IpAddr;

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

    /// Part of keys and of STIX ids: never changes.
    #[must_use]
    pub fn stable_name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Cidr => "cidr",
            Self::EmailAddress => "email-address",
            Self::EmailSubject => "email-subject",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Host => "host",
            Self::Url => "url",
            Self::UserAgent => "user-agent",
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObservableKey(pub [u8; 32]);

impl std::hash::Hash for ObservableKey {
    /// Its first bytes are as good as all: it is a hash already.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        state.write_u64(u64::from_ne_bytes(first));
    }
}

impl Observable {
    /// Brings `text` to the normal form of `kind`: what is keyed is what is sent.
    ///
    /// # Errors
    /// When the text is no value of that kind.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Malformed> {
        let value = match kind {
            Kind::Address => address(text)?,
            Kind::Cidr => network(text)?,
            Kind::Host => host_name(text.trim())?,
            Kind::EmailAddress => email_address(text.trim())?,
            Kind::Md5 => hash(text, 32, "not an MD5 hash (32 hex digits)")?,
            Kind::Sha1 => hash(text, 40, "not a SHA-1 hash (40 hex digits)")?,
            Kind::Sha256 => hash(text, 64, "not a SHA-256 hash (64 hex digits)")?,
            Kind::Url => url(text.trim())?,
            Kind::EmailSubject | Kind::UserAgent if text.trim().is_empty() => return Err(Malformed("empty value")),
            Kind::EmailSubject | Kind::UserAgent => text.to_owned(),
        };
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

    /// `{kind}:{normal form}`, hashed.
    #[must_use]
    pub fn key(&self) -> ObservableKey {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        context.update(self.kind.stable_name().as_bytes());
        context.update(b":");
        context.update(self.value.as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        ObservableKey(key)
    }

    /// The address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        (self.kind == Kind::Address).then(|| self.value.parse().ok()).flatten()
    }

    /// The network, if it is one.
    #[must_use]
    pub fn network(&self) -> Option<IpNet> {
        (self.kind == Kind::Cidr).then(|| self.value.parse().ok()).flatten()
    }

    /// The addresses that an address or a network stands for.
    ///
    /// An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) counts as the IPv4 address that packets go to.
    pub(crate) fn range(&self) -> Option<IpNet> {
        self.address().map(IpNet::from).or_else(|| self.network()).map(plain)
    }

    /// The host that a host name, URL or e-mail address names, without port or brackets.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self.kind {
            Kind::Host => Some(&self.value),
            Kind::EmailAddress => self.value.rsplit_once('@').map(|(_, domain)| domain),
            Kind::Url => url_parts(&self.value).map(|parts| parts.host.trim_start_matches('[').trim_end_matches(']')),
            _ => None,
        }
    }
}

pub(super) fn plain(network: IpNet) -> IpNet {
    let IpNet::V6(wide) = network else { return network };
    let narrow = wide.addr().to_ipv4_mapped().zip(wide.prefix_len().checked_sub(96));
    narrow.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

fn address(text: &str) -> Result<String, Malformed> {
    text.trim().parse::<IpAddr>().map(|ip| ip.to_string()).map_err(|_| Malformed("not an IPv4 or IPv6 address"))
}

fn network(text: &str) -> Result<String, Malformed> {
    let text = text.trim();
    let malformed = Malformed("not a network in CIDR form (address/prefix length)");
    if !text.contains('/') {
        return Err(malformed);
    }
    text.parse::<IpNet>().map(|net| net.trunc().to_string()).map_err(|_| malformed)
}

fn hash(text: &str, digits: usize, reason: &'static str) -> Result<String, Malformed> {
    let text = text.trim();
    let fits = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    if fits { Ok(text.to_ascii_lowercase()) } else { Err(Malformed(reason)) }
}

fn host_name(text: &str) -> Result<String, Malformed> {
    let name = host(text)?;
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Malformed("a host name that ends in a number, as an IP address does"));
    }
    Ok(name)
}

/// Lower-case punycode without the root's dot. Underscores are let through: real names have them.
fn host(text: &str) -> Result<String, Malformed> {
    let ascii = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(text).map_err(|_| Malformed("not a host name: it has no punycode form"))?
    };
    // Unicode has dots of its own that only become one in punycode: the root's goes after the conversion.
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    if name.is_empty() {
        return Err(Malformed("empty host name"));
    }
    if name.contains('*') {
        return Err(Malformed("a host name with a wildcard"));
    }
    let valid = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    if name.len() > 253 {
        return Err(Malformed("a host name of more than 253 characters"));
    }
    for label in name.split('.') {
        match label {
            "" => return Err(Malformed("a host name with an empty label")),
            label if label.len() > 63 => return Err(Malformed("a host name with a label of more than 63 characters")),
            label if !label.bytes().all(valid) => return Err(Malformed("a host name with a character that none may have")),
            _ => {}
        }
    }
    Ok(name.to_owned())
}

fn email_address(text: &str) -> Result<String, Malformed> {
    let malformed = Malformed("not an e-mail address");
    let (local, domain) = text.rsplit_once('@').ok_or(malformed)?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"' | ',' | ';' | '@');
    if local.is_empty() || domain.is_empty() || local.contains(bad) || domain.contains(bad) {
        return Err(malformed);
    }
    let domain = if domain.is_ascii() { domain.to_ascii_lowercase() } else { host(domain).map_err(|_| malformed)? };
    Ok(format!("{}@{domain}", local.to_lowercase()))
}

/// The places of a URL's scheme and host; everything else stays as it came.
struct UrlParts<'a> {
    scheme: &'a str,
    userinfo: &'a str,
    host: &'a str,
    /// With its colon, or with the `@` of a file URL.
    port: &'a str,
    /// Port, path, query and fragment.
    rest: &'a str,
}

fn url_parts(text: &str) -> Option<UrlParts<'_>> {
    let (scheme, after) = text.split_once("://")?;
    let end = after.find(['/', '?', '#', '\\']).unwrap_or(after.len());
    let (authority, rest) = after.split_at(end);
    // A file URL has no user (RFC 8089); Windows writes WebDAV servers as `file://host@SSL/` and `file://host@8080/`.
    let user = authority.rfind('@').filter(|_| !scheme.eq_ignore_ascii_case("file")).map_or(0, |at| at + 1);
    let (userinfo, host_port) = authority.split_at(user);
    let host_end = match host_port.find(']') {
        Some(bracket) if host_port.starts_with('[') => bracket + 1,
        _ => host_port.find([':', '@']).unwrap_or(host_port.len()),
    };
    let (host, port) = host_port.split_at(host_end);
    let rest = &text[text.len() - rest.len() - port.len()..];
    Some(UrlParts { scheme, userinfo, host, port, rest })
}

/// Scheme and host in lower case, the host in punycode, the rest byte for byte.
fn url(text: &str) -> Result<String, Malformed> {
    if text.chars().any(char::is_control) {
        return Err(Malformed("a URL with a control character"));
    }
    let parts = url_parts(text).ok_or(Malformed("a URL without a scheme (such as http://)"))?;
    let scheme_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !parts.scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !parts.scheme.chars().all(scheme_char) {
        return Err(Malformed("a URL without a scheme (such as http://)"));
    }
    let port_is_one = match parts.port.strip_prefix(':') {
        Some(number) => number.bytes().all(|b| b.is_ascii_digit()) && (number.is_empty() || number.parse::<u16>().is_ok()),
        None => parts.port.is_empty() || parts.port.starts_with('@'),
    };
    if !port_is_one {
        return Err(Malformed("a URL with a port that is none"));
    }
    let host = if parts.host.starts_with('[') {
        let inner = parts.host.trim_start_matches('[').trim_end_matches(']');
        inner
            .parse::<std::net::Ipv6Addr>()
            .map(|ip| format!("[{ip}]"))
            .map_err(|_| Malformed("a URL with a host that is none"))?
    } else {
        host(parts.host).map_err(|_| Malformed("a URL with a host that is none"))?
    };
    // A trailing dot of the host is no part of its normal form.
    Ok(format!("{}://{}{host}{}", parts.scheme.to_ascii_lowercase(), parts.userinfo, parts.rest))
}

impl fmt::Debug for ObservableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl ObservableKey {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
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

    fn normal(kind: Kind, text: &str) -> Result<String, &'static str> {
        Observable::parse(kind, text).map(|o| o.value().to_owned()).map_err(|m| m.0)
    }

    #[test]
    fn addresses_have_one_text() {
        assert_eq!(normal(Kind::Address, "2001:0DB8:0:0:0:0:0:25").as_deref(), Ok("2001:db8::25"));
        assert_eq!(normal(Kind::Address, " 203.0.113.10 ").as_deref(), Ok("203.0.113.10"));
        assert_eq!(normal(Kind::Address, "2001:db8:::1"), Err("not an IPv4 or IPv6 address"));
        assert_eq!(normal(Kind::Cidr, "2001:db8:1234:0:0:0:0:5/48").as_deref(), Ok("2001:db8:1234::/48"));
        assert_eq!(normal(Kind::Cidr, "198.51.100.7/24").as_deref(), Ok("198.51.100.0/24"));
        assert!(normal(Kind::Cidr, "198.51.100.7").is_err());
    }

    #[test]
    fn hosts_are_lower_case_punycode_without_the_roots_dot() {
        assert_eq!(normal(Kind::Host, "BÜCHER.example.").as_deref(), Ok("xn--bcher-kva.example"));
        assert_eq!(normal(Kind::Host, "_dmarc.Bad-Login.example").as_deref(), Ok("_dmarc.bad-login.example"));
        assert_eq!(normal(Kind::Host, "bücher。example。").as_deref(), Ok("xn--bcher-kva.example"));
        assert!(normal(Kind::Host, "192.0.2.7").is_err());
        assert!(normal(Kind::Host, "evil.example..").is_err());
        assert!(normal(Kind::Host, ".example").is_err());
        assert!(normal(Kind::Host, "*.example").is_err());
        assert!(normal(Kind::Host, "a b.example").is_err());
    }

    #[test]
    fn urls_keep_every_byte_behind_the_host() {
        let kept = "/a/Invoice.zip?id=7&x=%20#Top";
        assert_eq!(
            normal(Kind::Url, &format!("HTTP://Files.EXAMPLE.net:8080{kept}")),
            Ok(format!("http://files.example.net:8080{kept}"))
        );
        assert_eq!(normal(Kind::Url, "https://User@Bücher.example/Ä").as_deref(), Ok("https://User@xn--bcher-kva.example/Ä"));
        assert_eq!(normal(Kind::Url, "http://[2001:DB8::1]:80/x").as_deref(), Ok("http://[2001:db8::1]:80/x"));
        assert_eq!(normal(Kind::Url, "http://EVIL.example\\Path@Other").as_deref(), Ok("http://evil.example\\Path@Other"));
        assert_eq!(normal(Kind::Url, "file://Evil.Example@SSL/A.lnk").as_deref(), Ok("file://evil.example@SSL/A.lnk"));
        assert_eq!(normal(Kind::Url, "http://192.0.2.7:/x").as_deref(), Ok("http://192.0.2.7:/x"));
        for bad in ["http://evil.example:http/", "http://evil.example:70000/", "http://[::1]evil.example/", "http://[::1/"] {
            assert!(normal(Kind::Url, bad).is_err(), "{bad}");
        }
        assert!(normal(Kind::Url, "evil.example/a").is_err());
        assert!(normal(Kind::Url, "http:///a").is_err());
    }

    #[test]
    fn e_mail_addresses_and_hashes_are_lower_case() {
        assert_eq!(normal(Kind::EmailAddress, "O'Neil@Bad.Example").as_deref(), Ok("o'neil@bad.example"));
        assert!(normal(Kind::EmailAddress, "bad.example").is_err());
        assert!(normal(Kind::EmailAddress, "a\"b@bad.example").is_err());
        assert_eq!(normal(Kind::Md5, "A8E936F771D9F26BB3410172817C6D3C").as_deref(), Ok("a8e936f771d9f26bb3410172817c6d3c"));
        assert!(normal(Kind::Sha256, "a8e936f771d9f26bb3410172817c6d3c").is_err());
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        prop::sample::select(Kind::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn the_normal_form_of_a_normal_form_is_itself(kind in any_kind(), text in ".{0,60}|[a-zA-Z0-9:/.@_-]{1,40}|https?://[a-zA-ZäÄ.]{1,20}(:[0-9]{1,4})?(/.{0,20})?") {
            if let Ok(once) = Observable::parse(kind, &text) {
                let again = Observable::parse(kind, once.value());
                prop_assert_eq!(Ok(&once), again.as_ref());
                prop_assert_eq!(once.key(), again.expect("parsed above").key());
            }
        }

        #[test]
        fn different_observables_have_different_keys(a in any_kind(), b in any_kind(), x in "[a-f0-9]{32}", y in "[a-f0-9]{32}") {
            if let (Ok(one), Ok(two)) = (Observable::parse(a, &x), Observable::parse(b, &y)) {
                prop_assert_eq!(one == two, one.key() == two.key());
            }
        }
    }
}
