//! The product from outside, over real HTTP against the emulator. Nothing sleeps: the clock is set.
#![expect(clippy::panic, reason = "a test that cannot go on says why")]

mod actions;
mod azure;
mod azurite;
mod cap;
mod collector;
mod crash;
mod defender;
mod dispatch;
mod documents;
mod faults;
mod functions;
mod graph;
mod groups;
mod handler;
mod histories;
mod hosted;
mod model;
mod notifications;
mod playbooks;
mod playbooks_program;
mod polling;
mod program;
mod queues;
mod rich;
mod rig;
mod schedule;
mod serve;
mod storage;
mod stories;
mod subscriptions;
mod targets;
mod telemetry;
mod tidy;
mod vault;
mod worker;
