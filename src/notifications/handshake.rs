//! The question whether we want notifications at all: a token in the query, which is sent back as it is.
//!
//! Apart because it must work while everything else is down: a pure function of the query. It proves nothing of who asks, so
//! nothing is kept of it. Source: "Receive change notifications through webhooks"; anybody may ask, so what could become a
//! page of our own in a browser is refused.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameter; SharePoint writes it in lower case.
const NAME: &[u8] = b"validationToken";
/// A token is longer than any that was seen, and of no use to who wants to store things with us.
const LONGEST: usize = 4 << 10;

/// A request with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handshake {
    /// Send this back as plain text, and nothing else.
    Echo(String),
    /// A token that Microsoft Graph never sends: why, for the one who sent it.
    Refused(&'static str),
}

/// None: the query holds no token, so the request is a delivery.
///
/// `raw_query` is what stands after the `?`, still encoded: it is decoded here once, as a form is (`+` is a blank).
#[must_use]
pub fn answer(raw_query: Option<&str>) -> Option<Handshake> {
    let token = raw_query?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(name).eq_ignore_ascii_case(NAME).then(|| decoded(value))
    })?;
    Some(judge(&token))
}

fn judge(token: &[u8]) -> Handshake {
    if token.is_empty() {
        return Handshake::Refused("the token is empty");
    }
    if token.len() > LONGEST {
        return Handshake::Refused("the token is longer than 4 KiB");
    }
    let Ok(text) = std::str::from_utf8(token) else { return Handshake::Refused("the token is no UTF-8") };
    if text.chars().any(|letter| matches!(letter, '<' | '>') || letter.is_control()) {
        return Handshake::Refused("the token holds markup or control characters");
    }
    Handshake::Echo(text.to_owned())
}

fn decoded(text: &str) -> Vec<u8> {
    let blanks: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_decode_str(&blanks).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn echoed(query: &str) -> String {
        match answer(Some(query)) {
            Some(Handshake::Echo(token)) => token,
            other => panic!("{query}: {other:?}"),
        }
    }

    #[test]
    fn the_token_is_decoded_once_as_a_form() {
        for (query, token) in [
            ("validationToken=abc", "abc"),
            ("validationtoken=abc", "abc"),
            ("VALIDATIONTOKEN=abc", "abc"),
            ("code=k%26y&validationToken=a&x=1", "a"),
            ("%76alidationToken=abc", "abc"),
            ("validationToken=a+b", "a b"),
            ("validationToken=a%2Bb", "a+b"),
            ("validationToken=a%2bb%3a", "a+b:"),
            ("validationToken=a%252Bb", "a%2Bb"),
            ("validationToken=100%", "100%"),
            ("validationToken=%zz%4", "%zz%4"),
            ("validationToken=a=b==", "a=b=="),
            ("validationToken=one&validationToken=two", "one"),
            ("validationToken=%22quoted%22+%26+%27", "\"quoted\" & '"),
            ("validationToken=gr%C3%BC%C3%9Fe", "grüße"),
            (
                "validationToken=Validation%3a+Testing+client+application+reachability+for+subscription+Request-Id%3a+7d0c",
                "Validation: Testing client application reachability for subscription Request-Id: 7d0c",
            ),
        ] {
            assert_eq!(echoed(query), token, "{query}");
        }
        let longest = "x".repeat(LONGEST);
        assert_eq!(echoed(&format!("validationToken={longest}")), longest);
    }

    #[test]
    fn what_could_do_harm_is_refused() {
        let long = format!("validationToken={}", "x".repeat(LONGEST + 1));
        for query in [
            "validationToken=%3Cscript%3Ealert(1)%3C/script%3E",
            "validationToken=a<b",
            "validationToken=a>b",
            "validationToken=a%0d%0aSet-Cookie:x",
            "validationToken=a%00",
            "validationToken=a%7f",
            "validationToken=%C2%85",
            "validationToken=%ff%fe",
            "validationToken=%C3",
            "validationToken=",
            "validationToken",
            "validationToken=<&validationToken=good",
            long.as_str(),
        ] {
            assert!(matches!(answer(Some(query)), Some(Handshake::Refused(_))), "{query}: {:?}", answer(Some(query)));
        }
    }

    #[test]
    fn any_other_query_is_a_delivery() {
        for query in
            [None, Some(""), Some("code=x"), Some("token=x"), Some("xvalidationToken=a"), Some("x=validationToken"), Some("&&=")]
        {
            assert_eq!(answer(query), None, "{query:?}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_answered(query in ".*") {
            prop_assert_eq!(answer(Some(&query)), answer(Some(&query)));
        }

        #[test]
        fn an_encoded_token_comes_back(token in "[ -;=?-~\u{a0}-\u{2ff}]{1,200}", lower in any::<bool>()) {
            let encoded: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
            let encoded = if lower { escapes_in_lower_case(&encoded) } else { encoded };
            let query = format!("a=b&validationToken={encoded}");
            prop_assert_eq!(answer(Some(&query)), Some(Handshake::Echo(token)));
        }
    }

    fn escapes_in_lower_case(text: &str) -> String {
        let mut parts = text.split('%');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |done, part| {
            let (escape, rest) = part.split_at(2);
            format!("{done}%{}{rest}", escape.to_ascii_lowercase())
        })
    }
}
