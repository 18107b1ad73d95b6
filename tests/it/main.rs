//! The product from outside, over real HTTP against the emulator. Nothing sleeps: the clock is set.
#![expect(clippy::disallowed_methods, reason = "tests build clients and read what they are started with")]

mod crash;
mod faults;
mod model;
mod rig;
mod stories;
