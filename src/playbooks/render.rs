//! The table of keys for readers: README and JSON Schema.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::keys::{KEYS, Key, Scope, Shape};

/// The tables of the README, one for each part of the document. Ends with a line feed.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::new();
    for scope in Scope::ALL {
        let _ = writeln!(page, "`{}`\n", scope.header());
        page.push_str("| Key | Guide | Takes | Default | Meaning |\n|---|---|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.scope == scope) {
            let default = match (key.required, key.default) {
                (true, _) => "required".to_owned(),
                (false, "") => String::new(),
                (false, default) => format!("`{default}`"),
            };
            let takes = key.shape.accepts().replace('|', "\\|");
            let guide = key.guide.unwrap_or_default();
            let _ = writeln!(page, "| `{}` | {guide} | {takes} | {default} | {} |", key.key, key.help.replace('|', "\\|"));
        }
        page.push('\n');
    }
    page.trim_end().to_owned() + "\n"
}

/// JSON Schema (2020-12) of the document, for editors.
#[must_use]
pub fn schema() -> Value {
    let mut schema = object(&[Scope::Document]);
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), "Playbooks of Indicator Relay".into());
    Value::Object(schema)
}

fn object(scopes: &[Scope]) -> Map<String, Value> {
    let of = || KEYS.iter().filter(|key| scopes.contains(&key.scope));
    let properties: Map<String, Value> = of().map(|key| (key.key.to_owned(), property(key))).collect();
    let required: Vec<&str> = of().filter(|key| key.required).map(|key| key.key).collect();
    let mut object = Map::new();
    object.insert("type".to_owned(), "object".into());
    object.insert("properties".to_owned(), Value::Object(properties));
    object.insert("additionalProperties".to_owned(), false.into());
    if !required.is_empty() {
        object.insert("required".to_owned(), required.into());
    }
    object
}

fn property(key: &Key) -> Value {
    let texts = || json!({"type": "object", "additionalProperties": {"type": "string"}});
    let mut property = match key.shape {
        Shape::Text(_) | Shape::Expression | Shape::Template => json!({"type": "string"}),
        Shape::Flag => json!({"type": "boolean"}),
        Shape::Whole { from, to } => json!({"type": "integer", "minimum": from, "maximum": to}),
        Shape::Choice(choices) => json!({"enum": choices}),
        Shape::Choices(choices) => json!({"type": "array", "minItems": 1, "items": {"enum": choices}}),
        Shape::Templates => json!({"type": "array", "items": {"type": "string"}}),
        Shape::Expressions | Shape::NamedTemplates | Shape::NamedTexts => texts(),
        Shape::Body => json!({"type": ["string", "object", "array"]}),
        Shape::Table(scope) => Value::Object(object(&[scope])),
        Shape::NamedTables(scope) => json!({"type": "object", "additionalProperties": object(&[scope])}),
        Shape::Tables(Scope::Action) => {
            let kinds = [Scope::Queue, Scope::Webhook, Scope::Indicator, Scope::Case, Scope::TriggerExport];
            let kind = |(scope, name): (Scope, &str)| {
                let mut object = object(&[Scope::Action, scope]);
                object["properties"]["kind"] = json!({"const": name});
                Value::Object(object)
            };
            let kinds: Vec<Value> = kinds.into_iter().zip(super::keys::ACTION_KINDS).map(kind).collect();
            json!({"type": "array", "minItems": 1, "items": {"oneOf": kinds}})
        }
        Shape::Tables(scope) => json!({"type": "array", "items": object(&[scope])}),
    };
    property["description"] = key.help.into();
    match (key.shape, key.default) {
        (_, "") => {}
        (Shape::Flag, default) => property["default"] = (default == "true").into(),
        (Shape::Whole { .. }, default) => property["default"] = default.parse::<i64>().map_or(Value::Null, Value::from),
        (_, default) => property["default"] = default.into(),
    }
    property
}
