//! `selvedge labels`: says what was right of answers, later.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::api::{Api, FleetUrl, TakenLabels};
use crate::data::Table;
use crate::terminal;

/// How many labels are sent at a time.
const LABELS_SENT_MAX: usize = 500;

/// The columns of a table of labels, and whether their cells are numbers.
const COLUMNS: [(&str, Cell); 9] = [
    ("id", Cell::Text),
    ("device", Cell::Text),
    ("boot", Cell::Whole),
    ("source", Cell::Text),
    ("sample", Cell::Whole),
    ("class", Cell::Text),
    ("class_index", Cell::Whole),
    ("value", Cell::Number),
    ("slice", Cell::Text),
];

/// What a cell is, where it is not empty.
#[derive(Clone, Copy, Debug)]
enum Cell {
    Text,
    Whole,
    Number,
}

/// Say what was right of answers, later
#[derive(Debug, clap::Args)]
pub struct LabelsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Import(ImportArgs),
}

/// Send a table of labels to the fleet: of each result the last one counts
///
/// The columns: `id` (DEVICE/BOOT/SOURCE/SAMPLE, as results are listed), or `device`, `boot`, `source` and `sample`;
/// `class` (a name), `class_index` or `value`; and `slice`, if there is one.
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// A CSV file with a header
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    fleet: FleetUrl,
}

pub fn main(args: LabelsArgs) -> Result<ExitCode> {
    match args.command {
        Command::Import(args) => import(&args),
    }
}

fn import(args: &ImportArgs) -> Result<ExitCode> {
    let labels = labels(&Table::read(&args.file)?)
        .with_context(|| format!("{} is not a table of labels", args.file.display()))?;
    let api = Api::connect(&args.fleet)?;
    let mut all = TakenLabels::default();
    for (part, labels) in labels.chunks(LABELS_SENT_MAX).enumerate() {
        let taken = api.add_labels(labels)?;
        for refused in &taken.refused {
            let row = part * LABELS_SENT_MAX + refused.entry + 1;
            eprintln!("{} row {row}: {}", terminal::bad("refused:"), refused.error);
        }
        all.stored += taken.stored;
        all.matched += taken.matched;
        all.refused.extend(taken.refused);
    }
    let (stored, matched, refused) = (all.stored, all.matched, all.refused.len());
    println!("{stored} labels are kept, the answers of {matched} are known; {refused} are refused");
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The labels of a table, in the form that the fleet takes.
fn labels(table: &Table) -> Result<Vec<Value>> {
    let mut labels: Vec<Map<String, Value>> = Vec::new();
    for name in table.header() {
        let known = COLUMNS.iter().find(|(known, _)| known == name);
        let Some((_, cell)) = known else {
            let known: Vec<&str> = COLUMNS.iter().map(|(known, _)| *known).collect();
            bail!("it has a column {name:?}; there may be {}", known.join(", "));
        };
        let field = if name == "class_index" { "class" } else { name };
        let texts = table.texts(name)?;
        labels.resize(texts.len(), Map::new());
        for (row, (label, text)) in labels.iter_mut().zip(&texts).enumerate() {
            if text.is_empty() {
                continue;
            }
            let value = cell.read(text).with_context(|| format!("row {}, {name}", row + 1))?;
            let is_new = label.insert(field.to_owned(), value).is_none();
            ensure!(is_new, "row {} has a class and a class_index", row + 1);
        }
    }
    Ok(labels.into_iter().map(Value::Object).collect())
}

impl Cell {
    fn read(self, text: &str) -> Result<Value> {
        let what = || format!("{text:?} is not a number");
        match self {
            Self::Text => Ok(text.into()),
            Self::Whole => Ok(text.parse::<u64>().with_context(what)?.into()),
            Self::Number => Ok(text.parse::<f64>().with_context(what)?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Vec<Value>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("labels.csv");
        fs::write(&path, text).expect("writable");
        labels(&Table::read(&path)?)
    }

    #[test]
    fn a_row_is_a_label_and_empty_cells_say_nothing() {
        let rows = read("id,class,class_index,value,slice\na/1/b/2,high,,,night\na/1/b/3,,4,,\n");
        let expected = vec![
            json!({ "id": "a/1/b/2", "class": "high", "slice": "night" }),
            json!({ "id": "a/1/b/3", "class": 4 }),
        ];
        assert_eq!(rows.expect("it is a table"), expected);
        let parts = read("device,boot,source,sample,value\na,1,b,2,-1.5\n");
        let expected =
            json!({ "device": "a", "boot": 1, "source": "b", "sample": 2, "value": -1.5 });
        assert_eq!(parts.expect("it is a table"), [expected]);
    }

    #[test]
    fn what_is_wrong_with_a_table_is_named() {
        for (text, named) in [
            ("id,label\na/1/b/2,1\n", "a column \"label\""),
            ("id,class_index\na/1/b/2,high\n", "row 1, class_index"),
            ("id,class,class_index\na/1/b/2,high,1\n", "row 1 has a class and a class_index"),
        ] {
            let error = format!("{:#}", read(text).expect_err(text));
            assert!(error.contains(named), "{error}");
        }
    }
}
