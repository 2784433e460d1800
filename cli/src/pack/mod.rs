//! `selvedge pack`: from a model and reference data to a bundle.
//!
//! What goes in is a folder with a `manifest.toml`, or an ONNX file for which a manifest is inferred ([`infer`]).
//! What comes out was loaded once with the engine that devices have: it reproduces its golden vectors. Nothing signs
//! it yet: `selvedge publish` enters it into a repository, whose metadata is signed.

mod card;
mod infer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use selvedge_bundle::{
    Accuracy, Baseline, Bundle, BundleBuilder, Golden, GoldenOrigin, Manifest, ManifestDraft,
    Reference, ReferenceAnswer, ReferenceData, SampleSpec,
};
use selvedge_runtime::desk::{self, OPSETS_TESTED, OnnxSurvey, SELF_MADE_FRAMEWORK};
use selvedge_runtime::{Answer, FeatureReader, Limits, LoadOptions, Model, Sample};
use serde_json::json;

use crate::data::{Labels, Samples, class_of, read_file};
use crate::terminal::{bytes, progress, strong};

/// How many reference samples self-made golden vectors are computed for.
const SELF_MADE_SAMPLES: usize = 32;

/// Makes a bundle of a model, its manifest, baseline, golden vectors and card
#[derive(Debug, clap::Args)]
pub struct PackArgs {
    /// A folder with a manifest.toml, or an ONNX file
    #[arg(value_name = "DIR|MODEL.onnx")]
    source: PathBuf,
    /// The manifest, if it is not DIR/manifest.toml; without one it is inferred for an ONNX file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Reference data: a CSV file with a header, or images as .npy
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// The column of the reference data with the true class
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// The classes of an inferred manifest, index = class [default: the distinct labels, numbers by value, others in
    /// alphabetical order]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    labels: Vec<String>,
    /// A folder with <tensor>.npy for each input and output, computed by the framework that trained the model
    #[arg(long, value_name = "DIR")]
    golden: Option<PathBuf>,
    /// The model card, in Markdown
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,
    /// The bundle's name
    #[arg(long)]
    name: Option<String>,
    /// The bundle's semantic version
    #[arg(long, value_name = "SEMVER")]
    version: Option<String>,
    /// For an inferred manifest: normalise columns by the reference's mean and deviation, images by 255
    #[arg(long)]
    normalize: bool,
    /// The bundle's folder, new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn main(args: PackArgs) -> anyhow::Result<ExitCode> {
    let occupied = args.out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!occupied, "{} exists and is not empty; give a new folder", args.out.display());
    let ingredients = Ingredients::gather(&args)?;
    let packed = ingredients.pack()?;
    packed.bundle.write(&args.out).context("the bundle cannot be written")?;
    packed.report(&args);
    Ok(ExitCode::SUCCESS)
}

/// Everything that a bundle is made of, read and not yet judged together.
struct Ingredients {
    draft: ManifestDraft,
    onnx: Vec<u8>,
    survey: OnnxSurvey,
    reference: Option<ReferenceSamples>,
    golden: Option<PathBuf>,
    card: Option<String>,
    warnings: Vec<String>,
}

impl Ingredients {
    fn gather(args: &PackArgs) -> anyhow::Result<Ingredients> {
        let path = match (&args.manifest, args.source.is_dir()) {
            (Some(path), _) => Some(path.clone()),
            (None, true) => Some(args.source.join("manifest.toml")),
            (None, false) => None,
        };
        ensure!(
            path.is_none() || args.labels.is_empty(),
            "--labels is for a manifest that is inferred; here, write `labels` into the manifest"
        );
        let mut gathered = match path {
            Some(path) => Ingredients::written(&path, args)?,
            None => Ingredients::inferred(args)?,
        };
        let draft = &mut gathered.draft;
        if let Some(name) = &args.name {
            draft.name = name.parse().context("--name")?;
        }
        if let Some(version) = &args.version {
            draft.version = version
                .parse()
                .with_context(|| format!("--version {version:?} is not semantic"))?;
        }
        if let Some(folder) = &args.golden {
            gathered.golden = Some(folder.clone());
            if draft.golden.origin == GoldenOrigin::SelfMade {
                draft.golden.origin = GoldenOrigin::User;
            }
        }
        if let Some(path) = &args.card {
            gathered.card = Some(read_text(path)?);
        }
        let opset = gathered.survey.opset;
        if !OPSETS_TESTED.contains(&opset) {
            let (first, last) = OPSETS_TESTED.into_inner();
            let warning =
                format!("operator set {opset}: the engine is tested with {first} to {last}");
            gathered.warnings.push(warning);
        }
        Ok(gathered)
    }

    /// From a manifest that somebody wrote.
    fn written(path: &Path, args: &PackArgs) -> anyhow::Result<Ingredients> {
        let text = read_text(path)?;
        let mut draft: ManifestDraft =
            toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let model = match draft.model.take() {
            Some(model) if args.source.is_dir() => folder.join(model),
            _ if args.source.is_file() => args.source.clone(),
            _ => bail!("{} names no model: add `model = \"model.onnx\"`", path.display()),
        };
        let onnx = read_file(&model)?;
        let survey = surveyed(&onnx, &model)?;
        let written = draft.reference.take();
        if let Some(written) = &written {
            draft.drift.order = written.order;
        }
        let reference = match (&args.reference, &written) {
            (Some(data), _) => {
                Some((data.clone(), args.label.clone().map_or(Labels::Usual, Labels::Column)))
            }
            (None, Some(written)) => {
                Some((folder.join(&written.data), labels_of(written, folder, args)))
            }
            (None, None) => None,
        };
        let reference = reference
            .map(|(path, labels)| ReferenceSamples::read(&path, &draft.sample, &labels))
            .transpose()?;
        let golden = draft.golden.dir.take().map(|dir| folder.join(dir));
        let card = find_card(folder).map(|path| read_text(&path)).transpose()?;
        Ok(Ingredients { draft, onnx, survey, reference, golden, card, warnings: Vec::new() })
    }

    /// From an ONNX file and reference data.
    fn inferred(args: &PackArgs) -> anyhow::Result<Ingredients> {
        let onnx = read_file(&args.source)?;
        let survey = surveyed(&onnx, &args.source)?;
        let data = args.reference.as_deref().context(
            "an ONNX file alone does not say what its inputs mean: give --reference DATA.csv (a header names the columns) or --manifest FILE",
        )?;
        let inferred = infer::Question {
            onnx: &onnx,
            survey: &survey,
            model: &args.source,
            data,
            label: args.label.as_deref(),
            classes: &args.labels,
            normalize: args.normalize,
        };
        let draft = inferred.answer()?;
        let labels = args.label.clone().map_or(Labels::Usual, Labels::Column);
        let reference = Some(ReferenceSamples::read(data, &draft.sample, &labels)?);
        Ok(Ingredients {
            draft,
            onnx,
            survey,
            reference,
            golden: None,
            card: None,
            warnings: Vec::new(),
        })
    }

    /// Judges everything together.
    fn pack(mut self) -> anyhow::Result<Packed> {
        let (manifest, golden) = self.golden()?;
        let options = LoadOptions { batched: true, ..LoadOptions::default() };
        let model = Model::from_parts(&manifest, &self.onnx, &golden, &options)
            .context("the model does not do what its manifest and golden vectors say")?;
        let baseline = match &self.reference {
            Some(reference) => Some(baseline(&manifest, &model, &reference.samples)?),
            None => {
                self.warnings.push("no reference data: the bundle has no baseline, and its devices cannot notice drift".to_owned());
                None
            }
        };
        let card = self.card.take().unwrap_or_else(|| card::of(&manifest, baseline.as_ref()));
        let parts =
            BundleBuilder { manifest, model: self.onnx, baseline, golden, card: Some(card) };
        let bundle = parts.build().context("the parts do not make a bundle")?;
        Ok(Packed { bundle, model, warnings: self.warnings })
    }

    /// The finished manifest, with golden vectors read or made.
    fn golden(&mut self) -> anyhow::Result<(Manifest, Golden)> {
        let mut draft = self.draft.clone();
        if let Some(folder) = &self.golden {
            if draft.golden.framework.is_empty() {
                draft.golden.framework = "not stated".to_owned();
            }
            if draft.golden.tolerance.is_empty() {
                draft.golden.tolerance = self.tolerances(&draft, |_| 1.0);
            }
            let manifest = Manifest::try_from(draft).context("manifest")?;
            let golden = read_golden(&manifest, folder)?;
            return Ok((manifest, golden));
        }
        let samples: Vec<Sample> = match &self.reference {
            Some(reference) => reference.spread(SELF_MADE_SAMPLES)?,
            None => bail!(
                "golden vectors need data: give --golden DIR, or --reference FILE to compute them"
            ),
        };
        draft.golden.origin = GoldenOrigin::SelfMade;
        draft.golden.framework = SELF_MADE_FRAMEWORK.to_owned();
        draft.golden.tolerance = self.tolerances(&draft, |_| 0.0);
        let provisional = Manifest::try_from(draft.clone()).context("manifest")?;
        let golden = desk::self_made_golden(&provisional, &self.onnx, &samples, &Limits::default())
            .context("no golden vectors can be computed")?;
        let largest = |index: usize| {
            let values = golden.outputs()[index].data().to_f32();
            f64::from(values.into_iter().map(f32::abs).fold(0.0, f32::max))
        };
        draft.golden.tolerance = self.tolerances(&draft, largest);
        Ok((Manifest::try_from(draft).context("manifest")?, golden))
    }

    fn tolerances(
        &self,
        draft: &ManifestDraft,
        largest: impl Fn(usize) -> f64,
    ) -> BTreeMap<String, f64> {
        let outputs = draft.outputs.iter().enumerate();
        outputs
            .map(|(index, output)| {
                (output.name.clone(), desk::tolerance(output, &self.survey, largest(index)))
            })
            .collect()
    }
}

/// The reference data, and the file that it came from.
struct ReferenceSamples {
    path: PathBuf,
    samples: Samples,
}

impl ReferenceSamples {
    fn read(path: &Path, spec: &SampleSpec, labels: &Labels) -> anyhow::Result<ReferenceSamples> {
        let samples = Samples::read(path, spec, labels)?;
        Ok(ReferenceSamples { path: path.to_owned(), samples })
    }

    /// From one to `count` samples that a model can answer, evenly over the whole of them.
    fn spread(&self, count: usize) -> anyhow::Result<Vec<Sample>> {
        let finite = |sample: &&Sample| match sample {
            Sample::Row(values) => values.iter().all(|value| value.is_finite()),
            Sample::Image { .. } => true,
        };
        let usable: Vec<&Sample> = self.samples.samples.iter().filter(finite).collect();
        ensure!(
            !usable.is_empty(),
            "{}: every row has an empty cell or a value that is not a finite number in a column that the model takes, and golden vectors need one row without",
            self.path.display()
        );
        let count = count.min(usable.len());
        Ok((0..count).map(|index| usable[index * usable.len() / count].clone()).collect())
    }
}

/// A bundle that was made, and what its model showed.
struct Packed {
    bundle: Bundle,
    model: Model,
    warnings: Vec<String>,
}

impl Packed {
    fn report(&self, args: &PackArgs) {
        let Packed { bundle, model, warnings } = self;
        let manifest = bundle.manifest();
        let accuracy = bundle.baseline().and_then(Baseline::accuracy);
        let golden = model.golden();
        if args.json {
            let distances = golden.outputs.iter().map(|output| {
                json!({"output": output.output, "largest": output.largest, "tolerance": output.tolerance})
            });
            let report = json!({
                "digest": bundle.digest(), "name": manifest.name, "version": manifest.version,
                "bytes": bundle.len_bytes(), "out": args.out,
                "golden": {"origin": manifest.golden.origin, "samples": golden.samples, "outputs": distances.collect::<Vec<_>>()},
                "accuracy": accuracy.map(Accuracy::share), "warnings": warnings,
            });
            println!("{report}");
            return;
        }
        warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        println!(
            "{} {} in {}",
            strong(&manifest.name),
            strong(&manifest.version),
            args.out.display()
        );
        println!("  digest    {}", bundle.digest());
        let inferred = args.manifest.is_none() && !args.source.is_dir();
        if inferred && !manifest.labels.is_empty() {
            println!("  labels    {}", labels_text(&manifest.labels, !args.labels.is_empty()));
        }
        println!("  size      {}", bytes(bundle.len_bytes()));
        println!("  golden    {}: {} samples reproduced", manifest.golden.origin, golden.samples);
        if let Some(accuracy) = accuracy {
            let (right, rows) = (accuracy.correct, accuracy.rows);
            println!(
                "  accuracy  {:.2} % of the reference ({right} of {rows})",
                100.0 * accuracy.share()
            );
        }
    }
}

/// The classes of an inferred manifest, and why they are in this order.
fn labels_text(labels: &[String], named: bool) -> String {
    let classes = labels.iter().enumerate().map(|(index, label)| format!("{index}={label}"));
    let classes: Vec<String> = classes.collect();
    let order = match labels.iter().enumerate().all(|(i, label)| *label == i.to_string()) {
        _ if named => "as --labels names them",
        true => "numbers by their value; --labels names another",
        false => "in alphabetical order; --labels names another",
    };
    format!("{} ({order})", classes.join(", "))
}

fn surveyed(onnx: &[u8], path: &Path) -> anyhow::Result<OnnxSurvey> {
    let survey =
        desk::survey(onnx, &Limits::default()).with_context(|| format!("{}", path.display()))?;
    survey.check().with_context(|| format!("{} cannot be packed", path.display()))?;
    Ok(survey)
}

fn labels_of(reference: &Reference, folder: &Path, args: &PackArgs) -> Labels {
    let column = args.label.clone().or_else(|| reference.label_column.clone());
    match (column, &reference.labels) {
        (Some(column), _) => Labels::Column(column),
        (None, Some(file)) => Labels::File(folder.join(file)),
        (None, None) => Labels::Usual,
    }
}

/// The model card beside the manifest, or beside its folder: versions of one model share a card.
fn find_card(folder: &Path) -> Option<PathBuf> {
    let shared = folder
        .canonicalize()
        .ok()
        .and_then(|folder| folder.parent().map(|parent| parent.join("README.md")));
    let is_card =
        |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.starts_with("---\n"));
    [Some(folder.join("README.md")), shared].into_iter().flatten().find(is_card)
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(read_file(path)?)
        .with_context(|| format!("{} is not UTF-8 text", path.display()))
}

fn read_golden(manifest: &Manifest, folder: &Path) -> anyhow::Result<Golden> {
    let path = |name: &str| folder.join(format!("{name}.npy"));
    let mut files = BTreeMap::new();
    for tensor in manifest.inputs.iter().chain(&manifest.outputs) {
        files
            .insert(tensor.name.clone(), read_file(&path(&tensor.name)).context("golden vectors")?);
    }
    Golden::from_npy(manifest, |tensor| Ok(files[&tensor.name].clone()))
        .with_context(|| format!("golden vectors in {}", folder.display()))
}

fn baseline(manifest: &Manifest, model: &Model, reference: &Samples) -> anyhow::Result<Baseline> {
    let reader = FeatureReader::of(&manifest.sample);
    let mut features: Vec<(String, Vec<f32>)> = reader
        .names()
        .iter()
        .map(|name| (name.clone(), Vec::with_capacity(reference.samples.len())))
        .collect();
    let mut answers = Vec::with_capacity(reference.samples.len());
    let bar = progress(reference.samples.len(), "answering the reference");
    for (row, sample) in reference.samples.iter().enumerate() {
        for (column, value) in
            features.iter_mut().zip(reader.read(sample).context("reference data")?)
        {
            column.1.push(value);
        }
        bar.inc(1);
        // A row with a missing value is counted by the baseline and has no class.
        let answer = model.answer(sample).ok();
        let class = answer.as_ref().and_then(|answer| answer.class.as_ref());
        let truth =
            reference.labels.as_ref().map(|labels| class_of(&labels[row], &manifest.labels));
        answers.push(match (class, truth.transpose()?) {
            (Some(class), truth) => ReferenceAnswer {
                class: Some(u32::try_from(class.index).context("a class has a small index")?),
                confidence: answer.as_ref().and_then(Answer::confidence),
                correct: truth.map(|truth| truth == class.index),
            },
            (None, _) => ReferenceAnswer::default(),
        });
    }
    bar.finish_and_clear();
    let decides = answers.iter().any(|answer| answer.class.is_some());
    let data = ReferenceData {
        features: &features,
        answers: if decides { &answers } else { &[] },
        class_count: if decides { class_count(manifest) } else { 0 },
        order: manifest.drift.order,
        sessions: &[],
        policy: manifest.drift.detector().context("drift policy")?,
    };
    Baseline::build(&data).context("the reference data gives no baseline")
}

/// How many classes the step that decides can answer.
fn class_count(manifest: &Manifest) -> usize {
    use selvedge_bundle::PostStep;

    let decides = |step: &&PostStep| !matches!(step, PostStep::Softmax { .. });
    match manifest.post.iter().find(decides) {
        Some(PostStep::Argmax { output }) => {
            let output = manifest.outputs.iter().find(|tensor| tensor.name == *output);
            output.expect("a manifest's steps read outputs that it lists").sample_elements()
        }
        _ => 2,
    }
}
