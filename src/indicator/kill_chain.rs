//! "Phase of Intrusion".

/// The seven phases, in the order of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KillChainPhase {
    Reconnaissance,
    Weaponization,
    Delivery,
    Exploitation,
    Installation,
    C2,
    Actions,
}

/// Spellings of the attribute's values, in lower case. The list of values belongs to each ThreatConnect instance;
/// these are the stock ones and their near variants.
const SPELLINGS: [(&str, KillChainPhase); 12] = [
    ("reconnaissance", KillChainPhase::Reconnaissance),
    ("weaponization", KillChainPhase::Weaponization),
    ("delivery", KillChainPhase::Delivery),
    ("exploitation", KillChainPhase::Exploitation),
    ("installation", KillChainPhase::Installation),
    ("c2", KillChainPhase::C2),
    ("command and control", KillChainPhase::C2),
    ("command & control", KillChainPhase::C2),
    ("actions on objectives", KillChainPhase::Actions),
    ("actions on objective", KillChainPhase::Actions),
    ("action on objectives", KillChainPhase::Actions),
    ("actions", KillChainPhase::Actions),
];

impl KillChainPhase {
    /// The phase that a value of the attribute "Phase of Intrusion" names.
    #[must_use]
    pub fn from_attribute(value: &str) -> Option<Self> {
        let value = value.trim();
        SPELLINGS.iter().find(|(spelling, _)| spelling.eq_ignore_ascii_case(value)).map(|(_, phase)| *phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_values_are_read() {
        assert_eq!(KillChainPhase::from_attribute(" Command and Control "), Some(KillChainPhase::C2));
        assert_eq!(KillChainPhase::from_attribute("ACTIONS ON OBJECTIVES"), Some(KillChainPhase::Actions));
        assert_eq!(KillChainPhase::from_attribute("Lateral movement"), None);
    }
}
