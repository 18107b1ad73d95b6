//! Indicator Relay: threat indicators from ThreatConnect to Microsoft Sentinel and Microsoft Defender.
//!
//! The modules in reading order; a module names only those above it (`ARCHITECTURE.md` holds the map, a test holds the rule).

pub mod actions;
pub mod app;
pub mod cli;
pub mod dispatch;
pub mod export;
pub mod functions;
pub mod graph;
pub mod indicator;
pub mod notifications;
pub mod platform;
pub mod playbooks;
pub mod polling;
pub mod settings;
pub mod sinks;
pub mod standalone;
pub mod storage;
pub mod subscriptions;
pub mod telemetry;
pub mod threatconnect;
