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
    /// From ThreatConnect's decimal, 0 to 5; rounded to hundredths.
    #[must_use]
    pub fn from_f64(value: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 500 after the check of the range")]
        (0.0..=5.0).contains(&value).then(|| Self((value * 100.0).round() as u16))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_round_half_up() {
        let rounded = |value| ThreatRating::from_f64(value).map(ThreatRating::rounded);
        assert_eq!(rounded(0.0), Some(0));
        assert_eq!(rounded(2.49), Some(2));
        assert_eq!(rounded(3.5), Some(4));
        assert_eq!(rounded(5.0), Some(5));
    }

    #[test]
    fn ratings_outside_the_scale_are_none() {
        for value in [-0.01, 5.01, f64::NAN, f64::INFINITY] {
            assert_eq!(ThreatRating::from_f64(value), None, "{value}");
        }
    }
}
