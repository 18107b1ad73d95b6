//! A document as a tree whose every part knows its place in the text, from TOML or JSON.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value with the byte at which it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(i64),
    Flag(bool),
    List(Vec<Node>),
    /// In the order of the text.
    Table(Vec<Entry>),
    /// What no key takes, named for people.
    Other(&'static str),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Of the key; of the value, where the format does not tell.
    pub(super) at: usize,
    pub(super) node: Node,
}

impl Value {
    /// For people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Whole(_) => "a whole number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

/// The document's root table. A text that begins with `{` is JSON, which no TOML document does.
///
/// # Errors
/// All mistakes of syntax, each with its byte.
pub(super) fn parse(text: &str) -> Result<Node, Vec<(usize, String)>> {
    if text.trim_start_matches('\u{feff}').trim_start().starts_with('{') {
        return json(text);
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Node { at: 0, value: Value::Table(entries(root.get_ref())) });
    }
    let told = |error: toml::de::Error| {
        let message: String = error.message().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        (error.span().map_or(text.len(), |span| span.start), format!("no TOML: {message}"))
    };
    let mut mistakes: Vec<(usize, String)> = errors.into_iter().map(told).collect();
    // The keys below a header that cannot be read fall into the table above it: that they are there twice is no mistake of theirs.
    let is_header = |at: usize| text[..floor(text, at)].rsplit('\n').next().unwrap_or_default().trim_start().starts_with('[');
    let header = mistakes.iter().map(|(at, _)| *at).filter(|at| is_header(*at)).min();
    mistakes.retain(|(at, mistake)| !(mistake.contains("duplicate key") && header.is_some_and(|header| header < *at)));
    Err(mistakes)
}

fn entries(table: &DeTable<'_>) -> Vec<Entry> {
    let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| Entry {
        key: key.get_ref().to_string(),
        at: key.span().start,
        node: node(value),
    };
    let mut entries: Vec<Entry> = table.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.at);
    entries
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    let read = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other("a number beyond 64 bits"), Value::Whole)
        }
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(list) => Value::List(list.iter().map(node).collect()),
        DeValue::Table(table) => Value::Table(entries(table)),
    };
    Node { at: value.span().start, value: read }
}

fn json(text: &str) -> Result<Node, Vec<(usize, String)>> {
    let trimmed = text.trim_start_matches('\u{feff}');
    // The first pass holds the depth in bounds, which the second relies on.
    let bounded = serde_json::from_str::<serde_json::Value>(trimmed);
    bounded.and_then(|_| serde_json::from_str::<&RawValue>(trimmed)).map(|raw| json_node(text, raw)).map_err(|error| {
        let before = trimmed.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
        let skipped = text.len() - trimmed.len();
        vec![(skipped + before + error.column().saturating_sub(1), format!("no JSON: {error}"))]
    })
}

/// The parser checked all of it, so that each part parses; what does not is nothing that a key takes.
fn json_node(text: &str, raw: &RawValue) -> Node {
    let own = raw.get();
    let value = match own.bytes().next() {
        Some(b'{') => serde_json::from_str::<BTreeMap<String, &RawValue>>(own).ok().map(|members| {
            let entry = |(key, raw)| {
                let node = json_node(text, raw);
                Entry { key, at: node.at, node }
            };
            let mut entries: Vec<Entry> = members.into_iter().map(entry).collect();
            entries.sort_by_key(|entry| entry.at);
            Value::Table(entries)
        }),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(own)
            .ok()
            .map(|list| Value::List(list.into_iter().map(|raw| json_node(text, raw)).collect())),
        Some(b'"') => serde_json::from_str(own).ok().map(Value::Text),
        Some(b't' | b'f') => serde_json::from_str(own).ok().map(Value::Flag),
        Some(b'n') => Some(Value::Other("null")),
        _ => Some(own.parse().map_or(Value::Other("a number with a fraction"), Value::Whole)),
    };
    // Borrowed from `text`, so the difference is its place.
    let at = (own.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    Node { at, value: value.unwrap_or(Value::Other("a value that cannot be read")) }
}

/// Line and column of a byte, both from 1, the column in characters.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..floor(text, at)];
    let line = before.matches('\n').count() + 1;
    (line, before.rsplit('\n').next().unwrap_or_default().chars().count() + 1)
}

/// The same byte, or the first of its character.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<String> {
        fn walk(text: &str, name: &str, node: &Node, found: &mut Vec<String>) {
            match &node.value {
                Value::Table(entries) => {
                    for entry in entries {
                        let (line, column) = place(text, entry.at);
                        found.push(format!("{line}:{column} {name}{}", entry.key));
                        walk(text, &format!("{name}{}.", entry.key), &entry.node, found);
                    }
                }
                Value::List(list) => {
                    for one in list {
                        let (line, column) = place(text, one.at);
                        found.push(format!("{line}:{column} {name}#"));
                        walk(text, &format!("{name}#."), one, found);
                    }
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        walk(text, "", &parse(text).expect("parses"), &mut found);
        found
    }

    #[test]
    fn every_part_knows_its_place() {
        let toml = "a = 1\n[[p]]\nn = 'ü'\n  [p.s]\n  k = { x = true, y = [1, 2] }\n[[p]]\nn = \"z\"\n";
        assert_eq!(
            places(toml),
            [
                "1:1 a",
                "2:3 p",
                "2:1 p.#",
                "3:1 p.#.n",
                "4:6 p.#.s",
                "5:3 p.#.s.k",
                "5:9 p.#.s.k.x",
                "5:19 p.#.s.k.y",
                "5:24 p.#.s.k.y.#",
                "5:27 p.#.s.k.y.#",
                "6:1 p.#",
                "7:1 p.#.n"
            ]
        );
        let json = "{\n  \"b\": [1, {\"c\": \"x\"}],\n  \"a\": true\n}";
        assert_eq!(places(json), ["2:8 b", "2:9 b.#", "2:12 b.#", "2:18 b.#.c", "3:8 a"]);
    }

    #[test]
    fn all_mistakes_of_syntax_are_told() {
        let wrong = parse("a = \nb = 1\nb = 2\n").expect_err("wrong");
        let lines: Vec<usize> = wrong.iter().map(|(at, _)| place("a = \nb = 1\nb = 2\n", *at).0).collect();
        assert_eq!(lines, [1, 3], "{wrong:?}");
        assert_eq!(parse("{\"a\": 1,\n}").expect_err("wrong")[0].0, 9);
        for (before, inner, after) in
            [("a = ", "[", ""), ("a = ", "{a=", ""), ("{\"a\":", "[", ""), ("", "[a.", ""), ("a = ", "[", "]")]
        {
            let deep = before.to_owned() + &inner.repeat(100_000) + &after.repeat(100_000);
            assert!(parse(&deep).is_err(), "{before}{inner}");
        }
        let dotted = "a.".repeat(100_000);
        for deep in [format!("{dotted}a = 1"), format!("[{dotted}a]"), format!("a = {{{dotted}a = 1}}")] {
            assert!(parse(&deep).is_err());
        }
    }
}
