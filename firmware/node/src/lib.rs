//! A sensor node: reads, counts and reports, over embedded-hal traits.
