//! What can go wrong with a model and its samples, sorted by who is to blame.

use std::error::Error as StdError;

/// Who has to act on an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller gave a sample that the model does not take.
    Sample,
    /// Whoever made the bundle: model, manifest and golden vectors do not fit each other or this runtime.
    Bundle,
    /// A named limit was reached.
    Limit,
    /// The inference engine failed on something that loading had accepted.
    Engine,
}

/// Why a model was refused, or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A sample of another kind or shape than the manifest's.
    #[error("the sample is {found}, the model takes {expected}")]
    SampleShape {
        /// What the manifest asks for.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A value that is not a finite number.
    #[error(
        "the sample's value in column {column:?} is {value}; every value must be a finite number"
    )]
    SampleValue {
        /// The column's name.
        column: String,
        /// The value as given.
        value: f32,
    },

    /// Nothing to compute from.
    #[error("no sample was given, and {what} needs at least one")]
    NoSamples {
        /// What was asked for.
        what: &'static str,
    },

    /// The file is not an ONNX model.
    #[error("not a usable ONNX file: {detail}")]
    Malformed {
        /// What was found.
        detail: String,
    },
    /// Weights in another file.
    #[error(
        "the weight {tensor:?} is stored outside of the ONNX file; save the model as one file (onnx.save with save_as_external_data=False)"
    )]
    ExternalWeights {
        /// The name of the initialiser.
        tensor: String,
    },
    /// Operators that the engine does not have.
    #[error("operators that this runtime does not have: {}", .operators.join(", "))]
    Unsupported {
        /// Their names, with the domain where it is not the default one.
        operators: Vec<String>,
    },
    /// A structure that the engine computes wrongly.
    #[error(
        "a softmax between DequantizeLinear and QuantizeLinear is computed wrongly by tract 0.23.9: {}; leave the softmax out of the quantised graph and ask for it in the manifest: [[post]] op = \"softmax\"", .nodes.join(" → ")
    )]
    QuantisedSoftmax {
        /// The nodes of the chain.
        nodes: Vec<String>,
    },
    /// A tensor of the manifest that the model does not have, or the reverse.
    #[error("the manifest's {side} are {manifest}, the model's are {model}")]
    TensorNames {
        /// `inputs` or `outputs`.
        side: &'static str,
        /// Names in the manifest.
        manifest: String,
        /// Names in the model.
        model: String,
    },
    /// A tensor whose shape or type differs between manifest and model.
    #[error("{side} {name:?} is {manifest} in the manifest and {model} in the model")]
    Tensor {
        /// `input` or `output`.
        side: &'static str,
        /// The tensor's name.
        name: String,
        /// Type and shape in the manifest.
        manifest: String,
        /// Type and shape in the model.
        model: String,
    },
    /// A tensor that a manifest cannot describe.
    #[error("tensor {name:?} cannot be described: {detail}; export the model with other shapes")]
    Undescribed {
        /// The tensor's name.
        name: String,
        /// What is missing.
        detail: String,
    },
    /// Golden vectors that do not fit the manifest.
    #[error("golden vectors do not fit the manifest")]
    GoldenTensors {
        /// Which tensor, and how it differs.
        source: selvedge_bundle::Error,
    },
    /// The model does not reproduce its golden vectors.
    #[error(
        "golden vectors: output {output:?} of sample {sample}, element {element}, is {found} instead of {expected}: off by {difference}, tolerance {tolerance}"
    )]
    Golden {
        /// The output's name.
        output: String,
        /// Which golden sample, from 0.
        sample: usize,
        /// Which element of the sample's output, from 0.
        element: usize,
        /// The value in the bundle.
        expected: f64,
        /// The value that the model gave here.
        found: f64,
        /// Their distance.
        difference: f64,
        /// The distance that the manifest allows.
        tolerance: f64,
    },
    /// A program that does not stand the check.
    #[error("the integer program is refused: {source}")]
    Program {
        /// The rule that it breaks.
        source: selvedge_engine::ProgramError,
    },
    /// A program for another model.
    #[error("the integer program has another {side} than {name:?} of the manifest")]
    ProgramPort {
        /// `input` or `output`.
        side: &'static str,
        /// The tensor's name.
        name: String,
    },
    /// The engine refused to build the model.
    #[error("the model cannot be built: {stage}")]
    Build {
        /// What the engine was doing.
        stage: &'static str,
        /// The engine's own words.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },

    /// More than a named limit.
    #[error("{what}: {found}, and the limit is {max}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// What was met.
        found: usize,
        /// The limit.
        max: usize,
    },

    /// The engine failed while it ran.
    #[error("the model failed to run")]
    Run {
        /// The engine's own words.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The engine panicked.
    #[error("the inference engine panicked while {stage}: {detail}")]
    Panic {
        /// What the engine was doing.
        stage: &'static str,
        /// The panic's message.
        detail: String,
    },
    /// An output that is not a number.
    #[error("output {output:?} is not a number")]
    OutputNotANumber {
        /// The output's name.
        output: String,
    },
}

impl Error {
    /// Who has to act.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::SampleShape { .. } | Error::SampleValue { .. } | Error::NoSamples { .. } => {
                ErrorKind::Sample
            }
            Error::Limit { .. } => ErrorKind::Limit,
            Error::Run { .. } | Error::Panic { .. } | Error::OutputNotANumber { .. } => {
                ErrorKind::Engine
            }
            _ => ErrorKind::Bundle,
        }
    }

    pub(crate) fn check_limit(what: &'static str, found: usize, max: usize) -> Result<(), Error> {
        if found > max { Err(Error::Limit { what, found, max }) } else { Ok(()) }
    }
}
