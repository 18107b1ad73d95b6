//! ThreatConnect's JSON, and how it becomes ours. Lenient: every optional field may be absent, `{}`, or of another type.
