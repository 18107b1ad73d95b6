//! Where a webhook may go: https to a public host, unless the document allows more.
//!
//! Judges what is written. Whether a name leads to a private address is known only when it is resolved.

use std::net::IpAddr;

use url::{Host, Url};

/// Names that never leave a private network.
const PRIVATE_SUFFIXES: [&str; 6] = ["localhost", "local", "internal", "lan", "home.arpa", "intranet"];

/// # Errors
/// One line that says what to do and does not repeat the address, which may hold a secret.
pub fn judge(text: &str, allow_plain_http: bool, allow_private_address: bool) -> Result<Url, String> {
    let url = Url::parse(text.trim()).map_err(|error| format!("it is no address ({error}); write it as https://host/path"))?;
    match url.scheme() {
        "https" => {}
        "http" if allow_plain_http => {}
        "http" => {
            return Err("it is plain http, which anyone on the way can read; use https, or set `allow_plain_http`".to_owned());
        }
        other => return Err(format!("its scheme is `{other}`; use https")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a user name or password; use `auth = \"basic\"` with names of secrets".to_owned());
    }
    let private = match url.host() {
        Some(Host::Domain(name)) => is_private_name(name),
        Some(Host::Ipv4(address)) => is_private(address.into()),
        Some(Host::Ipv6(address)) => is_private(address.into()),
        None => return Err("it names no host".to_owned()),
    };
    if private && !allow_private_address {
        return Err("its host is within a private network; use a public one, or set `allow_private_address`".to_owned());
    }
    Ok(url)
}

fn is_private_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let of = |suffix: &str| name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !name.contains('.') || PRIVATE_SUFFIXES.into_iter().any(of)
}

/// Whether an address is not one of the public internet; also for what a name was resolved to.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            v6.to_ipv4_mapped().is_some_and(|v4| is_private(v4.into()))
                || v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_to_public_hosts_unless_more_is_allowed() {
        for good in ["https://tc.example.com/api/playbook/1", "https://192.0.2.7:8443/x?y", "https://[2001:db8::1]/"] {
            assert!(judge(good, false, false).is_ok(), "{good}");
        }
        for private in [
            "https://localhost/x",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://10.1.2.3/",
            "https://169.254.169.254/metadata",
            "https://100.64.0.1/",
            "https://[::1]/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://tc.internal/",
            "https://tc/",
        ] {
            let error = judge(private, false, false).expect_err(private);
            assert!(error.contains("allow_private_address"), "{private}: {error}");
            assert!(judge(private, false, true).is_ok(), "{private}");
        }
        assert!(judge("http://tc.example.com/", false, false).expect_err("plain").contains("allow_plain_http"));
        assert!(judge("http://tc.example.com/", true, false).is_ok());
        assert!(judge("ftp://tc.example.com/", true, true).is_err());
        assert!(judge("tc.example.com/x", false, false).is_err());
        let error = judge("https://user:hunter2@tc.example.com/", false, false).expect_err("credentials");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
