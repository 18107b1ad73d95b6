//! The known word that a misspelt one was probably meant to be.

/// At most two letters differ, and at most a third of them.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .map(|known| (known, strsim::damerau_levenshtein(&word, &known.to_lowercase())))
        .filter(|(known, distance)| *distance <= 2 && distance * 3 <= known.chars().count())
        .min_by_key(|(_, distance)| *distance)
        .map(|(known, _)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_found_and_a_strange_one_is_not() {
        let near = |word| nearest(word, ["change_types", "when", "url", "queue"].into_iter());
        assert_eq!(near("change_type"), Some("change_types"));
        assert_eq!(near("whom"), None, "two letters of four");
        assert_eq!(near("wehn"), Some("when"));
        assert_eq!(near("uri"), Some("url"));
        assert_eq!(near("topic"), None);
    }
}
