//! TQL, parsed and really evaluated: the grammar as the vendor's articles and clients show it.
//!
//! Not imitated: groups, associations, attribute sub-keywords other than type and text, CAL and enrichment keywords.

mod evaluate;

use jiff::Timestamp;

use evaluate::date;

/// A parsed query.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    All,
    And(Vec<Query>),
    Or(Vec<Query>),
    Not(Box<Query>),
    Compare {
        field: Field,
        op: Op,
        values: Vec<Literal>,
    },
    IsNull {
        field: Field,
        negated: bool,
    },
    /// Some tag, label or attribute matches.
    Has {
        what: What,
        query: Box<Query>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Tag,
    AllTags,
    Label,
    Attribute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Id,
    OwnerName,
    Owner,
    TypeName,
    Score,
    Confidence,
    Rating,
    FalsePositives,
    LastModified,
    DateAdded,
    LastSeen,
    Active,
    Label,
    Tag,
    Summary,
    IsIpv6,
    /// Inside a nested query.
    Name,
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Gt,
    Lt,
    Le,
    Ge,
    In,
    NotIn,
    Like,
    NotLike,
    Contains,
    NotContains,
    StartsWith,
    EndsWith,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Number(i128),
    Decimal(f64),
    Bool(bool),
    Text(String),
}

const FIELDS: [(&str, Field); 18] = [
    ("id", Field::Id),
    ("ownername", Field::OwnerName),
    ("owner", Field::Owner),
    ("typename", Field::TypeName),
    ("threatassessscore", Field::Score),
    ("confidence", Field::Confidence),
    ("rating", Field::Rating),
    ("falsepositivecount", Field::FalsePositives),
    ("lastmodified", Field::LastModified),
    ("dateadded", Field::DateAdded),
    ("lastseen", Field::LastSeen),
    ("indicatoractive", Field::Active),
    ("securitylabel", Field::Label),
    ("tag", Field::Tag),
    ("summary", Field::Summary),
    ("addressisipv6", Field::IsIpv6),
    ("name", Field::Name),
    ("text", Field::Text),
];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(String),
    Symbol(&'static str),
}

/// Parses a query; an empty one matches all.
///
/// # Errors
/// What a server would say in a 400.
pub fn parse(text: &str) -> Result<Query, String> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(Query::All);
    }
    let mut parser = Parser { tokens, at: 0 };
    let query = parser.or()?;
    match parser.peek() {
        None => Ok(query),
        Some(token) => Err(format!("Invalid TQL: unexpected {token:?}")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '"' | '\'' => {
                let mut value = String::new();
                loop {
                    match chars.next() {
                        None => return Err(format!("Invalid TQL: string at position {at} does not end")),
                        Some((_, '\\')) => match chars.next() {
                            Some((_, escaped)) => value.push(escaped),
                            None => return Err("Invalid TQL: backslash at the end".to_owned()),
                        },
                        Some((_, end)) if end == c => break,
                        Some((_, inner)) => value.push(inner),
                    }
                }
                tokens.push(Token::Text(value));
            }
            '(' => tokens.push(Token::Symbol("(")),
            ')' => tokens.push(Token::Symbol(")")),
            ',' => tokens.push(Token::Symbol(",")),
            '=' | '!' | '>' | '<' => {
                let double = chars.next_if(|(_, next)| *next == '=').is_some();
                tokens.push(Token::Symbol(match (c, double) {
                    ('=', _) => "=",
                    ('!', true) => "!=",
                    ('>', true) => ">=",
                    ('>', false) => ">",
                    ('<', true) => "<=",
                    ('<', false) => "<",
                    _ => return Err(format!("Invalid TQL: unexpected `!` at position {at}")),
                }));
            }
            c if c.is_ascii_digit() || c == '-' => {
                let mut number = String::from(c);
                while let Some((_, digit)) = chars.next_if(|(_, next)| next.is_ascii_digit() || *next == '.') {
                    number.push(digit);
                }
                tokens.push(Token::Number(number));
            }
            c if c.is_alphabetic() => {
                let mut word = String::from(c);
                while let Some((_, letter)) = chars.next_if(|(_, next)| next.is_alphanumeric() || *next == '_') {
                    word.push(letter);
                }
                tokens.push(Token::Word(word));
            }
            other => return Err(format!("Invalid TQL: unexpected `{other}` at position {at}")),
        }
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.tokens.get(self.at).cloned().ok_or("Invalid TQL: unexpected end")?;
        self.at += 1;
        Ok(token)
    }

    fn word(&mut self, expected: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(expected));
        self.at += usize::from(found);
        found
    }

    fn symbol(&mut self, expected: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(symbol)) if *symbol == expected);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, expected: &str) -> Result<(), String> {
        if self.symbol(expected) { Ok(()) } else { Err(format!("Invalid TQL: expected `{expected}`")) }
    }

    fn or(&mut self) -> Result<Query, String> {
        let mut parts = vec![self.and()?];
        while self.word("or") {
            parts.push(self.and()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Query::Or(parts) })
    }

    fn and(&mut self) -> Result<Query, String> {
        let mut parts = vec![self.unary()?];
        while self.word("and") {
            parts.push(self.unary()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Query::And(parts) })
    }

    fn unary(&mut self) -> Result<Query, String> {
        if self.word("not") {
            return Ok(Query::Not(Box::new(self.unary()?)));
        }
        if self.symbol("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(inner);
        }
        let Token::Word(word) = self.next()? else { return Err("Invalid TQL: expected a field".to_owned()) };
        let what = match word.to_ascii_lowercase().as_str() {
            "hastag" => Some(What::Tag),
            "hasalltags" => Some(What::AllTags),
            "hassecuritylabel" => Some(What::Label),
            "hasattribute" => Some(What::Attribute),
            _ => None,
        };
        if let Some(what) = what {
            self.expect("(")?;
            let query = Box::new(self.or()?);
            self.expect(")")?;
            return Ok(Query::Has { what, query });
        }
        let field = FIELDS.iter().find(|(name, _)| *name == word.to_ascii_lowercase()).map(|(_, field)| *field);
        let field = field.ok_or_else(|| format!("Invalid TQL: unknown field {word}"))?;
        self.compare(field)
    }

    fn compare(&mut self, field: Field) -> Result<Query, String> {
        if self.word("is") {
            let negated = self.word("not");
            return if self.word("null") {
                Ok(Query::IsNull { field, negated })
            } else {
                Err("Invalid TQL: expected null".to_owned())
            };
        }
        let negated = self.word("not");
        let op = match (self.next()?, negated) {
            (Token::Symbol("="), false) => Op::Eq,
            (Token::Symbol("!="), false) => Op::Ne,
            (Token::Symbol(">"), false) => Op::Gt,
            (Token::Symbol("<"), false) => Op::Lt,
            (Token::Symbol(">="), false) => Op::Ge,
            (Token::Symbol("<="), false) => Op::Le,
            (Token::Word(word), negated) => match (word.to_ascii_lowercase().as_str(), negated) {
                ("in", false) => Op::In,
                ("in", true) => Op::NotIn,
                ("like", false) => Op::Like,
                ("like", true) => Op::NotLike,
                ("contains", false) => Op::Contains,
                ("contains", true) => Op::NotContains,
                ("startswith", false) => Op::StartsWith,
                ("endswith", false) => Op::EndsWith,
                ("eq" | "equals", false) => Op::Eq,
                ("ne", false) => Op::Ne,
                ("gt", false) => Op::Gt,
                ("lt", false) => Op::Lt,
                ("geq", false) => Op::Ge,
                ("leq", false) => Op::Le,
                _ => return Err(format!("Invalid TQL: unknown operator {word}")),
            },
            (token, _) => return Err(format!("Invalid TQL: expected an operator, found {token:?}")),
        };
        let listed = matches!(op, Op::In | Op::NotIn) || matches!(self.peek(), Some(Token::Symbol("(")));
        let mut values = Vec::new();
        if listed {
            self.expect("(")?;
            loop {
                values.push(self.literal(field)?);
                if !self.symbol(",") {
                    break;
                }
            }
            self.expect(")")?;
        } else {
            values.push(self.literal(field)?);
        }
        Ok(Query::Compare { field, op, values })
    }

    fn literal(&mut self, field: Field) -> Result<Literal, String> {
        let literal = match self.next()? {
            Token::Text(text) => Literal::Text(text),
            Token::Number(number) => match number.parse::<i128>() {
                Ok(whole) => Literal::Number(whole),
                Err(_) => Literal::Decimal(number.parse().map_err(|_| format!("Invalid TQL: {number} is no number"))?),
            },
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Literal::Bool(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Literal::Bool(false),
            token => return Err(format!("Invalid TQL: expected a value, found {token:?}")),
        };
        if matches!(field, Field::LastModified | Field::DateAdded | Field::LastSeen) {
            let Literal::Text(text) = &literal else { return Err("Invalid TQL: a date is quoted".to_owned()) };
            date(text, Timestamp::UNIX_EPOCH)?;
        }
        Ok(literal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indicator::Indicator;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn indicator() -> Indicator {
        Indicator {
            id: 7,
            rating: Some(3.5),
            confidence: Some(50),
            tags: vec!["APT29".to_owned(), "a \"b\" \\c".to_owned()],
            labels: vec!["TLP:AMBER".to_owned()],
            attributes: vec![("Phase of Intrusion".to_owned(), "C2".to_owned())],
            ..Indicator::new("Acme Org", "Host", "bad.example", at("2023-11-20T18:00:00Z"))
        }
    }

    fn matches(text: &str) -> bool {
        parse(text).expect("a query").matches(&indicator(), 1, at("2023-11-21T00:00:00Z"))
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert!(matches("id = 7 or id = 8 and id = 9"));
        assert!(!matches("(id = 7 or id = 8) and id = 9"));
        assert!(matches("not id = 8 and not (id = 9)"));
    }

    #[test]
    fn each_form_of_the_vendors_examples_is_read() {
        for text in [
            "threatAssessScore is null",
            "rating>=3 and rating >= 3.5 AND RATING gt 3",
            "typeName in (\"Host\", 'URL') and typeName NOT IN (\"File\")",
            "typeName LIKE (\"Ho%\")",
            "hasTag(name in (\"x\", \"APT29\")) and tag in (\"APT29\")",
            "hasTag(name = \"a \\\"b\\\" \\\\c\")",
            "hasAttribute(typeName = \"Phase of Intrusion\" and text = \"C2\")",
            "securityLabel = \"TLP:AMBER\" and hasSecurityLabel(name = \"TLP:AMBER\")",
            "lastModified > \"NOW() - 24 hours\" and lastModified >= \"2023-11-20\" and lastModified < \"2023-11-20T18:00:01Z\"",
            "summary STARTSWITH \"bad\" and summary contains \"example\" and summary ENDSWITH \"example\"",
            "falsePositiveCount <= 0 and indicatorActive = True",
        ] {
            assert!(matches(text), "{text}");
        }
        assert!(!matches("hasTag(name = \"apt29\")"), "tag names are case-sensitive");
        assert!(!matches("threatAssessScore >= 0"), "a comparison with an unset value is false");
    }

    #[test]
    fn what_a_server_refuses_is_refused() {
        for text in [
            "xid = \"1\"",
            "id in ()",
            "id =",
            "(id = 1",
            "lastModified > \"2023-11-20T18:00:01.5Z\"",
            "id = 1 id = 2",
            "name ~ 1",
            "\"x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
