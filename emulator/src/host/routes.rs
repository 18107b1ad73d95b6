//! Which HTTP function a path belongs to.
//!
//! Not imitated: several parameters in one segment, constraints other than int, long, bool, alpha and guid (they allow all).

use std::sync::Arc;

use super::app::{Function, TriggerKind};

/// Route parameters: name, and value if it was in the path.
pub(crate) type Parameters = Vec<(String, Option<String>)>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Parameter { constraint: String, name: String, optional: bool, default: Option<String> },
    Rest { name: String },
}

/// The function for a decoded path, and its parameters; the route that says most wins.
pub(crate) fn find<'a>(
    functions: &'a [Arc<Function>],
    prefix: &str,
    method: &str,
    path: &str,
) -> Option<(&'a Arc<Function>, Parameters)> {
    let fitting = functions.iter().filter_map(|function| {
        let TriggerKind::Http { route, methods, .. } = &function.trigger else { return None };
        let allowed = methods.is_empty() || methods.iter().any(|known| known.eq_ignore_ascii_case(method));
        let segments = parse(&format!("{prefix}/{route}"));
        let parameters = matches(&segments, path)?;
        allowed.then_some((rank(&segments), function, parameters))
    });
    fitting.min_by(|a, b| a.0.cmp(&b.0)).map(|(_, function, parameters)| (function, parameters))
}

fn rank(segments: &[Segment]) -> Vec<u8> {
    let one = |segment: &Segment| match segment {
        Segment::Literal(_) => 0,
        Segment::Parameter { constraint, .. } if !constraint.is_empty() => 1,
        Segment::Parameter { .. } => 2,
        Segment::Rest { .. } => 3,
    };
    segments.iter().map(one).collect()
}

fn parse(template: &str) -> Vec<Segment> {
    template.split('/').filter(|part| !part.is_empty()).map(segment).collect()
}

fn segment(part: &str) -> Segment {
    let Some(inner) = part.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
        return Segment::Literal(part.to_owned());
    };
    if let Some(name) = inner.strip_prefix('*') {
        return Segment::Rest { name: name.trim_start_matches('*').to_owned() };
    }
    let (inner, default) = inner.split_once('=').map_or((inner, None), |(inner, default)| (inner, Some(default.to_owned())));
    let (inner, optional) = inner.strip_suffix('?').map_or((inner, false), |inner| (inner, true));
    let (name, constraint) = inner.split_once(':').unwrap_or((inner, ""));
    Segment::Parameter { name: name.to_owned(), constraint: constraint.trim_end_matches('?').to_owned(), optional, default }
}

fn matches(segments: &[Segment], path: &str) -> Option<Parameters> {
    let mut parts = path.trim_matches('/').split('/').filter(|part| !part.is_empty());
    let mut parameters = Vec::new();
    let mut absent = Vec::new();
    for segment in segments {
        match segment {
            Segment::Literal(literal) => {
                if !parts.next()?.eq_ignore_ascii_case(literal) {
                    return None;
                }
            }
            Segment::Rest { name } => {
                let rest: Vec<&str> = parts.by_ref().collect();
                parameters.push((name.clone(), (!rest.is_empty()).then(|| rest.join("/"))));
            }
            Segment::Parameter { name, constraint, optional, default } => match parts.next() {
                Some(part) if allows(constraint, part) => parameters.push((name.clone(), Some(part.to_owned()))),
                None if default.is_some() => parameters.push((name.clone(), default.clone())),
                None if *optional => absent.push((name.clone(), None)),
                Some(_) | None => return None,
            },
        }
    }
    parameters.extend(absent);
    parts.next().is_none().then_some(parameters)
}

fn allows(constraint: &str, part: &str) -> bool {
    match constraint {
        "int" => part.parse::<i32>().is_ok(),
        "long" => part.parse::<i64>().is_ok(),
        "bool" => part.eq_ignore_ascii_case("true") || part.eq_ignore_ascii_case("false"),
        "alpha" => part.bytes().all(|byte| byte.is_ascii_alphabetic()),
        "guid" => {
            let hex: String = part.chars().filter(|c| !matches!(c, '-' | '{' | '}' | '(' | ')')).collect();
            hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_take_what_the_router_takes() {
        let shown = |template: &str, path: &str| {
            matches(&parse(template), path).map(|found| {
                let one = |(name, value): (String, Option<String>)| format!("{name}={}", value.unwrap_or_else(|| "-".to_owned()));
                found.into_iter().map(one).collect::<Vec<_>>().join(" ")
            })
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(shown("api/items/{id}/{part?}", "/API/Items/42/detail"), is("id=42 part=detail"));
        assert_eq!(shown("api/items/{id}/{part?}", "/api/items/42"), is("id=42 part=-"));
        assert_eq!(shown("api/items/{id:int}", "/api/items/x"), None);
        assert_eq!(shown("api/{*rest}", "/api/a/b"), is("rest=a/b"));
        assert_eq!(shown("api/{kind=all}", "/api"), is("kind=all"));
        assert_eq!(shown("notifications", "/notifications/x"), None);
    }
}
