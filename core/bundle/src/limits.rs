//! How large the parts of a bundle may be.

/// The largest bundle, in bytes over all blobs.
pub const BUNDLE_BYTES_MAX: u64 = 128 << 20;
/// The most blobs of a bundle, the OCI manifest among them.
pub const BLOBS_MAX: usize = 64;
/// The most chunks of a bundle, so that its chunk index fits into one message.
pub const CHUNKS_MAX: usize = 2_800;
/// The largest encoded chunk index.
pub const CHUNK_INDEX_BYTES_MAX: usize = 104 << 10;
/// The largest chunk before compression.
pub const CHUNK_BYTES_MAX: usize = 96 << 10;
/// The most that a patch's source, the old blobs that it starts from, may have in bytes.
pub const PATCH_SOURCE_BYTES_MAX: u64 = 16 << 20;
/// The most that a patch may expand to, in bytes.
pub const PATCH_CONTENT_BYTES_MAX: u64 = 16 << 20;
/// The largest patch.
pub const PATCH_BYTES_MAX: u64 = 8 << 20;
/// The largest encoded index of a patch.
pub const PATCH_INDEX_BYTES_MAX: usize = 4 << 10;
/// The most memory that applying a patch takes, beyond zstd's own of less than 1 MiB.
pub const PATCH_MEMORY_BYTES_MAX: u64 = PATCH_SOURCE_BYTES_MAX + 2 * PATCH_CONTENT_BYTES_MAX;
/// The largest `index.json` and `oci-layout`.
pub const INDEX_BYTES_MAX: u64 = 64 << 10;
/// The largest OCI manifest.
pub const OCI_MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// The largest bundle manifest.
pub const MANIFEST_BYTES_MAX: u64 = 256 << 10;
/// The largest baseline.
pub const BASELINE_BYTES_MAX: u64 = 256 << 10;
/// The largest site baseline, before it is compressed: it travels in one message.
pub const SITE_BASELINE_BYTES_MAX: usize = CHUNK_BYTES_MAX;
/// The fewest windows of each stream that make a site baseline. It is calibrated from more on:
/// [`Calibration::WINDOWS_MIN`](selvedge_sketch::Calibration::WINDOWS_MIN).
pub const SITE_WINDOWS_MIN: usize = 8;
/// The largest golden vectors of one tensor.
pub const GOLDEN_BYTES_MAX: u64 = 8 << 20;
/// The largest model card.
pub const CARD_BYTES_MAX: u64 = 1 << 20;
/// The most rows of golden vectors.
pub const GOLDEN_ROWS_MAX: usize = 1_024;
/// The most features of a baseline.
pub const FEATURES_MAX: usize = 64;
/// The most sizes of windows that an embedding has thresholds for, each twice the one before.
pub const CALIBRATION_SIZES_MAX: usize = 8;
/// The fewest sessions that thresholds of an embedding come from; as many more are its reference.
pub const CALIBRATION_SOURCES_MIN: usize = 4;
/// The most columns of a row sample.
pub const COLUMNS_MAX: usize = 1_024;
/// The most elements of one sample, and of one tensor for one sample.
pub const SAMPLE_ELEMENTS_MAX: u64 = 1 << 24;
/// The most labels.
pub const LABELS_MAX: usize = 1_024;
/// The most input tensors, and the most output tensors.
pub const TENSORS_MAX: usize = 16;
/// The most pre- and post-processing steps, each.
pub const STEPS_MAX: usize = 16;
/// The longest text in a manifest, in bytes.
pub const TEXT_BYTES_MAX: usize = 1_024;
/// The longest name of a tensor, column, label, axis or unit, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;

/// What a process that runs a bundle's trial may take beyond what the model states: the program, its
/// stacks and its heap's reserve, in bytes of address space.
pub const TRIAL_MEMORY_BASE_BYTES: u64 = 256 << 20;
/// The longest trial, in seconds.
pub const TRIAL_S_MAX: u32 = 600;
/// The longest probation, in seconds: a week.
pub const PROBATION_S_MAX: u32 = 7 * 24 * 60 * 60;
/// The most inferences of a probation.
pub const PROBATION_INFERENCES_MAX: u64 = 10_000_000;
/// The most crashes that a probation may bear.
pub const PROBATION_CRASHES_MAX: u32 = 100;
/// The largest ratio of latencies that a probation may bear.
pub const LATENCY_RATIO_MAX: f64 = 1_000.0;
/// The fewest answers of each bundle between which a shift of classes is judged.
pub const CLASS_SHIFT_ANSWERS_MIN: u64 = 50;

/// What a caller accepts; a device may accept less than the format allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest bundle, in bytes over all blobs. Default: [`BUNDLE_BYTES_MAX`].
    pub bundle_bytes_max: u64,
    /// The largest model, in bytes. Default: [`BUNDLE_BYTES_MAX`].
    pub model_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bundle_bytes_max: BUNDLE_BYTES_MAX, model_bytes_max: BUNDLE_BYTES_MAX }
    }
}
