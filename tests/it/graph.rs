//! Microsoft Graph's tiIndicator, the guide's own way.
