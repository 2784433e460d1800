//! The named limits of loading and running a model. Beyond each of them there is an error, never a slow or huge attempt.

/// What a model and its inputs may cost. The defaults fit gateways with 512 MiB of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the ONNX file.
    pub model_bytes_max: usize,
    /// Nodes of the ONNX graph, subgraphs included.
    pub nodes_max: usize,
    /// Size of any one tensor of the graph, for a batch of one sample.
    pub tensor_bytes_max: usize,
    /// Samples in one call of `answer_batch`.
    pub batch_samples_max: usize,
    /// Samples among the golden vectors.
    pub golden_samples_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            model_bytes_max: 128 << 20,
            nodes_max: 20_000,
            tensor_bytes_max: 64 << 20,
            batch_samples_max: 1024,
            golden_samples_max: 1024,
        }
    }
}
