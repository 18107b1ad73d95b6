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

impl KillChainPhase {
    /// The phase that an attribute names, in any case; the spellings that instances are known to use.
    #[must_use]
    pub fn from_attribute(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "reconnaissance" => Some(Self::Reconnaissance),
            "weaponization" => Some(Self::Weaponization),
            "delivery" => Some(Self::Delivery),
            "exploitation" => Some(Self::Exploitation),
            "installation" => Some(Self::Installation),
            "c2" | "command and control" | "command & control" => Some(Self::C2),
            "actions on objectives" | "actions on objective" | "action on objectives" | "actions" => Some(Self::Actions),
            _ => None,
        }
    }

    /// ThreatConnect's name in lower case with hyphens, for the `lockheed-martin-cyber-kill-chain`.
    #[must_use]
    pub fn lockheed_martin(self) -> &'static str {
        match self {
            Self::Reconnaissance => "reconnaissance",
            Self::Weaponization => "weaponization",
            Self::Delivery => "delivery",
            Self::Exploitation => "exploitation",
            Self::Installation => "installation",
            Self::C2 => "c2",
            Self::Actions => "actions-on-objectives",
        }
    }
}
