//! What every edge stands on: time, HTTP, foreign JSON, pace, identity, secrets. No product words here.

pub mod claims;
pub mod clock;
pub mod header;
pub mod hex;
pub mod http;
pub mod identity;
pub mod json;
mod login;
pub mod pacer;
pub(crate) mod reading;
pub mod schedule;
pub mod secret;
pub mod vault;
