//! The desk tool: pack, inspect, run, publish, assign, and the demo.
fn main() {}
