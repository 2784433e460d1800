use std::{fs, os::unix::fs::symlink, sync::LazyLock};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{ErrorKind, example};

/// A layout on disk that tests damage.
struct Written {
    folder: TempDir,
    elsewhere: TempDir,
    bundle: Bundle,
}

impl Written {
    /// A copy of a layout that `Bundle::write` made; copying waits for no disk.
    fn new() -> Self {
        static TEMPLATE: LazyLock<(TempDir, Bundle)> = LazyLock::new(|| {
            let folder = TempDir::new().expect("a temporary folder");
            let bundle = example::bundle(example::noise(5_000, 1));
            bundle.write(folder.path()).expect("the folder is empty");
            (folder, bundle)
        });
        let (template, bundle) = &*TEMPLATE;
        let temporary = || TempDir::new().expect("a temporary folder");
        let written = Self { folder: temporary(), elsewhere: temporary(), bundle: bundle.clone() };
        fs::create_dir_all(written.path(BLOBS_FOLDER)).expect("folders can be made");
        let marks = [oci::OCI_LAYOUT_FILE, oci::INDEX_FILE].map(PathBuf::from);
        let blobs = bundle.blobs().map(|(digest, _)| blob_path(Path::new(""), digest));
        for file in blobs.chain(marks) {
            let copied = fs::copy(template.path().join(&file), written.folder.path().join(&file));
            copied.expect("the template has the file");
        }
        written
    }

    fn open(&self) -> Result<Bundle, Error> {
        Bundle::open(self.folder.path(), &Limits::default())
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// The blob of a layer, of the `config`, or of the `OCI manifest`.
    fn blob(&self, what: &str) -> PathBuf {
        let digest = match what {
            "OCI manifest" => self.bundle.digest,
            "config" => self.bundle.order[0].1,
            title => {
                let titled = |(name, _): &&(Option<String>, Digest)| name.as_deref() == Some(title);
                self.bundle.order.iter().find(titled).expect("the layer is there").1
            }
        };
        blob_path(self.folder.path(), digest)
    }

    /// Leaves a link to what stood there: the content is right, the place is not.
    fn link(&self, path: &Path) {
        let moved = self.elsewhere.path().join("moved");
        fs::rename(path, &moved).expect("it is there");
        symlink(&moved, path).expect("links can be made");
    }

    fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).expect("the file is there");
        edit(&mut bytes);
        fs::write(path, bytes).expect("the file can be written");
    }

    /// Changes the OCI manifest and gives it its new digest, as a forger would.
    fn reseal(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.blob("OCI manifest");
        let text = fs::read(&path).expect("the OCI manifest is there");
        let mut document = serde_json::from_slice(&text).expect("our own JSON");
        edit(&mut document);
        fs::remove_file(&path).expect("the old one is there");
        self.seal(document.to_string().as_bytes());
    }

    fn seal(&self, oci_manifest: &[u8]) {
        let digest = self.add_blob(oci_manifest);
        let index = to_json(&Index::of(digest, oci_manifest.len() as u64));
        fs::write(self.path("index.json"), index).expect("index.json can be written");
    }

    /// Replaces what a layer or the config holds, with a matching descriptor.
    fn replace(&self, what: &str, bytes: &[u8]) {
        fs::remove_file(self.blob(what)).expect("the old one is there");
        let digest = self.add_blob(bytes);
        self.reseal(|document| {
            let descriptor = descriptor(document, what);
            descriptor["digest"] = json!(digest);
            descriptor["size"] = json!(bytes.len());
        });
    }

    fn add_blob(&self, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        fs::write(blob_path(self.folder.path(), digest), bytes).expect("blobs can be written");
        digest
    }
}

fn descriptor<'a>(document: &'a mut Value, what: &str) -> &'a mut Value {
    if what == "config" {
        return &mut document["config"];
    }
    let layers = document["layers"].as_array_mut().expect("layers are a list");
    let title = |layer: &&mut Value| layer["annotations"]["org.cncf.model.filepath"] == what;
    layers.iter_mut().find(title).expect("the layer is there")
}

fn set_title(layer: &mut Value, title: &str) {
    layer["annotations"]["org.cncf.model.filepath"] = json!(title);
}

const LAYERS: [&str; 6] = [
    "model.onnx",
    "program.postcard",
    "baseline.postcard",
    "golden/x.npy",
    "golden/y%2f0.npy",
    "README.md",
];

#[test]
fn a_bundle_opens_as_it_was_built() {
    let written = Written::new();
    let opened = written.open().expect("an undamaged layout");
    let built = &written.bundle;
    assert_eq!(opened.digest(), built.digest());
    assert_eq!(opened.manifest(), &example::manifest());
    assert_eq!(opened.model(), example::noise(5_000, 1));
    assert_eq!((opened.baseline(), opened.golden()), (built.baseline(), built.golden()));
    assert_eq!(opened.card(), Some("# Example\n"));
    assert_eq!(opened.layers().map(|(title, _)| title).collect::<Vec<_>>(), LAYERS);
    assert_eq!(opened.blobs().count(), 8);
    assert_eq!(opened.blobs().next(), Some((opened.digest(), opened.oci_manifest())));
}

#[test]
fn the_same_parts_give_the_same_digest() {
    let build = || example::bundle(example::noise(100, 7));
    assert_eq!(build().digest(), build().digest());
    assert_ne!(build().digest(), example::bundle(example::noise(100, 8)).digest());
    // A change of this digest is a change of the format: old and new tools would disagree on names.
    let digest = build().digest().to_string();
    assert_eq!(digest, "sha256:4f246343d0fec171f1e35aceb07684e9392caae5599105437b0912b2e388f491");
}

#[test]
fn optional_parts_may_be_absent_and_equal_layers_share_a_blob() {
    let mut builder = example::builder(b"# Example\n".to_vec());
    builder.baseline = None;
    let bundle = builder.clone().build().expect("a baseline is optional");
    assert_eq!(bundle.baseline(), None);
    assert_eq!(bundle.blobs().count(), 6, "model and card are the same bytes");
    let folder = TempDir::new().expect("a temporary folder");
    assert_eq!(builder.write(folder.path()).expect("empty"), bundle.digest());
    let opened = Bundle::open(folder.path(), &Limits::default()).expect("an undamaged layout");
    assert_eq!(opened.model(), b"# Example\n");
}

#[test]
fn a_bundle_opens_from_blobs_that_lie_elsewhere() {
    let built = Written::new().bundle;
    let open = |spoil: Option<Digest>| {
        let read = |digest: Digest| {
            let (_, bytes) = built.blobs().find(|(name, _)| *name == digest).expect("a blob of it");
            let spoilt = if spoil == Some(digest) { &bytes[1..] } else { bytes };
            Ok(spoilt.to_vec())
        };
        Bundle::from_blobs(built.digest(), read, &Limits::default())
    };
    let opened = open(None).expect("undamaged");
    let files: Vec<_> = opened.files().map(|(path, _)| path).collect();
    assert_eq!(files.len(), 10);
    assert_eq!(files[8..], ["oci-layout", "index.json"].map(PathBuf::from));
    for (digest, _) in built.blobs() {
        let error = open(Some(digest)).expect_err("a byte is missing");
        assert!(error.to_string().contains(&digest.to_string()), "{error}");
    }
}

#[test]
fn a_bundle_is_not_written_over_something() {
    let written = Written::new();
    let error = written.bundle.write(written.folder.path()).expect_err("a layout is there");
    assert_eq!(error.kind(), ErrorKind::Operator);
    assert!(error.to_string().contains("not empty"), "{error}");
}

/// What is done to a layout, and what the error must say beside the blob's name.
type Damage = (String, Box<dyn Fn(&Written)>, Vec<String>);

fn damage(what: &str, words: &[&str], act: impl Fn(&Written) + 'static) -> Damage {
    (what.to_owned(), Box::new(act), words.iter().map(|word| (*word).to_owned()).collect())
}

/// What can happen to each blob.
fn blob_damages() -> Vec<Damage> {
    let blobs = LAYERS.into_iter().chain(["config", "OCI manifest"]);
    blobs
        .flat_map(|blob| {
            let name = format!("({blob})");
            let words = |word: &str| [name.clone(), word.to_owned()];
            let case = |what: &str, word: &str, act: fn(&Written, &Path)| -> Damage {
                let act = move |written: &Written| act(written, &written.blob(blob));
                (format!("{blob} {what}"), Box::new(act), words(word).into())
            };
            [
                case("truncated", "its descriptor says", |w, path| w.edit(path, |b| b.truncate(3))),
                case("emptied", "has 0 bytes", |w, path| w.edit(path, Vec::clear)),
                case("extended", "its descriptor says", |w, path| w.edit(path, |b| b.push(0))),
                case("changed", "bytes were changed", |w, path| w.edit(path, |b| b[7] ^= 1)),
                case("deleted", "missing", |_, path| fs::remove_file(path).expect("it is there")),
                case("made a link", "not a regular file", |w, path| w.link(path)),
                case("made a folder", "not a regular file", |_, path| {
                    fs::remove_file(path).expect("it is there");
                    fs::create_dir(path).expect("folders can be made");
                }),
            ]
        })
        .collect()
}

/// What can happen to the files around the blobs.
fn file_damages() -> Vec<Damage> {
    let link = |name: &'static str| move |w: &Written| w.link(&w.path(name));
    let text = |name: &'static str, text: &'static str| {
        move |w: &Written| fs::write(w.path(name), text).expect("it can be written")
    };
    let index = |edit: fn(&mut Value)| {
        move |w: &Written| {
            w.edit(&w.path("index.json"), |bytes| {
                let mut index = serde_json::from_slice(bytes).expect("our own JSON");
                edit(&mut index);
                *bytes = index.to_string().into_bytes();
            });
        }
    };
    vec![
        damage("extra blob", &["blobs/sha256/", "nothing refers"], |w| {
            w.add_blob(b"more");
        }),
        damage("extra file", &["blob blobs/sha256/x"], text("blobs/sha256/x", "")),
        damage("extra algorithm", &["blobs/md5"], text("blobs/md5", "")),
        damage("extra file at the top", &["model.onnx", "nothing refers"], text("model.onnx", "")),
        damage("no blobs", &["blobs is missing"], |w| {
            fs::remove_dir_all(w.path("blobs")).expect("it is there");
        }),
        damage("no blobs/sha256", &["blobs/sha256 is missing"], |w| {
            fs::remove_dir_all(w.path("blobs/sha256")).expect("it is there");
        }),
        damage("no index.json", &["index.json is missing"], |w| {
            fs::remove_file(w.path("index.json")).expect("it is there");
        }),
        damage("no oci-layout", &["oci-layout is missing"], |w| {
            fs::remove_file(w.path("oci-layout")).expect("it is there");
        }),
        damage("index.json linked", &["index.json is not a regular"], link("index.json")),
        damage("oci-layout linked", &["oci-layout is not a regular"], link("oci-layout")),
        damage("blobs linked", &["blobs is not a folder"], link("blobs")),
        damage("blobs/sha256 linked", &["blobs/sha256 is not a folder"], link("blobs/sha256")),
        damage("oci-layout no JSON", &["oci-layout is malformed"], text("oci-layout", "yes")),
        damage(
            "oci-layout of version 2",
            &["oci-layout is not supported"],
            text("oci-layout", "{\"imageLayoutVersion\":\"2.0.0\"}"),
        ),
        damage("index.json no JSON", &["index.json is malformed"], text("index.json", "\0")),
        damage("index.json empty", &["index.json is malformed"], text("index.json", "")),
        damage(
            "no manifest",
            &["index.json", "0 manifests"],
            index(|i| i["manifests"] = json!([])),
        ),
        damage(
            "two manifests",
            &["index.json", "2 manifests"],
            index(|i| {
                let entry = i["manifests"][0].clone();
                i["manifests"] = json!([entry, entry]);
            }),
        ),
        damage(
            "an index in the index",
            &["index.json is not supported"],
            index(|i| {
                i["manifests"][0]["mediaType"] = json!(oci::MEDIA_TYPE_INDEX);
            }),
        ),
        damage(
            "a digest that leaves the folder",
            &["index.json", "digest"],
            index(|i| {
                i["manifests"][0]["digest"] = json!("sha256:../../../etc/passwd");
            }),
        ),
        damage(
            "a wrong length of the OCI manifest",
            &["(OCI manifest)", "says 5"],
            index(|i| {
                i["manifests"][0]["size"] = json!(5);
            }),
        ),
        damage(
            "a huge OCI manifest",
            &["(OCI manifest)", "limit of 65536"],
            index(|i| {
                i["manifests"][0]["size"] = json!(u64::MAX);
            }),
        ),
        damage("index.json too large", &["index.json", "limit of 65536"], |w| {
            w.edit(&w.path("index.json"), |bytes| bytes.extend(vec![b' '; 70_000]));
        }),
        damage("a sparse terabyte", &["(model.onnx)", "its descriptor says 5000"], |w| {
            let file = fs::File::options().write(true).open(w.blob("model.onnx"));
            file.and_then(|file| file.set_len(1 << 40)).expect("sparse files can be made");
        }),
    ]
}

/// What a forger can do who gives everything its right digest.
fn forgeries() -> Vec<Damage> {
    let title = |title: &'static str| {
        move |w: &Written| w.reseal(|d| set_title(descriptor(d, "README.md"), title))
    };
    let size = |blob: &'static str, size: u64| {
        move |w: &Written| w.reseal(|d| descriptor(d, blob)["size"] = json!(size))
    };
    let key = |key: &'static str, value: &'static str| {
        move |w: &Written| w.reseal(|d| d[key] = json!(value))
    };
    let holds =
        |blob: &'static str, bytes: &'static [u8]| move |w: &Written| w.replace(blob, bytes);
    let drop_layer = |index: usize| {
        move |w: &Written| {
            fs::remove_file(w.blob(LAYERS[index])).expect("it is there");
            w.reseal(|d| {
                d["layers"].as_array_mut().expect("a list").remove(index);
            });
        }
    };
    vec![
        damage("OCI manifest no JSON", &["(OCI manifest) is malformed"], |w| {
            fs::remove_file(w.blob("OCI manifest")).expect("it is there");
            w.seal(b"not JSON");
        }),
        damage("unknown key", &["(OCI manifest)", "`subject`"], key("subject", "x")),
        damage("artifact type", &["(OCI manifest)", "artifactType"], key("artifactType", "x")),
        damage("media type", &["(OCI manifest)", "mediaType"], key("mediaType", "x")),
        damage("layers no list", &["(OCI manifest)", "invalid type"], key("layers", "x")),
        damage("schema version", &["(OCI manifest)", "schemaVersion"], |w| {
            w.reseal(|d| d["schemaVersion"] = json!(1));
        }),
        damage("config type", &["(OCI manifest)", "config.mediaType"], |w| {
            w.reseal(|d| d["config"]["mediaType"] = json!("x"));
        }),
        damage("layer type", &["(model.onnx)", "media type"], |w| {
            w.reseal(|d| descriptor(d, "model.onnx")["mediaType"] = json!(oci::MEDIA_TYPE_DOC));
        }),
        damage(
            "wrong size",
            &["(model.onnx)", "5000 bytes", "says 4999"],
            size("model.onnx", 4999),
        ),
        damage("size 0", &["(model.onnx)", "empty"], size("model.onnx", 0)),
        damage("huge model", &["(model.onnx)", "limit of 134217728"], size("model.onnx", 1 << 40)),
        damage("huge config", &["(config)", "limit of 262144"], size("config", 1 << 30)),
        damage("huge golden", &["(golden/x.npy)", "limit of"], size("golden/x.npy", 1 << 30)),
        damage(
            "huge baseline",
            &["(baseline.postcard)", "limit of"],
            size("baseline.postcard", 1 << 30),
        ),
        damage("huge card", &["(README.md)", "limit of"], size("README.md", u64::MAX)),
        damage(
            "path traversal",
            &["(../../etc/passwd)", "no such layer"],
            title("../../etc/passwd"),
        ),
        damage("absolute path", &["(/etc/passwd)", "no such layer"], title("/etc/passwd")),
        damage("escape sequence", &["\\u{1b}[2J", "no such layer"], title("\u{1b}[2J")),
        damage("unknown layer", &["(program.bin)", "no such layer"], title("program.bin")),
        damage("one name twice", &["two layers", "model.onnx"], title("model.onnx")),
        damage("no model", &["layer model.onnx is missing"], drop_layer(0)),
        damage("no golden output", &["layer golden/y%2f0.npy is missing"], drop_layer(4)),
        damage("too many layers", &["(OCI manifest)", "limit of 64"], |w| {
            w.reseal(|d| d["layers"] = vec![d["layers"][0].clone(); 63].into());
        }),
        damage("config no JSON", &["(config)", "expected"], holds("config", b"not JSON")),
        damage(
            "golden no .npy",
            &["(golden/x.npy) is malformed"],
            holds("golden/x.npy", b"not npy"),
        ),
        damage("golden of another shape", &["(golden/y%2f0.npy)", "[1]", "[2, 1]"], |w| {
            let tensor = crate::NamedTensor::new("y/0", vec![1], crate::TensorData::I8(vec![1]));
            w.replace("golden/y%2f0.npy", &crate::write_npy(&tensor.expect("shapes agree")));
        }),
        damage(
            "baseline cut",
            &["(baseline.postcard) is malformed"],
            holds("baseline.postcard", &[3, 2]),
        ),
        damage(
            "baseline of version 9",
            &["(baseline.postcard)", "version is 9"],
            holds("baseline.postcard", &[9]),
        ),
        damage("card no text", &["(README.md)", "UTF-8"], holds("README.md", b"\xff\xfe")),
        damage("unknown manifest key", &["(config)", "unknown field `colour`"], |w| {
            let mut config: Value =
                serde_json::from_slice(&example::manifest().to_json()).expect("our own JSON");
            config["colour"] = json!("red");
            w.replace("config", config.to_string().as_bytes());
        }),
        damage("manifest breaks a rule", &["(config)", "golden.tolerance"], |w| {
            let mut config: Value =
                serde_json::from_slice(&example::manifest().to_json()).expect("our own JSON");
            config["golden"]["tolerance"] = json!({});
            w.replace("config", config.to_string().as_bytes());
        }),
    ]
}

#[test]
fn a_damaged_or_forged_layout_is_refused_by_the_name_of_the_blob() {
    let damages: Vec<Damage> =
        blob_damages().into_iter().chain(file_damages()).chain(forgeries()).collect();
    let count = damages.len();
    let failures: Vec<String> = damages
        .into_iter()
        .filter_map(|(what, act, words)| {
            let written = Written::new();
            act(&written);
            let error = match written.open() {
                Ok(_) => return Some(format!("{what}: opened")),
                Err(error) => error,
            };
            let text = chain(&error);
            let missing = words.iter().find(|word| !text.contains(word.as_str()));
            match (missing, error.kind()) {
                (Some(word), _) => Some(format!("{what}: {word:?} is not in {text:?}")),
                (None, ErrorKind::Peer) => None,
                (None, kind) => Some(format!("{what}: blames {kind:?}")),
            }
        })
        .collect();
    assert!(failures.is_empty(), "{} of {count}: {failures:#?}", failures.len());
}

#[test]
fn a_caller_may_accept_less_than_the_format() {
    let written = Written::new();
    let open = |limits| Bundle::open(written.folder.path(), &limits).map_err(|e| e.to_string());
    let model = open(Limits { model_bytes_max: 4_999, ..Limits::default() });
    assert!(
        model.is_err_and(|text| text.contains("(model.onnx)") && text.contains("limit of 4999"))
    );
    let bundle = open(Limits { bundle_bytes_max: 5_000, ..Limits::default() });
    assert!(bundle.is_err_and(|text| text.contains("the bundle has")));
}

/// An error with its sources, as a program prints it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// One way to spoil a file.
#[derive(Clone, Debug)]
enum Mutation {
    Flip { at: prop::sample::Index, bit: u8 },
    Truncate { at: prop::sample::Index },
    Insert { at: prop::sample::Index, bytes: Vec<u8> },
    Overwrite { at: prop::sample::Index, bytes: Vec<u8> },
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: &prop::sample::Index| at.index(bytes.len() + 1);
        match self {
            Self::Flip { at, bit } => {
                let at = at.index(bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Truncate { at } => bytes.truncate(place(at)),
            Self::Insert { at, bytes: more } => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Overwrite { at, bytes: more } => {
                let at = place(at);
                let end = (at + more.len()).min(bytes.len());
                bytes.splice(at..end, more.iter().copied());
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let bytes = || {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..20),
            // What means something to a parser.
            prop::sample::select(vec!["{", "}", "[", "\"", ",", "null", "-1", "1e999", "\\u0000"])
                .prop_map(|text| text.as_bytes().to_vec()),
        ]
    };
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        at().prop_map(|at| Mutation::Truncate { at }),
        (at(), bytes()).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        (at(), bytes()).prop_map(|(at, bytes)| Mutation::Overwrite { at, bytes }),
    ]
}

proptest! {
    #![proptest_config(example::cases(256))]

    /// Digests as they were: what still opens is the same bundle.
    #[test]
    fn a_spoilt_file_never_gives_another_bundle(
        file in any::<prop::sample::Index>(), mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let written = Written::new();
        let mut files: Vec<PathBuf> =
            written.bundle.blobs().map(|(d, _)| blob_path(written.folder.path(), d)).collect();
        files.extend(["index.json", "oci-layout"].map(|name| written.path(name)));
        let file = &files[file.index(files.len())];
        written.edit(file, |bytes| mutations.iter().for_each(|mutation| mutation.apply(bytes)));
        if let Ok(bundle) = written.open() {
            prop_assert_eq!(bundle.digest(), written.bundle.digest());
            prop_assert!(bundle.blobs().eq(written.bundle.blobs()));
        }
    }

    /// Digests made right again: each parser meets the spoilt bytes. None panics, and what opens
    /// holds only what can be written and read again.
    #[test]
    fn spoilt_content_with_right_digests_is_refused_or_read_without_panic(
        blob in prop::sample::select(LAYERS.iter().copied().chain(["config", "OCI manifest"]).collect::<Vec<_>>()),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let written = Written::new();
        let mut bytes = fs::read(written.blob(blob)).expect("the blob is there");
        mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
        if blob == "OCI manifest" {
            fs::remove_file(written.blob(blob)).expect("the blob is there");
            written.seal(&bytes);
        } else {
            written.replace(blob, &bytes);
        }
        if let Ok(bundle) = written.open() {
            let manifest = Manifest::from_json(&bundle.manifest().to_json());
            prop_assert_eq!(manifest.as_ref(), Ok(bundle.manifest()));
            let baseline = bundle.baseline().map(|baseline| Baseline::decode(&baseline.encode()));
            let baseline = baseline.transpose().expect("our own");
            prop_assert_eq!(baseline.as_ref(), bundle.baseline());
        }
    }
}

#[test]
fn a_layout_that_was_not_written_to_its_end_is_refused() {
    let written = Written::new();
    fs::remove_file(written.path("index.json")).expect("it is there");
    fs::remove_file(written.blob("README.md")).expect("it is there");
    let error = written.open().expect_err("no index");
    assert!(error.to_string().contains("index.json is missing"), "{error}");
    fs::write(written.path("index.json"), "{\"schemaVersion\":2,\"manif").expect("it can be made");
    assert!(written.open().is_err());
}

/// Other tools carry bundles between registries. A plain `skopeo inspect` is for container images and
/// refuses every artifact; `--raw` shows one.
#[test]
fn skopeo_shows_and_copies_a_bundle() {
    let skopeo = |arguments: &[&str]| std::process::Command::new("skopeo").args(arguments).output();
    if skopeo(&["--version"]).is_err() {
        let required = std::env::var_os("SELVEDGE_REQUIRE_TOOLS").is_some();
        assert!(!required, "skopeo is not installed");
        println!("skipped: skopeo not found");
        return;
    }
    let written = Written::new();
    let source = format!("oci:{}", written.folder.path().display());
    let raw = skopeo(&["inspect", "--raw", &source]).expect("it ran before");
    assert_eq!(raw.stdout, written.bundle.oci_manifest(), "{raw:?}");
    let config = skopeo(&["inspect", "--raw", "--config", &source]).expect("it ran before");
    assert_eq!(config.stdout, example::manifest().to_json(), "{config:?}");

    let copy = written.elsewhere.path().join("copy");
    // No policy file is looked for: the copy stays on this disk.
    let target = format!("oci:{}:latest", copy.display());
    let copied = skopeo(&["--insecure-policy", "copy", &source, &target]).expect("it ran before");
    assert!(copied.status.success(), "{copied:?}");
    let bundle = Bundle::open(&copy, &Limits::default()).expect("skopeo changed nothing inside");
    assert_eq!(bundle.digest(), written.bundle.digest());
}
