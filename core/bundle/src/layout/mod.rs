//! Bundles as OCI image layouts: made, written, opened.
//!
//! ```text
//! oci-layout                 marks the folder as an image layout
//! index.json                 names the OCI manifest
//! blobs/sha256/<digest>      the OCI manifest, its config (the manifest) and its layers:
//!     model.onnx             the graph
//!     program.postcard       the graph as an integer program, where there is one
//!     baseline.postcard      the reference distributions, where there are some
//!     golden/<tensor>.npy    inputs and expected outputs
//!     README.md              the model card, where there is one
//! ```
//!
//! Opening reads every file once, bounded, and believes only what it has read: a link is refused, as
//! is a file that nothing refers to. A layer's file name is compared with the names above and is
//! never used as a path.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use selvedge_wire::Digest;

use crate::{
    Baseline, Error, Golden, Limits, Manifest, digest_of, files,
    golden::golden_path,
    limits::*,
    oci::{self, Descriptor, Index, OciLayout, OciManifest},
};

#[cfg(test)]
mod tests;

/// The layer with the graph.
pub const MODEL_FILE: &str = "model.onnx";
/// The layer with the integer program that computes the whole graph.
pub const PROGRAM_FILE: &str = "program.postcard";
/// The layer with the reference distributions.
pub const BASELINE_FILE: &str = "baseline.postcard";
/// The layer with the model card.
pub const CARD_FILE: &str = "README.md";

/// The manifest among the files of [`Bundle::tree`].
const TREE_MANIFEST_FILE: &str = "manifest.json";
/// The folder of the blobs.
pub(crate) const BLOBS_FOLDER: &str = "blobs/sha256";

/// What a bundle is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleBuilder {
    /// The manifest.
    pub manifest: Manifest,
    /// The ONNX file.
    pub model: Vec<u8>,
    /// The integer program that computes the whole graph. Whoever runs it checks it first: here it is bytes.
    pub program: Option<Vec<u8>>,
    /// The reference distributions.
    pub baseline: Option<Baseline>,
    /// The golden vectors, for the tensors of the manifest.
    pub golden: Golden,
    /// The model card, in Markdown.
    pub card: Option<String>,
}

impl BundleBuilder {
    /// The bundle: the same parts always give the same bytes.
    ///
    /// # Errors
    /// Those of [`Bundle::open`]: what could not be opened is not made.
    pub fn build(self) -> Result<Bundle, Error> {
        let mut layers = vec![(oci::MEDIA_TYPE_WEIGHT, MODEL_FILE.to_owned(), self.model)];
        if let Some(program) = self.program {
            layers.push((oci::MEDIA_TYPE_WEIGHT, PROGRAM_FILE.to_owned(), program));
        }
        if let Some(baseline) = &self.baseline {
            let bytes = baseline.encode();
            layers.push((oci::MEDIA_TYPE_WEIGHT_CONFIG, BASELINE_FILE.to_owned(), bytes));
        }
        layers.extend(
            self.golden.files().map(|(path, bytes)| (oci::MEDIA_TYPE_DATASET, path, bytes)),
        );
        if let Some(card) = self.card {
            layers.push((oci::MEDIA_TYPE_DOC, CARD_FILE.to_owned(), card.into_bytes()));
        }

        let config = self.manifest.to_json();
        let mut blobs = BTreeMap::new();
        let mut store = |bytes: Vec<u8>| {
            let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
            blobs.insert(digest, bytes);
            (digest, size)
        };
        let (digest, size) = store(config);
        let media_type = oci::MEDIA_TYPE_CONFIG.to_owned();
        let config = Descriptor { media_type, digest, size, annotations: BTreeMap::new() };
        let layers = layers.into_iter().map(|(media_type, title, bytes)| {
            let (digest, size) = store(bytes);
            Descriptor::layer(media_type, digest, size, &title)
        });
        let oci_manifest = to_json(&OciManifest {
            schema_version: 2,
            media_type: oci::MEDIA_TYPE_OCI_MANIFEST.to_owned(),
            artifact_type: oci::ARTIFACT_TYPE.to_owned(),
            config,
            layers: layers.collect(),
        });
        let digest = digest_of(&oci_manifest);
        let take = |_: &str, blob: &Descriptor| {
            Ok(blobs.remove(&blob.digest).expect("each blob was stored and is read once"))
        };
        assemble(digest, oci_manifest, take, &Limits::default())
    }

    /// Builds the bundle and writes its layout; the digest is the bundle's.
    ///
    /// # Errors
    /// Those of [`BundleBuilder::build`] and [`Bundle::write`].
    pub fn write(self, folder: &Path) -> Result<Digest, Error> {
        let bundle = self.build()?;
        bundle.write(folder)?;
        Ok(bundle.digest())
    }
}

/// A bundle that is whole.
#[derive(Clone, Debug)]
pub struct Bundle {
    digest: Digest,
    oci_manifest: Vec<u8>,
    manifest: Manifest,
    baseline: Option<Baseline>,
    golden: Golden,
    model: Digest,
    program: Option<Digest>,
    card: Option<String>,
    /// Config and layers, in the order of the OCI manifest; the first has no file name.
    order: Vec<(Option<String>, Digest)>,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Bundle {
    /// Reads and checks the layout in `folder`.
    ///
    /// # Errors
    /// [`Error`] names the file or the blob that is missing, malformed, changed, too large, unlisted or
    /// not a regular file.
    pub fn open(folder: &Path, limits: &Limits) -> Result<Self, Error> {
        check_folder(folder)?;
        check_layout_version(folder)?;
        let (digest, size) = read_index(folder)?;
        check_oci_manifest_len(digest, size)?;
        let part = oci_manifest_part(digest);
        let oci_manifest = read_blob(folder, &part, digest, size)?;
        let read = |part: &str, blob: &Descriptor| read_blob(folder, part, blob.digest, blob.size);
        let bundle = assemble(digest, oci_manifest, read, limits)?;
        bundle.check_nothing_unlisted(folder)?;
        Ok(bundle)
    }

    /// Checks blobs that lie elsewhere than in a layout of this crate's: `read` gives the bytes of a
    /// blob, which are believed only if they have its digest.
    ///
    /// # Errors
    /// Those of `read`; those of [`Bundle::open`] that concern blobs.
    pub fn from_blobs(
        digest: Digest,
        mut read: impl FnMut(Digest) -> Result<Vec<u8>, Error>,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let oci_manifest = read(digest)?;
        check_oci_manifest_len(digest, oci_manifest.len() as u64)?;
        assemble(digest, oci_manifest, |_, blob| read(blob.digest), limits)
    }

    /// Writes the layout into a new or empty folder. `index.json` comes last: what a power cut leaves
    /// behind has none and is refused.
    ///
    /// # Errors
    /// [`Error::Occupied`], [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        if !files::is_vacant(folder)? {
            return Err(Error::Occupied { path: folder.to_owned() });
        }
        files::create_folder(&folder.join(BLOBS_FOLDER))?;
        for (path, bytes) in self.files() {
            if path.as_os_str() == oci::INDEX_FILE {
                files::sync(&folder.join(BLOBS_FOLDER))?;
                files::sync(&folder.join("blobs"))?;
            }
            files::write_file(&folder.join(path), &bytes)?;
        }
        files::sync(folder)
    }

    /// The files of the layout, by their path in it, in the order in which they are to be written.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, Cow<'_, [u8]>)> {
        let blob = |(digest, bytes)| (blob_path(Path::new(""), digest), Cow::Borrowed(bytes));
        let marks = marks(self.digest, self.manifest_len());
        let marks = marks.map(|(name, bytes)| (name.into(), Cow::Owned(bytes)));
        self.blobs().map(blob).chain(marks)
    }

    /// The bundle's identity: the digest of the OCI manifest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes of the OCI manifest.
    pub fn oci_manifest(&self) -> &[u8] {
        &self.oci_manifest
    }

    /// The length of the OCI manifest in bytes.
    pub fn manifest_len(&self) -> u64 {
        self.oci_manifest.len() as u64
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The ONNX file.
    pub fn model(&self) -> &[u8] {
        &self.blobs[&self.model]
    }

    /// The integer program that computes the whole graph.
    pub fn program(&self) -> Option<&[u8]> {
        self.program.map(|digest| self.blobs[&digest].as_slice())
    }

    /// The reference distributions.
    pub fn baseline(&self) -> Option<&Baseline> {
        self.baseline.as_ref()
    }

    /// The golden vectors.
    pub fn golden(&self) -> &Golden {
        &self.golden
    }

    /// The model card.
    pub fn card(&self) -> Option<&str> {
        self.card.as_deref()
    }

    /// The blobs, each once: the OCI manifest, the config, the layers.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        let once = |i: &usize| !self.order[..*i].iter().any(|(_, d)| *d == self.order[*i].1);
        let rest = (0..self.order.len()).filter(once).map(|i| {
            let digest = self.order[i].1;
            (digest, self.blobs[&digest].as_slice())
        });
        std::iter::once((self.digest, self.oci_manifest.as_slice())).chain(rest)
    }

    /// The layers as files: name and bytes, for example `golden/logits.npy`.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.order.iter().filter_map(|(title, digest)| {
            title.as_deref().map(|title| (title, self.blobs[digest].as_slice()))
        })
    }

    /// The bundle as files for people: the manifest and the layers. A model signature covers these.
    pub fn tree(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let (_, config) = &self.order[0];
        let manifest = (TREE_MANIFEST_FILE, self.blobs[config].as_slice());
        std::iter::once(manifest).chain(self.layers())
    }

    /// The layers by name, each with its blob.
    pub(crate) fn layer_digests(&self) -> impl Iterator<Item = (&str, Digest)> {
        self.order.iter().filter_map(|(title, digest)| Some((title.as_deref()?, *digest)))
    }

    /// The length of all blobs in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.blobs().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Refuses a blob that no descriptor names.
    fn check_nothing_unlisted(&self, folder: &Path) -> Result<(), Error> {
        // Room for every listed blob and for the one too many that is to be named.
        let path = folder.join(BLOBS_FOLDER);
        for name in files::list_folder(&path, BLOBS_FOLDER, 2 * BLOBS_MAX)? {
            let listed = Digest::from_hex(&name)
                .is_ok_and(|digest| digest == self.digest || self.blobs.contains_key(&digest));
            if !listed {
                return Err(Error::Unlisted { part: format!("blob {BLOBS_FOLDER}/{name}") });
            }
        }
        Ok(())
    }
}

/// The blobs of the bundle `digest` with their lengths, each once, in the order of [`Bundle::blobs`].
pub(crate) fn blob_list(digest: Digest, oci_manifest: &[u8]) -> Result<Vec<(Digest, u64)>, Error> {
    let part = oci_manifest_part(digest);
    check_oci_manifest_len(digest, oci_manifest.len() as u64)?;
    check_digest(&part, digest, oci_manifest)?;
    let parsed: OciManifest = from_json(&part, oci_manifest)?;
    check_oci_manifest(&part, &parsed)?;
    let mut blobs = vec![(digest, oci_manifest.len() as u64)];
    for blob in std::iter::once(&parsed.config).chain(&parsed.layers) {
        if blobs.iter().all(|(known, _)| *known != blob.digest) {
            blobs.push((blob.digest, blob.size));
        }
    }
    Ok(blobs)
}

/// `oci-layout` and, last, `index.json`.
pub(crate) fn marks(digest: Digest, size: u64) -> [(&'static str, Vec<u8>); 2] {
    let layout = OciLayout { image_layout_version: oci::OCI_LAYOUT_VERSION.to_owned() };
    [(oci::OCI_LAYOUT_FILE, to_json(&layout)), (oci::INDEX_FILE, to_json(&Index::of(digest, size)))]
}

/// Where a layout keeps a blob.
pub(crate) fn blob_path(folder: &Path, digest: Digest) -> PathBuf {
    folder.join(BLOBS_FOLDER).join(digest.hex().to_string())
}

fn check_folder(folder: &Path) -> Result<(), Error> {
    let known = [oci::OCI_LAYOUT_FILE, oci::INDEX_FILE, "blobs"];
    // The folder itself may be a link: the caller named it.
    let real = folder.canonicalize().map_err(|source| Error::Io {
        verb: "open",
        path: folder.to_owned(),
        source,
    })?;
    let names = files::list_folder(&real, &folder.display().to_string(), BLOBS_MAX)?;
    if let Some(part) = names.into_iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Error::Unlisted { part });
    }
    for name in files::list_folder(&real.join("blobs"), "blobs", BLOBS_MAX)? {
        if name != "sha256" {
            return Err(Error::Unlisted { part: format!("blobs/{name}") });
        }
    }
    files::check_folder(&real.join(BLOBS_FOLDER), BLOBS_FOLDER)
}

fn check_layout_version(folder: &Path) -> Result<(), Error> {
    let part = oci::OCI_LAYOUT_FILE;
    let bytes = files::read_file(&folder.join(part), part, INDEX_BYTES_MAX)?;
    let layout: OciLayout = from_json(part, &bytes)?;
    if layout.image_layout_version == oci::OCI_LAYOUT_VERSION {
        return Ok(());
    }
    let reason = format!("its version is not {}", oci::OCI_LAYOUT_VERSION);
    Err(Error::Unsupported { part: part.to_owned(), reason })
}

/// The digest and length of the one OCI manifest.
fn read_index(folder: &Path) -> Result<(Digest, u64), Error> {
    let part = oci::INDEX_FILE;
    let bytes = files::read_file(&folder.join(part), part, INDEX_BYTES_MAX)?;
    let index: Index = from_json(part, &bytes)?;
    match index.manifests.as_slice() {
        [entry] if entry.media_type == oci::MEDIA_TYPE_OCI_MANIFEST => {
            Ok((entry.digest, entry.size))
        }
        [_] => Err(Error::Unsupported {
            part: part.to_owned(),
            reason: format!("it does not name a {}", oci::MEDIA_TYPE_OCI_MANIFEST),
        }),
        entries => Err(Error::Malformed {
            part: part.to_owned(),
            reason: format!("it names {} manifests, a bundle has one", entries.len()),
        }),
    }
}

/// Reads a blob whose length is known, so that no more than that is read.
fn read_blob(folder: &Path, part: &str, digest: Digest, size: u64) -> Result<Vec<u8>, Error> {
    let path = blob_path(folder, digest);
    check_length(part, size, files::file_len(&path, part)?)?;
    files::read_file(&path, part, size)
}

/// Checks an OCI manifest and all that it refers to. `read` gives the bytes of a blob; what it gives
/// is checked here.
fn assemble(
    digest: Digest,
    oci_manifest: Vec<u8>,
    read: impl FnMut(&str, &Descriptor) -> Result<Vec<u8>, Error>,
    limits: &Limits,
) -> Result<Bundle, Error> {
    let part = oci_manifest_part(digest);
    check_digest(&part, digest, &oci_manifest)?;
    let parsed: OciManifest = from_json(&part, &oci_manifest)?;
    check_oci_manifest(&part, &parsed)?;
    check_sizes(&parsed, oci_manifest.len() as u64, limits)?;

    let mut blobs = Blobs { read, blobs: BTreeMap::new() };
    let config = config_part(&parsed.config);
    let manifest = Manifest::from_json(blobs.load(&config, &parsed.config)?)
        .map_err(|source| Error::Manifest { part: config, source })?;
    let layers = Layers::of(&part, &parsed, &manifest)?;
    for layer in &parsed.layers {
        blobs.load(&layer_part(layer), layer)?;
    }
    let blobs = blobs.blobs;
    let bytes = |layer: &Descriptor| blobs[&layer.digest].as_slice();

    let baseline = layers
        .baseline
        .map(|layer| Baseline::decode(bytes(layer)).map_err(|error| in_layer(layer, error)));
    let baseline = baseline.transpose()?;
    let card = layers.card.map(|layer| read_card(layer, bytes(layer))).transpose()?;
    let layer_of = |tensor: &str| layers.golden[golden_path(tensor).as_str()];
    let golden = Golden::from_npy(&manifest, |spec| Ok(bytes(layer_of(&spec.name)).to_vec()))
        .map_err(|error| match &error {
            Error::Tensor { name, .. } => in_layer(layer_of(name), error),
            _ => error,
        })?;
    let titled = |layer: &Descriptor| (layer.title().map(str::to_owned), layer.digest);
    let order =
        std::iter::once((None, parsed.config.digest)).chain(parsed.layers.iter().map(titled));
    Ok(Bundle {
        digest,
        model: layers.model.digest,
        program: layers.program.map(|layer| layer.digest),
        order: order.collect(),
        oci_manifest,
        manifest,
        baseline,
        golden,
        card,
        blobs,
    })
}

/// Blobs that were read and checked.
struct Blobs<R> {
    read: R,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl<R: FnMut(&str, &Descriptor) -> Result<Vec<u8>, Error>> Blobs<R> {
    fn load(&mut self, part: &str, blob: &Descriptor) -> Result<&[u8], Error> {
        if !self.blobs.contains_key(&blob.digest) {
            let bytes = (self.read)(part, blob)?;
            check_digest(part, blob.digest, &bytes)?;
            self.blobs.insert(blob.digest, bytes);
        }
        let bytes = &self.blobs[&blob.digest];
        // Two descriptors may name one blob with different lengths.
        check_length(part, blob.size, bytes.len() as u64)?;
        Ok(bytes)
    }
}

/// The layers by what they are.
struct Layers<'a> {
    model: &'a Descriptor,
    program: Option<&'a Descriptor>,
    baseline: Option<&'a Descriptor>,
    card: Option<&'a Descriptor>,
    golden: BTreeMap<&'a str, &'a Descriptor>,
}

impl<'a> Layers<'a> {
    fn of(part: &str, oci_manifest: &'a OciManifest, manifest: &Manifest) -> Result<Self, Error> {
        let malformed = |reason| Error::Malformed { part: part.to_owned(), reason };
        let mut titled = BTreeMap::new();
        for layer in &oci_manifest.layers {
            let title = layer.title().unwrap_or_default();
            if titled.insert(title, layer).is_some() {
                return Err(malformed(format!("two layers have the name {title:?}")));
            }
        }
        let mut take = |title: &str, media_type: &str| match titled.remove_entry(title) {
            Some((title, layer)) if layer.media_type == media_type => Ok(Some((title, layer))),
            Some((_, layer)) => Err(Error::Unsupported {
                part: layer_part(layer),
                reason: format!("its media type is not {media_type}"),
            }),
            None => Ok(None),
        };
        let missing = |title: &str| Error::Missing { part: format!("layer {title}") };
        let (_, model) =
            take(MODEL_FILE, oci::MEDIA_TYPE_WEIGHT)?.ok_or_else(|| missing(MODEL_FILE))?;
        let program = take(PROGRAM_FILE, oci::MEDIA_TYPE_WEIGHT)?.map(|(_, layer)| layer);
        let baseline = take(BASELINE_FILE, oci::MEDIA_TYPE_WEIGHT_CONFIG)?.map(|(_, layer)| layer);
        let card = take(CARD_FILE, oci::MEDIA_TYPE_DOC)?.map(|(_, layer)| layer);
        let mut golden = BTreeMap::new();
        for spec in manifest.inputs.iter().chain(&manifest.outputs) {
            let path = golden_path(&spec.name);
            let layer = take(&path, oci::MEDIA_TYPE_DATASET)?.ok_or_else(|| missing(&path))?;
            golden.extend([layer]);
        }
        match titled.values().next() {
            None => Ok(Self { model, program, baseline, card, golden }),
            Some(layer) => Err(Error::Unsupported {
                part: layer_part(layer),
                reason: "this build knows no such layer".to_owned(),
            }),
        }
    }
}

fn check_oci_manifest(part: &str, oci_manifest: &OciManifest) -> Result<(), Error> {
    let unsupported = |reason: String| Error::Unsupported { part: part.to_owned(), reason };
    for (what, found, expected) in [
        ("mediaType", &oci_manifest.media_type, oci::MEDIA_TYPE_OCI_MANIFEST),
        ("artifactType", &oci_manifest.artifact_type, oci::ARTIFACT_TYPE),
        ("config.mediaType", &oci_manifest.config.media_type, oci::MEDIA_TYPE_CONFIG),
    ] {
        if found != expected {
            return Err(unsupported(format!("its {what} is not {expected}")));
        }
    }
    if oci_manifest.schema_version != 2 {
        return Err(unsupported("its schemaVersion is not 2".to_owned()));
    }
    let count = oci_manifest.layers.len() + 2;
    if count > BLOBS_MAX {
        let reason = format!("it names {count} blobs, more than the limit of {BLOBS_MAX}");
        return Err(Error::Malformed { part: part.to_owned(), reason });
    }
    Ok(())
}

/// Checks what the descriptors claim before anything is read.
fn check_sizes(parsed: &OciManifest, oci_manifest: u64, limits: &Limits) -> Result<(), Error> {
    let mut total = oci_manifest;
    let config = (config_part(&parsed.config), &parsed.config);
    let layers = parsed.layers.iter().map(|layer| (layer_part(layer), layer));
    for (part, blob) in std::iter::once(config).chain(layers) {
        let max_bytes = match blob.media_type.as_str() {
            oci::MEDIA_TYPE_CONFIG => MANIFEST_BYTES_MAX,
            oci::MEDIA_TYPE_WEIGHT => limits.model_bytes_max,
            oci::MEDIA_TYPE_WEIGHT_CONFIG => BASELINE_BYTES_MAX,
            oci::MEDIA_TYPE_DATASET => GOLDEN_BYTES_MAX,
            _ => CARD_BYTES_MAX,
        };
        if blob.size == 0 {
            return Err(Error::Malformed { part, reason: "it is empty".to_owned() });
        }
        if blob.size > max_bytes {
            return Err(Error::TooLarge { part, len_bytes: blob.size, max_bytes });
        }
        total = total.saturating_add(blob.size);
    }
    if total > limits.bundle_bytes_max {
        let (part, max_bytes) = ("the bundle".to_owned(), limits.bundle_bytes_max);
        return Err(Error::TooLarge { part, len_bytes: total, max_bytes });
    }
    Ok(())
}

/// An error in what a layer holds, as an error of the layer's blob.
fn in_layer(layer: &Descriptor, error: Error) -> Error {
    let part = layer_part(layer);
    match error {
        Error::Malformed { reason, .. } | Error::Tensor { reason, .. } => {
            Error::Malformed { part, reason }
        }
        Error::Unsupported { reason, .. } => Error::Unsupported { part, reason },
        other => other,
    }
}

fn read_card(layer: &Descriptor, bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Malformed {
        part: layer_part(layer),
        reason: "it is not UTF-8 text".to_owned(),
    })
}

fn check_length(part: &str, expected_bytes: u64, found_bytes: u64) -> Result<(), Error> {
    if expected_bytes == found_bytes {
        return Ok(());
    }
    Err(Error::Length { part: part.to_owned(), expected_bytes, found_bytes })
}

fn check_oci_manifest_len(digest: Digest, len_bytes: u64) -> Result<(), Error> {
    if len_bytes <= OCI_MANIFEST_BYTES_MAX {
        return Ok(());
    }
    let (part, max_bytes) = (oci_manifest_part(digest), OCI_MANIFEST_BYTES_MAX);
    Err(Error::TooLarge { part, len_bytes, max_bytes })
}

fn check_digest(part: &str, expected: Digest, bytes: &[u8]) -> Result<(), Error> {
    let found = digest_of(bytes);
    if found == expected { Ok(()) } else { Err(Error::Digest { part: part.to_owned(), found }) }
}

fn oci_manifest_part(digest: Digest) -> String {
    format!("blob {digest} (OCI manifest)")
}

fn config_part(config: &Descriptor) -> String {
    format!("blob {} (config)", config.digest)
}

fn layer_part(layer: &Descriptor) -> String {
    // The name comes from a stranger: bounded, and quoted unless it is plain.
    let title: String = layer.title().unwrap_or("no name").chars().take(80).collect();
    let plain = title.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let title = if plain { title } else { format!("{title:?}") };
    format!("blob {} ({title})", layer.digest)
}

fn from_json<T: serde::de::DeserializeOwned>(part: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Malformed { part: part.to_owned(), reason: error.to_string() })
}

fn to_json<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("OCI documents have only text keys")
}
