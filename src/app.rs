//! The wired parts, built once.
