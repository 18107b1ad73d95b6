//! What of the developers' tasks tests use as well: how the package for Azure is made.

pub mod package;
