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
    Reference,
};
use selvedge_runtime::desk::{self, OPSETS_TESTED, OnnxSurvey, SELF_MADE_FRAMEWORK};
use selvedge_runtime::{Limits, LoadOptions, Model, Sample};
use serde_json::json;

use crate::data::{Labels, Sessions, read_file};
use crate::reference::{ReferenceArgs, ReferenceSamples, doubts};
use crate::terminal::{bytes, strong};

/// How many reference samples self-made golden vectors are computed for.
const SELF_MADE_SAMPLES: usize = 32;

/// Makes a bundle of a model, its manifest, baseline, golden vectors and card
#[derive(Debug, Default, clap::Args)]
pub struct PackArgs {
    /// A folder with a manifest.toml, or an ONNX file
    #[arg(value_name = "DIR|MODEL.onnx")]
    source: PathBuf,
    /// The manifest, if it is not DIR/manifest.toml; without one it is inferred for an ONNX file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    given: ReferenceArgs,
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

/// The bundle of a recipe's folder, and its model.
pub fn pack_recipe(source: &Path) -> anyhow::Result<(Bundle, Model)> {
    let args = PackArgs { source: source.to_owned(), ..PackArgs::default() };
    let packed = Ingredients::gather(&args)?.pack()?;
    Ok((packed.bundle, packed.model))
}

/// The baseline that a recipe would be packed with: `source` is its folder or its manifest.
pub fn baseline_of_recipe(source: &Path, given: &ReferenceArgs) -> anyhow::Result<Baseline> {
    let mut args =
        PackArgs { source: source.to_owned(), given: given.clone(), ..PackArgs::default() };
    if source.is_file() {
        let parent = source.parent().unwrap_or(Path::new(""));
        let folder = if parent == Path::new("") { Path::new(".") } else { parent };
        (args.source, args.manifest) = (folder.to_owned(), Some(source.to_owned()));
    }
    let packed = Ingredients::gather(&args)?.pack()?;
    packed.bundle.baseline().cloned().with_context(|| {
        format!("{} names no reference data: give --reference FILE", source.display())
    })
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
        let given = &args.given;
        if let Some(order) = given.order().or(written.as_ref().map(|written| written.order)) {
            draft.drift.order = order;
        }
        let reference = match (&given.reference, &written) {
            (Some(data), _) => Some((data.clone(), given.labels(), given.sessions())),
            (None, Some(written)) => {
                let sessions = sessions_of(written, folder, given)?;
                Some((folder.join(&written.data), labels_of(written, folder, given), sessions))
            }
            (None, None) => None,
        };
        let read = |(path, labels, sessions): (PathBuf, Labels, Sessions)| {
            ReferenceSamples::read(&path, &draft.sample, &labels, &sessions)
        };
        let reference = reference.map(read).transpose()?;
        let golden = draft.golden.dir.take().map(|dir| folder.join(dir));
        let card = find_card(folder).map(|path| read_text(&path)).transpose()?;
        Ok(Ingredients { draft, onnx, survey, reference, golden, card, warnings: Vec::new() })
    }

    /// From an ONNX file and reference data.
    fn inferred(args: &PackArgs) -> anyhow::Result<Ingredients> {
        let onnx = read_file(&args.source)?;
        let survey = surveyed(&onnx, &args.source)?;
        let given = &args.given;
        let data = given.reference.as_deref().context(
            "an ONNX file alone does not say what its inputs mean: give --reference DATA.csv (a header names the columns) or --manifest FILE",
        )?;
        let inferred = infer::Question {
            onnx: &onnx,
            survey: &survey,
            model: &args.source,
            data,
            label: given.label.as_deref(),
            session: given.by.as_deref(),
            classes: &args.labels,
            normalize: args.normalize,
        };
        let mut draft = inferred.answer()?;
        draft.drift.order = given.order().unwrap_or_default();
        let sessions = given.sessions();
        let reference =
            Some(ReferenceSamples::read(data, &draft.sample, &given.labels(), &sessions)?);
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
            Some(reference) => {
                let baseline = reference.baseline(&manifest, &model, manifest.drift.order)?;
                self.warnings.extend(doubts(&baseline));
                Some(baseline)
            }
            None => {
                self.warnings.push("no reference data: the bundle has no baseline, and its devices cannot notice drift".to_owned());
                None
            }
        };
        let card = self.card.take().unwrap_or_else(|| card::of(&manifest, baseline.as_ref()));
        let program = desk::program(&manifest, &self.onnx, &Limits::default())
            .context("the model cannot be compiled")?;
        let (model_file, card) = (self.onnx, Some(card));
        let parts = BundleBuilder { manifest, model: model_file, program, baseline, golden, card };
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

fn labels_of(reference: &Reference, folder: &Path, given: &ReferenceArgs) -> Labels {
    let column = given.label.clone().or_else(|| reference.label_column.clone());
    match (column, &reference.labels) {
        (Some(column), _) => Labels::Column(column),
        (None, Some(file)) => Labels::File(folder.join(file)),
        (None, None) => Labels::Usual,
    }
}

fn sessions_of(
    reference: &Reference,
    folder: &Path,
    given: &ReferenceArgs,
) -> anyhow::Result<Sessions> {
    let column = given.by.clone().or_else(|| reference.session_column.clone());
    match (column, &reference.sessions) {
        (Some(_), Some(_)) => {
            bail!(
                "the sessions are in a column or in a file: name one of session_column and sessions"
            )
        }
        (Some(column), None) => Ok(Sessions::Column(column)),
        (None, Some(file)) => Ok(Sessions::File(folder.join(file))),
        (None, None) => Ok(Sessions::One),
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
