//! Embedded state: one SQLite file.
