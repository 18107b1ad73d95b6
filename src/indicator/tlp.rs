//! Traffic Light Protocol levels.

/// Ordered: a higher one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tlp {
    /// `TLP:WHITE` and `TLP:CLEAR`.
    White,
    Green,
    Amber,
    AmberStrict,
    Red,
}

impl Tlp {
    /// The level that a security label of ThreatConnect names; none for custom labels.
    ///
    /// The vendor's own pages write both `TLP:RED` and `TLP: RED`, so case and blanks do not count.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        let compact: String = label.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_uppercase()).collect();
        match compact.strip_prefix("TLP:")? {
            "WHITE" | "CLEAR" => Some(Self::White),
            "GREEN" => Some(Self::Green),
            "AMBER" => Some(Self::Amber),
            "AMBER+STRICT" => Some(Self::AmberStrict),
            "RED" => Some(Self::Red),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_whatever_their_case_and_blanks() {
        assert_eq!(Tlp::from_label("TLP:RED"), Some(Tlp::Red));
        assert_eq!(Tlp::from_label(" tlp: amber + strict"), Some(Tlp::AmberStrict));
        assert_eq!(Tlp::from_label("TLP:CLEAR"), Tlp::from_label("TLP:WHITE"));
    }

    #[test]
    fn custom_labels_are_no_level() {
        for label in ["", "RED", "TLP", "TLP:", "TLP:BLUE", "Approved for release"] {
            assert_eq!(Tlp::from_label(label), None, "{label}");
        }
    }

    #[test]
    fn the_highest_level_is_the_strictest() {
        assert_eq!([Tlp::Green, Tlp::Red, Tlp::AmberStrict].into_iter().max(), Some(Tlp::Red));
    }
}
