//! The documents of the OCI image specification (1.1) that a bundle uses.
//!
//! The media types of layers and the annotation that names a layer's file are those of the CNCF
//! ModelPack specification. Its config has a closed schema without tensors, pre- and post-processing,
//! so the config here is the bundle's own manifest, with media and artifact types of our own.

use std::collections::BTreeMap;

use selvedge_wire::Digest;
use serde::{Deserialize, Serialize};

/// The file that marks an image layout.
pub(crate) const OCI_LAYOUT_FILE: &str = "oci-layout";
/// The file that names the OCI manifest.
pub(crate) const INDEX_FILE: &str = "index.json";
/// The version of the image layout.
pub(crate) const OCI_LAYOUT_VERSION: &str = "1.0.0";

pub(crate) const MEDIA_TYPE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MEDIA_TYPE_OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const MEDIA_TYPE_CONFIG: &str = "application/vnd.selvedge.manifest.v1+json";
pub(crate) const ARTIFACT_TYPE: &str = "application/vnd.selvedge.bundle.v1+json";
pub(crate) const MEDIA_TYPE_WEIGHT: &str = "application/vnd.cncf.model.weight.v1.raw";
pub(crate) const MEDIA_TYPE_WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";
pub(crate) const MEDIA_TYPE_DATASET: &str = "application/vnd.cncf.model.dataset.v1.raw";
pub(crate) const MEDIA_TYPE_DOC: &str = "application/vnd.cncf.model.doc.v1.raw";

const ANNOTATION_FILEPATH: &str = "org.cncf.model.filepath";
/// What `oras pull` names a file by.
const ANNOTATION_TITLE: &str = "org.opencontainers.image.title";
const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// A layout holds one bundle; tools that ask for a tag find it under this one.
const REFERENCE: &str = "latest";

/// `oci-layout`
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OciLayout {
    pub image_layout_version: String,
}

/// `index.json`. It lies outside of the bundle's digest and other tools rewrite it, so what is not
/// needed is not looked at.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub manifests: Vec<IndexEntry>,
}

/// A descriptor in `index.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexEntry {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    pub(crate) fn of(digest: Digest, size: u64) -> Self {
        let annotations = BTreeMap::from([(ANNOTATION_REF_NAME.to_owned(), REFERENCE.to_owned())]);
        let media_type = MEDIA_TYPE_OCI_MANIFEST.to_owned();
        Self {
            schema_version: 2,
            media_type: MEDIA_TYPE_INDEX.to_owned(),
            manifests: vec![IndexEntry { media_type, digest, size, annotations }],
        }
    }
}

/// The OCI manifest: the digest of its bytes is the bundle's identity.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OciManifest {
    pub schema_version: u32,
    pub media_type: String,
    pub artifact_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// A descriptor in the OCI manifest.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The descriptor of a layer that is the file `title`.
    pub(crate) fn layer(media_type: &str, digest: Digest, size: u64, title: &str) -> Self {
        let titled = |key: &str| (key.to_owned(), title.to_owned());
        let annotations = [ANNOTATION_FILEPATH, ANNOTATION_TITLE].map(titled).into();
        Self { media_type: media_type.to_owned(), digest, size, annotations }
    }

    /// The file that the layer is.
    pub(crate) fn title(&self) -> Option<&str> {
        self.annotations.get(ANNOTATION_FILEPATH).map(String::as_str)
    }
}
