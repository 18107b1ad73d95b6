//! Scores that cannot be out of range.

/// ThreatAssess score, 0 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreatAssessScore(u16);

/// Confidence rating, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Confidence(u8);

/// Threat rating, 0 to 5, kept in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreatRating(u16);

impl ThreatAssessScore {
    #[must_use]
    pub fn new(value: u64) -> Option<Self> {
        u16::try_from(value).ok().filter(|v| *v <= 1000).map(Self)
    }
    #[must_use]
    pub fn value(self) -> u16 {
        self.0
    }
}

impl Confidence {
    #[must_use]
    pub fn new(value: u64) -> Option<Self> {
        u8::try_from(value).ok().filter(|v| *v <= 100).map(Self)
    }
    #[must_use]
    pub fn value(self) -> u8 {
        self.0
    }
}

impl ThreatRating {
    /// As ThreatConnect writes it: a decimal from 0 to 5.
    #[must_use]
    pub fn from_f64(value: f64) -> Option<Self> {
        if !(0.0..=5.0).contains(&value) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 500 by the line above")]
        Self::from_hundredths((value * 100.0).round() as u16)
    }

    /// From hundredths, 0 to 500.
    #[must_use]
    pub fn from_hundredths(value: u16) -> Option<Self> {
        (value <= 500).then_some(Self(value))
    }
    #[must_use]
    pub fn hundredths(self) -> u16 {
        self.0
    }
    /// 0 to 5, rounded half up.
    #[must_use]
    pub fn rounded(self) -> u8 {
        u8::try_from((self.0 + 50) / 100).unwrap_or(5)
    }
}

impl std::fmt::Display for ThreatRating {
    /// `4`, `3.5`: without zeros that say nothing.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole}"),
            rest if rest % 10 == 0 => write!(f, "{whole}.{}", rest / 10),
            rest => write!(f, "{whole}.{rest:02}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_keep_their_fraction_and_round_half_up() {
        let rating = |v| ThreatRating::from_f64(v).expect("in range");
        assert_eq!((rating(3.5).rounded(), rating(3.49).rounded(), rating(0.0).rounded()), (4, 3, 0));
        assert_eq!(format!("{} {} {}", rating(4.0), rating(3.5), rating(2.25)), "4 3.5 2.25");
        assert_eq!(ThreatRating::from_f64(5.01), None);
        assert_eq!(ThreatRating::from_f64(f64::NAN), None);
    }
}
