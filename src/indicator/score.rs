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
