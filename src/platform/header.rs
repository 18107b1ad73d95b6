//! What may be given as a header of a request or an answer. In one place for all headers that people write.

/// Headers that belong to the connection or follow from the message.
const OURS: [&str; 8] =
    ["connection", "content-length", "date", "keep-alive", "proxy-connection", "trailer", "transfer-encoding", "upgrade"];

/// A token (RFC 9110, 5.6.2).
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What is wrong with a header that is called so, one line.
#[must_use]
pub fn name_problem(name: &str) -> Option<String> {
    if !is_name(name) {
        return Some(format!("`{}` is no name of a header", name.escape_debug()));
    }
    let ours = OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours));
    ours.then(|| format!("the header `{name}` is written by the transport; leave it out"))
}

/// What is wrong with its value, one line: nothing in it may end the header.
#[must_use]
pub fn value_problem(name: &str, value: &str) -> Option<String> {
    let good = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    (!good).then(|| format!("the header `{name}` holds a line break, control or non-ASCII character; leave it out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_more_than_one_header_is_none() {
        for name in ["X-Flow", "x!#$%&'*+-.^_`|~9", "Content-Type"] {
            assert_eq!(name_problem(name), None);
        }
        for name in ["", "a b", "a:", "a\r\nb", "ü"] {
            assert!(name_problem(name).is_some_and(|problem| problem.ends_with("is no name of a header")), "{name:?}");
        }
        for name in ["Content-Length", "transfer-ENCODING", "date"] {
            assert!(name_problem(name).is_some_and(|problem| problem.contains("written by the transport")), "{name}");
        }
        assert_eq!(value_problem("X-A", "a b~"), None);
        for value in ["a\r\nSet-Cookie: b", "a\tb", "\u{7f}", "ü"] {
            assert!(value_problem("X-A", value).is_some_and(|problem| problem.contains("`X-A`")), "{value:?}");
        }
    }
}
