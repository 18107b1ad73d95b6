//! Change notifications, what can be read of Microsoft Graph, and ThreatConnect's write side, from outside: real requests, held
//! against the reference.

mod cases;
mod deliveries;
mod receiver;
mod resources;
mod rich;
mod rig;
mod subscriptions;
