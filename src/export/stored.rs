//! How values lie in stored rows: short, and only ever added to.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::indicator::{Confidence, ObservableKey, ThreatAssessScore, ThreatRating, Weight};
use crate::sinks::ContentHash;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(super) fn is_zero(value: &u8) -> bool {
    *value == 0
}

/// Weights as short arrays: `[score, hundredths of the rating, confidence, Unix seconds]`.
pub(super) mod weight {
    use super::{Confidence, Deserialize, Deserializer, Serialize, Serializer, ThreatAssessScore, ThreatRating, Weight};

    type Stored = (Option<u16>, Option<u16>, Option<u8>, i64);

    pub(crate) fn serialize<S: Serializer>(weight: &Weight, to: S) -> Result<S::Ok, S::Error> {
        let stored: Stored = (
            weight.score.map(ThreatAssessScore::value),
            weight.rating.map(ThreatRating::hundredths),
            weight.confidence.map(Confidence::value),
            weight.last_modified,
        );
        stored.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Weight, D::Error> {
        let (score, rating, confidence, last_modified) = Stored::deserialize(from)?;
        Ok(Weight {
            score: score.and_then(|v| ThreatAssessScore::new(v.into())),
            rating: rating.and_then(ThreatRating::from_hundredths),
            confidence: confidence.and_then(|v| Confidence::new(v.into())),
            last_modified,
        })
    }
}

/// Keys as in the keys of rows.
pub(super) mod key {
    use std::cmp::Reverse;

    use super::{Deserialize, Deserializer, ObservableKey, Serializer};

    pub(crate) fn serialize<S: Serializer>(key: &Reverse<ObservableKey>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&key.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Reverse<ObservableKey>, D::Error> {
        let text = String::deserialize(from)?;
        ObservableKey::parse(&text).map(Reverse).ok_or_else(|| serde::de::Error::custom("no key of an observable"))
    }
}

/// Hashes as base64url.
pub(super) mod hash {
    use base64::Engine as _;

    use super::{ContentHash, Deserialize, Deserializer, Serializer, URL_SAFE_NO_PAD};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(hash: &Option<ContentHash>, to: S) -> Result<S::Ok, S::Error> {
        match hash {
            Some(ContentHash(bytes)) => to.serialize_str(&URL_SAFE_NO_PAD.encode(bytes)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ContentHash>, D::Error> {
        let text = Option::<&str>::deserialize(from)?;
        Ok(text.and_then(|t| URL_SAFE_NO_PAD.decode(t).ok()).and_then(|b| b.try_into().ok()).map(ContentHash))
    }
}

/// Times as Unix milliseconds, the precision that is sent.
pub(super) mod time {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(time.as_millisecond())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        Timestamp::from_millisecond(i64::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}
