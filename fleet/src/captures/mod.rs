//! Captured samples for whoever trains with them: as Parquet, as `.npy`, and their ids.
//!
//! An export is made part by part while it is read, in the order in which the samples came. Samples of one bundle
//! and one form go together: a table has the bundle's columns, an array one shape.

mod export;
mod parquet;

pub use export::{Export, ExportFormat};
