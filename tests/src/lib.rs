//! What spans crates: architecture, end to end, golden bytes.
