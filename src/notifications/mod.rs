//! Change notifications: what Microsoft Graph can tell of, and each notification in one shape.
//!
//! Does no I/O but in `keys`: what comes in is parsed and judged here, what goes out is data.

pub mod client_state;
pub mod handshake;
pub mod item;
pub mod keys;
pub mod profile;
pub mod receipt;
pub mod resources;
pub mod rich;
pub mod wanted;
mod wire;
