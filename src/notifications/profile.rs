//! What is answered to a delivery that is kept: the guide's Response Code, Header and Body, under a name in the address.
//!
//! Apart because playbooks name profiles and the receipt answers with them. An answer says nothing of what becomes of the
//! items: any code from 200 to 299 tells Microsoft Graph that they are ours now.

use crate::platform::header;

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// 200 to 299.
    pub code: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// Microsoft Graph recommends it for what is stored and worked off later.
impl Default for Profile {
    fn default() -> Self {
        Self { code: 202, headers: Vec::new(), body: String::new() }
    }
}

impl Profile {
    /// What is wrong with it, and what to give instead; the first problem, one line.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if !(200..=299).contains(&self.code) {
            return Some(format!(
                "`{}` is no code from 200 to 299: Microsoft Graph takes any other as not delivered, and sends again",
                self.code
            ));
        }
        if matches!(self.code, 204 | 205) && !self.body.is_empty() {
            return Some(format!("an answer with the code {} has no body: leave `body` out, or give 200 or 202", self.code));
        }
        let of_header =
            |(name, value): &(String, String)| header::name_problem(name).or_else(|| header::value_problem(name, value));
        self.headers.iter().find_map(of_header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tells_graph_that_all_is_well_is_let_through() {
        let of = |code, headers: &[(&str, &str)], body: &str| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Profile { code, headers, body: body.to_owned() }.problem()
        };
        assert_eq!(Profile::default().problem(), None);
        assert_eq!(of(201, &[("X-Flow", "a b"), ("Content-Type", "text/plain")], "Accepted"), None);
        for (problem, word) in [
            (of(199, &[], ""), "199"),
            (of(302, &[], ""), "302"),
            (of(500, &[], ""), "500"),
            (of(204, &[], "x"), "no body"),
            (of(200, &[("X-Flow", "x"), ("a b", "x")], ""), "no name"),
            (of(200, &[("X-A", "a\r\nSet-Cookie: b")], ""), "X-A"),
        ] {
            assert!(problem.as_ref().is_some_and(|text| text.contains(word)), "{word}: {problem:?}");
        }
    }
}
