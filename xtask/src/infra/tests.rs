//! Each law notices when it is broken: the committed snapshots, changed in one place.
