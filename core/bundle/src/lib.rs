//! The deployable unit: an OCI image layout with a manifest, and how it is cut into chunks.
//!
//! A [`Bundle`] that could be opened is whole: every blob has the length and the digest that its
//! descriptor says, nothing is unlisted, and the golden vectors fit the manifest. Whether it is
//! *authentic* is the trust crate's business, whether it *runs* is the runtime's.
//!
//! Vocabulary (OCI image specification): a *blob* is a file named by its digest; a *descriptor* names
//! a blob with its media type and length; the *OCI manifest* lists the descriptors, and its digest is
//! the bundle's identity; the *config* is the blob that holds the [`Manifest`]; a *layer* is any other.

#![forbid(unsafe_code)]

mod baseline;
mod chunk;
mod cut;
mod digest;
mod drift;
mod edges;
mod embedding;
mod error;
#[cfg(test)]
mod example;
mod files;
mod golden;
mod layout;
mod limits;
mod manifest;
pub mod multivariate;
mod npy;
mod oci;
#[cfg(any(test, feature = "signing"))]
pub mod oms;
mod onnx;
mod patch;
mod site;
mod tensor;

pub use baseline::{
    Accuracy, Baseline, BaselineClasses, BaselineConfidence, BaselineFeature, ReferenceAnswer,
    ReferenceCounts, ReferenceData, Stream,
};
pub use chunk::{BlobChunks, ChunkIndex, ChunkRef, chunks_of, compress, expand, expand_named};
pub use digest::digest_of;
pub use drift::{Basis, DriftMonitor, DriftReport, StreamReport};
pub use edges::frozen_bins;
pub use embedding::{
    BaselineEmbedding, CodeScale, EmbeddingCalibration, EmbeddingCounter, EmbeddingMoments,
    ProjectionSpec, ReferenceEmbedding,
};
pub use error::{Error, ErrorKind};
pub use golden::{Golden, golden_path};
pub use layout::{BASELINE_FILE, Bundle, BundleBuilder, CARD_FILE, MODEL_FILE, PROGRAM_FILE};
pub use limits::{
    BASELINE_BYTES_MAX, BLOBS_MAX, BUNDLE_BYTES_MAX, CALIBRATION_SOURCES_MIN, CARD_BYTES_MAX,
    CHUNK_BYTES_MAX, CHUNK_INDEX_BYTES_MAX, CHUNKS_MAX, CLASS_SHIFT_ANSWERS_MIN, FEATURES_MAX,
    GOLDEN_BYTES_MAX, GOLDEN_ROWS_MAX, INDEX_BYTES_MAX, LABELS_MAX, LATENCY_RATIO_MAX, Limits,
    MANIFEST_BYTES_MAX, OCI_MANIFEST_BYTES_MAX, PATCH_BYTES_MAX, PATCH_CONTENT_BYTES_MAX,
    PATCH_INDEX_BYTES_MAX, PATCH_MEMORY_BYTES_MAX, PATCH_SOURCE_BYTES_MAX, PROBATION_CRASHES_MAX,
    PROBATION_INFERENCES_MAX, PROBATION_S_MAX, SITE_BASELINE_BYTES_MAX, SITE_WINDOWS_MIN,
    TRIAL_MEMORY_BASE_BYTES, TRIAL_S_MAX,
};
pub use manifest::{
    BundleName, Column, DriftPolicy, Extent, GoldenOrigin, GoldenSpec, IMAGE_FEATURES, ImageAxis,
    ImageSpec, Manifest, ManifestDraft, ManifestError, Order, PostStep, PreStep, Provenance,
    Reference, ResizeFilter, Resources, RowSpec, SampleSpec, TensorSpec, UpdatePolicy,
};
pub use npy::{npy_header, read_npy, write_npy};
pub use patch::{Patch, PatchCodec, PatchIndex, apply_patch};
pub use site::{SiteBaseline, SiteRecord, SiteStream};
pub use tensor::{DType, NamedTensor, TensorData};
