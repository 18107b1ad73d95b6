//! One row per guide field: the STIX property and what writes it, or why not.
