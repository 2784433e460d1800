//! What `footprint` is compared with.

fn main() {}
