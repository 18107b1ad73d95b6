//! How near one key is to another, so that a misspelt setting is named instead of ignored.

/// The known key that `key` was probably meant to be.
pub(super) fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let key = key.to_ascii_uppercase();
    known
        .filter(|known| known.len().abs_diff(key.len()) <= tolerated(known))
        .map(|known| (known, distance(key.as_bytes(), known.to_ascii_uppercase().as_bytes())))
        .filter(|(known, distance)| *distance <= tolerated(known))
        .min_by_key(|(_, distance)| *distance)
        .map(|(known, _)| known)
}

/// Short names are near to too many others: none, one or two letters may differ.
fn tolerated(known: &str) -> usize {
    match known.len() {
        ..6 => 0,
        6..10 => 1,
        _ => 2,
    }
}

/// Letters added, dropped, changed, or swapped with their neighbour.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut fewest = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                let swapped: &Vec<usize> = &before;
                fewest = fewest.min(swapped[j - 1] + 1);
            }
            row.push(fewest);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["TQL", "OWNERS", "NEVER_SEND", "TAGS_FILTER"];

    #[test]
    fn a_misspelt_key_is_found_and_a_strange_one_is_not() {
        let near = |key| nearest(key, KNOWN.into_iter());
        assert_eq!(near("OWNRS"), Some("OWNERS"));
        assert_eq!(near("NEVER_SNED"), Some("NEVER_SEND"));
        assert_eq!(near("never_send"), Some("NEVER_SEND"));
        assert_eq!(near("TAG_FILTERS"), Some("TAGS_FILTER"));
        assert_eq!(near("SQL"), None);
        assert_eq!(near("PATH"), None);
        assert_eq!(near(""), None);
    }
}
