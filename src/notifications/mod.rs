//! Change notifications: what Microsoft Graph can tell of, and each notification in one shape.
//!
//! Does no I/O: what comes in is parsed and judged here, what goes out is data.

pub mod item;
pub mod resources;
pub mod wanted;
