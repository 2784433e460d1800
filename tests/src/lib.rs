//! What spans crates: architecture, end to end, golden bytes.

pub mod binary;
pub mod certificates;
pub mod mosquitto;
