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
