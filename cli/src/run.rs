//! `selvedge run`: a bundle's answers to the samples of a file, one by one as a device gives them.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use selvedge_bundle::{NamedTensor, TensorData};
use selvedge_runtime::{Answer, Sample};
use serde_json::{Map, Value, json};

use crate::data::{Labels, Samples, class_of};
use crate::verify::{load, open};

/// Answers the samples of a file
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The bundle's folder
    bundle: PathBuf,
    /// Samples: a CSV file with a header, or images as .npy
    input: PathBuf,
    /// The column with the true class (a column named label is taken without this)
    #[arg(long, value_name = "COLUMN", conflicts_with = "labels")]
    label: Option<String>,
    /// A .npy file with the true classes (INPUT-labels.npy is taken without this)
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Print one JSON object per sample, and a last one with the summary
    #[arg(long)]
    json: bool,
}

/// Runs the command; some samples without an answer are a failure.
pub fn main(args: RunArgs) -> anyhow::Result<ExitCode> {
    let bundle = open(&args.bundle)?;
    let model = load(&bundle)?;
    let labels = match (args.label, args.labels) {
        (Some(column), _) => Labels::Column(column),
        (None, Some(file)) => Labels::File(file),
        (None, None) => Labels::Usual,
    };
    let manifest = bundle.manifest();
    let Samples { samples, labels } = Samples::read(&args.input, &manifest.sample, &labels)?;
    let classes = labels.map(|labels| {
        labels
            .iter()
            .map(|label| class_of(label, &manifest.labels))
            .collect::<anyhow::Result<Vec<usize>>>()
    });
    let classes = classes.transpose()?;
    let class = |row: usize| classes.as_ref().map(|classes| classes[row]);
    let name =
        |class: usize| manifest.labels.get(class).cloned().unwrap_or_else(|| class.to_string());

    let mut out = Output { out: BufWriter::new(io::stdout().lock()), json: args.json };
    let mut summary = Summary::default();
    let cannot_print = "cannot write the answers";
    for (row, sample) in samples.iter().enumerate() {
        let answer = model.answer(sample);
        summary.count(answer.as_ref().ok(), class(row));
        match &answer {
            Ok(answer) => out.answer(row, answer, class(row).map(name)).context(cannot_print)?,
            Err(error) => out.failure(row, sample, &format!("{error:#}")).context(cannot_print)?,
        }
    }
    out.summary(&summary).context(cannot_print)?;
    Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Default)]
struct Summary {
    answered: usize,
    failed: usize,
    labelled: usize,
    correct: usize,
}

impl Summary {
    fn count(&mut self, answer: Option<&Answer>, class: Option<usize>) {
        let Some(answer) = answer else {
            self.failed += 1;
            return;
        };
        self.answered += 1;
        if let (Some(found), Some(class)) = (&answer.class, class) {
            self.labelled += 1;
            self.correct += usize::from(found.index == class);
        }
    }

    fn accuracy(&self) -> Option<f64> {
        (self.labelled > 0).then(|| self.correct as f64 / self.labelled as f64)
    }
}

struct Output<W> {
    out: W,
    json: bool,
}

impl<W: Write> Output<W> {
    fn answer(&mut self, row: usize, answer: &Answer, expected: Option<String>) -> io::Result<()> {
        if self.json {
            return writeln!(self.out, "{}", answer_json(row, answer, expected));
        }
        match &answer.class {
            Some(class) => {
                let label = class.label.clone().unwrap_or_else(|| class.index.to_string());
                let wrong = expected.filter(|expected| *expected != label);
                let wrong =
                    wrong.map(|expected| format!("  (should be {expected})")).unwrap_or_default();
                writeln!(self.out, "{row}  {label}  {:.4}{wrong}", class.score)
            }
            None => {
                let outputs: Vec<String> = answer.outputs.iter().map(output_text).collect();
                writeln!(self.out, "{row}  {}", outputs.join("  "))
            }
        }
    }

    fn failure(&mut self, row: usize, sample: &Sample, reason: &str) -> io::Result<()> {
        if self.json {
            return writeln!(self.out, "{}", json!({"row": row, "failed": reason}));
        }
        writeln!(self.out, "{row}  no answer to {sample}: {reason}")
    }

    fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        let Summary { answered, failed, correct, labelled } = summary;
        let accuracy = summary.accuracy();
        if self.json {
            let summary = json!({"answered": answered, "failed": failed, "labelled": labelled, "correct": correct, "accuracy": accuracy});
            writeln!(self.out, "{}", json!({ "summary": summary }))?;
        } else {
            write!(self.out, "{answered} answered, {failed} failed")?;
            match accuracy {
                Some(accuracy) => writeln!(
                    self.out,
                    ", accuracy {:.2} % ({correct} of {labelled})",
                    100.0 * accuracy
                )?,
                None => writeln!(self.out)?,
            }
        }
        self.out.flush()
    }
}

fn answer_json(row: usize, answer: &Answer, expected: Option<String>) -> Value {
    let mut object = Map::from_iter([("row".to_owned(), json!(row))]);
    if let Some(class) = &answer.class {
        object.insert("class".to_owned(), json!(class.index));
        object.insert("label".to_owned(), json!(class.label));
        object.insert("score".to_owned(), json!(class.score));
    }
    if let Some(expected) = expected {
        object.insert("expected".to_owned(), json!(expected));
    }
    if let Some(probabilities) = &answer.probabilities {
        object.insert("probabilities".to_owned(), json!(probabilities));
    }
    let outputs = answer.outputs.iter().map(|output| (output.name().to_owned(), values(output)));
    object.insert("outputs".to_owned(), Value::Object(outputs.collect()));
    Value::Object(object)
}

/// The elements, row-major, without the shape: it stands in the manifest.
fn values(output: &NamedTensor) -> Value {
    match output.data() {
        TensorData::F32(values) => json!(values),
        TensorData::I8(values) => json!(values),
        TensorData::U8(values) => json!(values),
        TensorData::I32(values) => json!(values),
        TensorData::I64(values) => json!(values),
    }
}

fn output_text(output: &NamedTensor) -> String {
    format!("{} {}", output.name(), values(output))
}
