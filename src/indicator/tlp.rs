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
    /// The level that a ThreatConnect security label names; none for other labels. One page writes `TLP: RED`: blanks do not count.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        let name: String = label.chars().filter(|c| !c.is_whitespace()).collect();
        match name.to_ascii_uppercase().as_str() {
            "TLP:RED" => Some(Self::Red),
            "TLP:AMBER+STRICT" => Some(Self::AmberStrict),
            "TLP:AMBER" => Some(Self::Amber),
            "TLP:GREEN" => Some(Self::Green),
            "TLP:CLEAR" | "TLP:WHITE" => Some(Self::White),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_in_any_case_and_the_stricter_one_is_higher() {
        assert_eq!(Tlp::from_label("tlp: amber+strict"), Some(Tlp::AmberStrict));
        assert_eq!(Tlp::from_label("TLP:CLEAR"), Some(Tlp::White));
        assert_eq!(Tlp::from_label("Internal Only"), None);
        assert!(Tlp::Red > Tlp::AmberStrict && Tlp::AmberStrict > Tlp::Amber && Tlp::Green > Tlp::White);
    }
}
