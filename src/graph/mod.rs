//! Microsoft Graph beyond the indicators: what its notifications are proven by, and its subscriptions.

pub mod keys;
