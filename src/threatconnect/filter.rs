//! The guide's seven filters, and its custom query, as one TQL expression.

use jiff::Timestamp;

use crate::indicator::{Confidence, Kind, ThreatAssessScore, ThreatRating};

/// What a job wants from ThreatConnect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Empty: all that the API user sees.
    pub owners: Vec<String>,
    /// Empty: all ten.
    pub kinds: Vec<Kind>,
    /// At least one of them.
    pub tags: Vec<String>,
    pub minimum_score: Option<ThreatAssessScore>,
    pub minimum_confidence: Option<Confidence>,
    pub minimum_rating: Option<ThreatRating>,
    /// 0 is meaningful.
    pub false_positive_threshold: Option<u64>,
    /// Replaces all of the above.
    pub tql: Option<String>,
}

/// One of the guide's filters.
#[derive(Debug)]
pub struct FilterRow {
    pub guide_name: &'static str,
    /// The setting that holds it.
    pub key: &'static str,
    /// Its clause; none when it is not used. A minimum of 0 is not used: a comparison with an unset value is false,
    /// so it would drop what has no value at all.
    pub clause: fn(&Filter) -> Option<String>,
}

/// In the guide's order, which is the order of the clauses.
pub static FILTERS: [FilterRow; 7] = [
    FilterRow { guide_name: "Owners", key: "OWNERS", clause: |f| in_list("ownerName", &f.owners) },
    FilterRow { guide_name: "Indicator Types", key: "INDICATOR_TYPES", clause: |f| in_list("typeName", &type_names(&f.kinds)) },
    FilterRow {
        guide_name: "Tags Filter",
        key: "TAGS_FILTER",
        clause: |f| in_list("name", &f.tags).map(|list| format!("hasTag({list})")),
    },
    FilterRow {
        guide_name: "Minimum ThreatAssess Score",
        key: "MINIMUM_THREATASSESS_SCORE",
        clause: |f| at_least("threatAssessScore", f.minimum_score.map(ThreatAssessScore::value).filter(|v| *v > 0)),
    },
    FilterRow {
        guide_name: "Minimum Confidence Rating",
        key: "MINIMUM_CONFIDENCE_RATING",
        clause: |f| at_least("confidence", f.minimum_confidence.map(Confidence::value).filter(|v| *v > 0)),
    },
    FilterRow {
        guide_name: "Minimum Threat Rating",
        key: "MINIMUM_THREAT_RATING",
        clause: |f| at_least("rating", f.minimum_rating.filter(|v| v.hundredths() > 0)),
    },
    FilterRow {
        guide_name: "False Positive Threshold",
        key: "FALSE_POSITIVE_THRESHOLD",
        clause: |f| f.false_positive_threshold.map(|n| format!("falsePositiveCount <= {n}")),
    },
];

impl Filter {
    /// The whole expression, without the clause of the place.
    #[must_use]
    pub fn tql(&self, since: Option<Timestamp>) -> String {
        let mut clauses = Vec::new();
        if let Some(own) = &self.tql {
            clauses.push(format!("({own})"));
        } else {
            // Restates the server's default, so that the query says what is read.
            clauses.push("indicatorActive = true".to_owned());
            clauses.extend(FILTERS.iter().filter_map(|row| (row.clause)(self)));
        }
        if let Some(since) = since {
            clauses.push(format!("lastModified > \"{}\"", since.strftime("%Y-%m-%dT%H:%M:%SZ")));
        }
        clauses.join(" and ")
    }
}

/// The types to ask for: the selected ones, else all that can be exported, so that no other is fetched.
fn type_names(kinds: &[Kind]) -> Vec<String> {
    let kinds = if kinds.is_empty() { &Kind::ALL[..] } else { kinds };
    let mut names: Vec<String> = Vec::new();
    for kind in Kind::ALL.iter().filter(|kind| kinds.contains(kind)) {
        if !names.iter().any(|name| name == kind.type_name()) {
            names.push(kind.type_name().to_owned());
        }
    }
    names
}

fn in_list(keyword: &str, values: &[String]) -> Option<String> {
    let list: Vec<String> = values.iter().map(|value| quote(value)).collect();
    (!list.is_empty()).then(|| format!("{keyword} in ({})", list.join(", ")))
}

fn at_least(keyword: &str, minimum: Option<impl std::fmt::Display>) -> Option<String> {
    minimum.map(|minimum| format!("{keyword} >= {minimum}"))
}

/// A TQL string: four characters take a backslash (`[DD rest_api/v3/filter_results.rst]` in the vendor's documents).
pub(crate) fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        if matches!(c, '\'' | '"' | '`' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_filters_together_read_as_the_vendors_template() {
        let filter = Filter {
            owners: vec!["Acme Org".to_owned(), "Acme \"Red\" Source".to_owned()],
            kinds: Vec::new(),
            tags: vec!["APT29".to_owned(), "Ransomware".to_owned()],
            minimum_score: ThreatAssessScore::new(500),
            minimum_confidence: Confidence::new(60),
            minimum_rating: ThreatRating::from_hundredths(300),
            false_positive_threshold: Some(0),
            tql: None,
        };
        let since = "2023-11-21T10:11:12.5Z".parse().expect("a time");
        assert_eq!(
            filter.tql(Some(since)),
            "indicatorActive = true and ownerName in (\"Acme Org\", \"Acme \\\"Red\\\" Source\") and typeName in (\"Address\", \"CIDR\", \"EmailAddress\", \"Email Subject\", \"File\", \"Host\", \"URL\", \"User Agent\") and hasTag(name in (\"APT29\", \"Ransomware\")) and threatAssessScore >= 500 and confidence >= 60 and rating >= 3 and falsePositiveCount <= 0 and lastModified > \"2023-11-21T10:11:12Z\""
        );
    }

    #[test]
    fn a_minimum_of_zero_is_no_clause_but_a_threshold_of_zero_is() {
        let filter = Filter {
            kinds: vec![Kind::Sha256, Kind::Md5],
            minimum_score: ThreatAssessScore::new(0),
            false_positive_threshold: Some(0),
            ..Filter::default()
        };
        assert_eq!(filter.tql(None), "indicatorActive = true and typeName in (\"File\") and falsePositiveCount <= 0");
    }

    #[test]
    fn a_custom_query_replaces_the_filters_and_keeps_its_or() {
        let filter = Filter {
            owners: vec!["ignored".to_owned()],
            tql: Some("rating > 3 or indicatorActive = false".to_owned()),
            ..Filter::default()
        };
        let since = "2023-11-21T10:11:12Z".parse().expect("a time");
        assert_eq!(
            filter.tql(Some(since)),
            "(rating > 3 or indicatorActive = false) and lastModified > \"2023-11-21T10:11:12Z\""
        );
    }

    /// As a server reads it.
    fn unquote(text: &str) -> String {
        let mut inner = text[1..text.len() - 1].chars();
        let mut value = String::new();
        while let Some(c) = inner.next() {
            value.push(if c == '\\' { inner.next().expect("something is escaped") } else { c });
        }
        value
    }

    proptest! {
        #[test]
        fn quoting_loses_nothing(value in ".*") {
            prop_assert_eq!(unquote(&quote(&value)), value);
        }
    }
}
