//! What is sent, kind by kind.
