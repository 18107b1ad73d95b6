//! Texts with variables: `{name}` stands for a value, `{{name}}` for `{name}` itself, any other brace for itself.
//!
//! One pass: what a value brings in is never looked at again, so that foreign text cannot name variables.

use serde_json::{Map, Value};

use super::evaluate::{Selected, Variables};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(String),
}

impl Template {
    /// Any text is a template.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            plain.push_str(&rest[..start]);
            rest = &rest[start..];
            if let Some((name, after)) = rest.strip_prefix('{').and_then(braced).and_then(|(name, after)| {
                // The outer pair makes it plain.
                after.strip_prefix('}').map(|after| (name, after))
            }) {
                plain.push('{');
                plain.push_str(name);
                plain.push('}');
                rest = after;
            } else if let Some((name, after)) = braced(rest) {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Variable(name.to_owned()));
                rest = after;
            } else {
                plain.push('{');
                rest = &rest[1..];
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Self { parts }
    }

    /// The names that it asks for.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text, with arrays joined by a comma and a blank.
    #[must_use]
    pub fn fill(&self, variables: &Variables) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Variable(name) => variables.get(name).map(Selected::text).unwrap_or_default(),
        };
        self.parts.iter().map(text).collect()
    }

    /// The value alone, where the template is one variable and nothing else: an array stays one.
    fn value(&self, variables: &Variables) -> Value {
        match self.parts.as_slice() {
            [Part::Variable(name)] => variables.get(name).map_or(Value::Null, Selected::json),
            _ => Value::String(self.fill(variables)),
        }
    }
}

/// `{name}` at the start of `text`: the name, and what follows.
fn braced(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix('{')?.split_once('}')?;
    let first = name.chars().next()?;
    let good =
        (first.is_ascii_alphabetic() || first == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    good.then_some((name, after))
}

/// A body that is made of variables: a text, or JSON whose texts are templates, so that no value can break its syntax.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Template(Template),
    Fixed(Value),
    List(Vec<Shape>),
    Members(Vec<(String, Shape)>),
}

impl Shape {
    /// All names that are asked for.
    #[must_use]
    pub fn variables(&self) -> Vec<&str> {
        match self {
            Self::Template(template) => template.variables().collect(),
            Self::Fixed(_) => Vec::new(),
            Self::List(list) => list.iter().flat_map(Self::variables).collect(),
            Self::Members(members) => members.iter().flat_map(|(_, shape)| shape.variables()).collect(),
        }
    }

    #[must_use]
    pub fn fill(&self, variables: &Variables) -> Value {
        match self {
            Self::Template(template) => template.value(variables),
            Self::Fixed(value) => value.clone(),
            Self::List(list) => list.iter().map(|shape| shape.fill(variables)).collect(),
            Self::Members(members) => {
                let members = members.iter().map(|(key, shape)| (key.clone(), shape.fill(variables)));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), Selected::Text((*text).to_owned()))).collect()
    }

    #[test]
    fn names_in_braces_are_filled_and_other_braces_stay() {
        let given = variables(&[("a", "1"), ("meta.tenant", "t")]);
        for (template, expected) in [
            ("{a}-{meta.tenant}", "1-t"),
            ("{{a}} is {a}", "{a} is 1"),
            ("{ \"x\": \"{a}\", \"y\": {} }", "{ \"x\": \"1\", \"y\": {} }"),
            ("{\"x\":{\"y\":\"{a}\"}}", "{\"x\":{\"y\":\"1\"}}"),
            ("{{{a}}}", "{{a}}"),
            ("{9a} {a b} {", "{9a} {a b} {"),
            ("", ""),
        ] {
            assert_eq!(Template::parse(template).fill(&given), expected, "{template}");
        }
    }

    #[test]
    fn a_body_of_json_keeps_arrays_and_cannot_be_broken() {
        let mut given = variables(&[("title", "a\", \"b\": \"c")]);
        given.insert("ips".to_owned(), Selected::Texts(vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()]));
        let text = |text: &str| Shape::Template(Template::parse(text));
        let shape = Shape::Members(vec![
            ("t".to_owned(), text("T: {title}")),
            ("ips".to_owned(), text("{ips}")),
            ("line".to_owned(), text("{ips}.")),
            ("n".to_owned(), Shape::List(vec![Shape::Fixed(1.into())])),
        ]);
        assert_eq!(
            shape.fill(&given).to_string(),
            r#"{"ips":["192.0.2.1","192.0.2.2"],"line":"192.0.2.1, 192.0.2.2.","n":[1],"t":"T: a\", \"b\": \"c"}"#
        );
        assert_eq!(shape.variables(), ["title", "ips", "ips"]);
    }

    proptest! {
        #[test]
        fn a_text_without_braces_is_itself(text in "[^{]{0,30}") {
            prop_assert_eq!(Template::parse(&text).fill(&Variables::new()), text);
        }

        #[test]
        fn what_a_value_brings_in_is_not_looked_at_again(before in "[^{}]{0,9}", value in "[{}ab]{0,12}", after in "[^{}]{0,9}") {
            let template = Template::parse(&format!("{before}{{a}}{after}"));
            let given = variables(&[("a", &value), ("b", "WRONG"), ("ab", "WRONG")]);
            prop_assert_eq!(template.fill(&given), format!("{before}{value}{after}"));
        }

        #[test]
        fn doubled_braces_give_the_name_itself(name in "[a-z_][a-z0-9_]{0,8}") {
            let given = variables(&[(&name, "WRONG")]);
            prop_assert_eq!(Template::parse(&format!("{{{{{name}}}}}")).fill(&given), format!("{{{name}}}"));
        }

        #[test]
        fn two_templates_in_a_row_are_filled_as_one(one in "([a-z ]|\\{a\\}|\\{b\\}){0,6}", two in "([a-z ]|\\{a\\}|\\{b\\}){0,6}") {
            let given = variables(&[("a", "{b}"), ("b", "{a}")]);
            let apart = Template::parse(&one).fill(&given) + &Template::parse(&two).fill(&given);
            prop_assert_eq!(Template::parse(&format!("{one}{two}")).fill(&given), apart);
        }

        #[test]
        fn any_text_is_a_template(text in ".{0,60}") {
            let template = Template::parse(&text);
            prop_assert!(template.fill(&Variables::new()).len() <= text.len());
        }
    }
}
