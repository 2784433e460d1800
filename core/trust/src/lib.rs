//! Who may say what a device runs: signed documents over ring.
