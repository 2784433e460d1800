//! What spans crates: architecture, end to end, golden bytes.

pub mod api;
pub mod binary;
pub mod certificates;
pub mod client;
pub mod interop;
pub mod keys;
pub mod line;
pub mod mosquitto;
pub mod process;
pub mod scene;
pub mod shuttle;
pub mod stage;
pub mod uplink;
