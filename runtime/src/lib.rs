//! Loads, checks and runs the model of a bundle with tract.
