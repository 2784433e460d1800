//! Loads, checks and runs the model of a bundle with tract.
//!
//! A [`Model`] answers samples; that it exists means that its graph is supported and known to be computed rightly,
//! that it fits its manifest, and that it reproduced its golden vectors on this CPU. [`desk`] is for making bundles.
//! The crate opens no file and no socket, starts no thread and asks for no time.

#![forbid(unsafe_code)]

pub mod desk;
mod engine;
mod error;
mod features;
mod golden;
mod graph;
mod integer;
mod limits;
mod lower;
mod math;
mod model;
#[cfg(test)]
mod onnx_builder;
mod plan;
mod post;
mod pre;
mod region;
mod sample;
mod survey;
mod tensors;
#[cfg(test)]
mod tests;

pub use error::{Error, ErrorKind};
pub use features::FeatureReader;
pub use golden::{GoldenDistance, GoldenReport};
pub use graph::{DeclaredTensor, Quantisation};
pub use limits::Limits;
pub use lower::Unlowered;
pub use model::{BATCH_SAMPLES, LoadOptions, Model};
pub use post::{Answer, ClassAnswer};
pub use sample::Sample;
pub use survey::{OperationSurvey, PlanSurvey, ProgramSurvey};
