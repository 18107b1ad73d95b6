//! JSON as Newtonsoft's library reads and writes it, on which the envelope's odd corners depend: lenient input, dates in
//! strings, numbers, escapes, layout.
//!
//! Not imitated: constructors, hexadecimal and octal numbers, the wording of errors.

use std::fmt::Write as _;

use super::dates::DotNetDate;

/// A token. What strings and numbers looked like is kept: some readers take the text.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// Its digits; any size.
    Integer(String),
    /// The number, and as it was written.
    Float(f64, String),
    Text(String),
    /// A string that was taken for a date, and as it was written.
    Date(DotNetDate, String),
    Array(Vec<Json>),
    /// In the order written; a name once.
    Object(Vec<(String, Json)>),
}

/// Why a text is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// The text ended too early: which depth was open.
    pub ended_at_depth: Option<usize>,
    pub message: String,
}

impl Json {
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Reads a whole text: one value, nothing behind it but comments and white space.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        let (value, rest) = Self::parse_first(text, 64)?.ok_or_else(|| error("the text is empty"))?;
        let mut reader = Reader::new(rest, 64);
        reader.blank()?;
        if reader.peek().is_some() {
            return Err(error("there is text behind the value"));
        }
        Ok(value)
    }

    /// Reads the first value of a text, and what follows it; none if there is only white space.
    pub fn parse_first(text: &str, max_depth: usize) -> Result<Option<(Self, &str)>, JsonError> {
        let mut reader = Reader::new(text, max_depth);
        reader.blank()?;
        if reader.peek().is_none() {
            return Ok(None);
        }
        let value = reader.value()?;
        Ok(Some((value, reader.rest)))
    }

    /// On one line, without blanks.
    #[must_use]
    pub fn compact(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, None);
        out
    }

    /// With line breaks, two blanks per level.
    #[must_use]
    pub fn indented(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, Some(0));
        out
    }

    /// `ToString()` of the value with the invariant culture: strings as they are, objects indented.
    #[must_use]
    pub fn display(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(true) => "True".to_owned(),
            Self::Bool(false) => "False".to_owned(),
            Self::Integer(digits) => digits.clone(),
            Self::Float(number, _) => double(*number),
            Self::Text(text) => text.clone(),
            Self::Date(date, _) => date.text(),
            Self::Array(_) | Self::Object(_) => self.indented(),
        }
    }

    /// The value of a property with exactly this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The value of a property with this name, else with this name in another case.
    #[must_use]
    pub fn get_any_case(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        self.get(name).or_else(|| members.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    }

    fn write(&self, out: &mut String, level: Option<usize>) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => _ = write!(out, "{value}"),
            Self::Integer(digits) => out.push_str(digits),
            Self::Float(number, _) => out.push_str(&json_double(*number)),
            Self::Text(text) => quote(text, out),
            Self::Date(date, _) => quote(&date.iso(), out),
            Self::Array(items) => {
                let entries = items.iter().map(|item| (None, item));
                write_members(out, level, ['[', ']'], entries);
            }
            Self::Object(members) => {
                let entries = members.iter().map(|(name, value)| (Some(name.as_str()), value));
                write_members(out, level, ['{', '}'], entries);
            }
        }
    }
}

fn write_members<'a>(
    out: &mut String,
    level: Option<usize>,
    brackets: [char; 2],
    entries: impl ExactSizeIterator<Item = (Option<&'a str>, &'a Json)>,
) {
    out.push(brackets[0]);
    let empty = entries.len() == 0;
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    for (i, (name, value)) in entries.enumerate() {
        if i > 0 {
            out.push(',');
        }
        if let Some(level) = level {
            line(out, level + 1);
        }
        if let Some(name) = name {
            quote(name, out);
            out.push_str(if level.is_some() { ": " } else { ":" });
        }
        value.write(out, level.map(|level| level + 1));
    }
    if let (Some(level), false) = (level, empty) {
        line(out, level);
    }
    out.push(brackets[1]);
}

/// A string with quotes and escapes.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' | '\u{85}' | '\u{2028}' | '\u{2029}' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// `double.ToString()`: the shortest digits that read back, with an exponent from 15 places before and 5 zeros behind the point.
fn double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-5..15).contains(&exponent) {
        return format!("{number}");
    }
    format!("{digits}E{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn json_double(number: f64) -> String {
    let text = double(number);
    if !number.is_finite() {
        return format!("\"{text}\"");
    }
    if text.contains(['.', 'E']) { text } else { text + ".0" }
}

fn error(message: impl Into<String>) -> JsonError {
    JsonError { ended_at_depth: None, message: message.into() }
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
    max_depth: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, max_depth: usize) -> Self {
        Self { rest: text, depth: 0, max_depth }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn ended(&self) -> JsonError {
        JsonError { ended_at_depth: Some(self.depth), message: "the text ends within a value".to_owned() }
    }

    fn unexpected(&self) -> JsonError {
        self.peek().map_or_else(|| self.ended(), |c| error(format!("unexpected character {c:?}")))
    }

    /// Skips white space and comments.
    fn blank(&mut self) -> Result<(), JsonError> {
        loop {
            self.rest = self.rest.trim_start();
            if let Some(comment) = self.rest.strip_prefix("//") {
                self.rest = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                let end = comment.find("*/").ok_or_else(|| self.ended())?;
                self.rest = &comment[end + 2..];
            } else {
                return Ok(());
            }
        }
    }

    fn value(&mut self) -> Result<Json, JsonError> {
        match self.peek() {
            Some('{') => self.nested(Self::object),
            Some('[') => self.nested(Self::array),
            Some(quote @ ('"' | '\'')) => {
                let text = self.string(quote)?;
                Ok(DotNetDate::read(&text).map_or(Json::Text(text.clone()), |date| Json::Date(date, text)))
            }
            Some('0'..='9' | '.') => self.number(),
            Some('-') if !self.rest.starts_with("-I") => self.number(),
            _ => self.word(),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Json, JsonError>) -> Result<Json, JsonError> {
        self.next();
        self.depth += 1;
        if self.depth > self.max_depth {
            return Err(error("the value is nested too deeply"));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn word(&mut self) -> Result<Json, JsonError> {
        let words = [
            ("null", Json::Null),
            ("undefined", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
            ("NaN", Json::Float(f64::NAN, "NaN".to_owned())),
            ("Infinity", Json::Float(f64::INFINITY, "Infinity".to_owned())),
            ("-Infinity", Json::Float(f64::NEG_INFINITY, "-Infinity".to_owned())),
        ];
        for (word, value) in words {
            if let Some(rest) = self.rest.strip_prefix(word)
                && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(self.unexpected())
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let end = self.rest.find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+' | 'e' | 'E')).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            let plain = digits.trim_start_matches('0');
            let sign = if text.starts_with('-') && !plain.is_empty() { "-" } else { "" };
            return Ok(Json::Integer(if plain.is_empty() { "0".to_owned() } else { format!("{sign}{plain}") }));
        }
        let number: f64 = text.parse().map_err(|_| error(format!("`{text}` is not a number")))?;
        Ok(Json::Float(number, text.to_owned()))
    }

    fn string(&mut self, quote: char) -> Result<String, JsonError> {
        self.next();
        let mut units: Vec<u16> = Vec::new();
        loop {
            let c = self.next().ok_or_else(|| self.ended())?;
            let plain = match c {
                c if c == quote => return Ok(String::from_utf16_lossy(&units)),
                '\\' => match self.next().ok_or_else(|| self.ended())? {
                    'b' => '\u{8}',
                    't' => '\t',
                    'n' => '\n',
                    'f' => '\u{c}',
                    'r' => '\r',
                    c @ ('\\' | '"' | '\'' | '/') => c,
                    'u' => {
                        let hex = self.rest.get(..4).ok_or_else(|| self.ended())?;
                        units.push(u16::from_str_radix(hex, 16).map_err(|_| error("bad escape"))?);
                        self.rest = &self.rest[4..];
                        continue;
                    }
                    c => return Err(error(format!("bad escape `\\{c}`"))),
                },
                c => c,
            };
            units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
        }
    }

    fn array(&mut self) -> Result<Json, JsonError> {
        let mut items = Vec::new();
        loop {
            self.blank()?;
            match self.peek() {
                Some(']') => {
                    self.next();
                    return Ok(Json::Array(items));
                }
                Some(',') => items.push(Json::Null),
                _ => items.push(self.value()?),
            }
            self.separator(']')?;
        }
    }

    fn object(&mut self) -> Result<Json, JsonError> {
        let mut members: Vec<(String, Json)> = Vec::new();
        loop {
            self.blank()?;
            let name = match self.peek() {
                Some('}') => {
                    self.next();
                    return Ok(Json::Object(members));
                }
                Some(quote @ ('"' | '\'')) => self.string(quote)?,
                Some(c) if c.is_alphanumeric() || c == '_' || c == '$' => {
                    let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(self.rest.len());
                    let (name, rest) = self.rest.split_at(end);
                    self.rest = rest;
                    name.to_owned()
                }
                _ => return Err(self.unexpected()),
            };
            self.blank()?;
            if self.peek() != Some(':') {
                return Err(self.unexpected());
            }
            self.next();
            self.blank()?;
            let value = self.value()?;
            match members.iter_mut().find(|(known, _)| *known == name) {
                Some(known) => known.1 = value,
                None => members.push((name, value)),
            }
            self.separator('}')?;
        }
    }

    /// A comma, or the end of the array or object, which is left for the caller.
    fn separator(&mut self, end: char) -> Result<(), JsonError> {
        self.blank()?;
        match self.peek() {
            Some(',') => {
                self.next();
                Ok(())
            }
            Some(c) if c == end => Ok(()),
            _ => Err(self.unexpected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_leniently_and_written_as_newtonsoft_does() {
        let round = |text: &str| Json::parse(text).map(|value| value.compact()).ok();
        let to = |text: &str| Some(text.to_owned());
        assert_eq!(round("{a:1,'b':[1,2,],/* c */}"), to(r#"{"a":1,"b":[1,2]}"#));
        assert_eq!(round("[1.50, 1e3, 100000000000000000000, -0, 1E+20]"), to("[1.5,1000.0,100000000000000000000,0,1E+20]"));
        assert_eq!(round(r#"{"a":1,"b":2,"a":3}"#), to(r#"{"a":3,"b":2}"#));
        assert_eq!(round(r#""\ud83d\udc1d \u0085 \/""#), to("\"🐝 \\u0085 /\""));
        assert_eq!(round(r#"["2026-03-01T11:22:33.4567Z"]"#), to(r#"["2026-03-01T11:22:33.4567Z"]"#));
        for bad in ["{not json}", "{} x", "[1", "{\"a\"}", "Hello", "", "{\"a\":1 \"b\":2}", "truex"] {
            assert_eq!(round(bad), None, "{bad}");
        }
        assert!(Json::parse(&("[".repeat(64) + &"]".repeat(64))).is_ok());
        assert!(Json::parse(&("[".repeat(65) + &"]".repeat(65))).is_err());
        assert_eq!(
            Json::parse("{\"b\":1,\"a\":[],\"c\":[{}]}").map(|v| v.indented()).ok(),
            to("{\n  \"b\": 1,\n  \"a\": [],\n  \"c\": [\n    {}\n  ]\n}")
        );
        assert_eq!([double(1e15), double(1.5e-7), double(0.0001), double(123_456.0)], ["1E+15", "1.5E-07", "0.0001", "123456"]);
    }
}
