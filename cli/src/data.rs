//! Tables and images from files: reference data, and what `selvedge run` is given.
//!
//! A CSV file has a header; its columns are found by name, in any order, and an empty cell is a missing value (NaN).
//! A `.npy` file has images `[sample, height, width] u8` or `[sample, height, width, channel] u8`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use selvedge_bundle::{NamedTensor, SampleSpec, TensorData, read_npy};
use selvedge_runtime::Sample;

/// The largest data file that is read.
pub const DATA_BYTES_MAX: u64 = 1 << 30;

/// The column that holds the label where nothing else is said.
const LABEL_COLUMN: &str = "label";

/// Where the true class of each sample stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Labels {
    /// Wherever it usually stands, if it does: a column `label`, or `<name>-labels.npy` beside `<name>.npy`.
    #[default]
    Usual,
    /// In this column of the CSV file.
    Column(String),
    /// In this `.npy` file of class indices.
    File(PathBuf),
}

/// Where it stands from which session each sample is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sessions {
    /// Nowhere: there is one.
    #[default]
    One,
    /// In this column of the CSV file.
    Column(String),
    /// In this `.npy` file of integers.
    File(PathBuf),
}

/// Samples with their labels, if they have any.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// The samples, in the order of the file.
    pub samples: Vec<Sample>,
    /// One label per sample: a class's name or its index.
    pub labels: Option<Vec<String>>,
}

impl Samples {
    /// Reads the samples that `spec` describes.
    pub fn read(path: &Path, spec: &SampleSpec, labels: &Labels) -> anyhow::Result<Samples> {
        match spec {
            SampleSpec::Row(row) => {
                let names: Vec<&str> =
                    row.columns.iter().map(|column| column.name.as_str()).collect();
                let table = Table::read(path)?;
                let rows = table.rows(&names)?.into_iter().map(Sample::Row).collect();
                Ok(Samples { samples: rows, labels: table.labels(&names, labels)? })
            }
            SampleSpec::Image(_) => {
                let samples = read_images(path)?;
                let labels = image_labels(path, labels, samples.len())?;
                Ok(Samples { samples, labels })
            }
        }
    }
}

/// A CSV file in memory.
#[derive(Clone, Debug)]
pub struct Table {
    path: PathBuf,
    header: Vec<String>,
    records: Vec<csv::StringRecord>,
}

impl Table {
    /// Reads a CSV file with a header.
    pub fn read(path: &Path) -> anyhow::Result<Table> {
        let bytes = read_file(path)?;
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes.as_slice());
        let in_file = || format!("cannot read {} as CSV with a header", path.display());
        let header: Vec<String> =
            reader.headers().with_context(in_file)?.iter().map(str::to_owned).collect();
        let records = reader.records().collect::<Result<Vec<_>, _>>().with_context(in_file)?;
        ensure!(!records.is_empty(), "{} has no rows below its header", path.display());
        if let Some(twice) = (1..header.len()).find(|i| header[..*i].contains(&header[*i])) {
            bail!("{} has two columns {:?}", path.display(), header[twice]);
        }
        Ok(Table { path: path.to_owned(), header, records })
    }

    /// The names of the columns, in their order.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The numbers of the columns `names`, row by row.
    pub fn rows(&self, names: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
        let positions: Vec<usize> =
            names.iter().map(|name| self.position(name)).collect::<anyhow::Result<_>>()?;
        let row = |record: &csv::StringRecord| {
            positions
                .iter()
                .map(|position| self.number(record, *position))
                .collect::<anyhow::Result<Vec<f32>>>()
        };
        self.records.iter().map(row).collect()
    }

    /// The text of one column.
    pub fn texts(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let position = self.position(name)?;
        Ok(self.records.iter().map(|record| record[position].to_owned()).collect())
    }

    fn labels(&self, columns: &[&str], labels: &Labels) -> anyhow::Result<Option<Vec<String>>> {
        match labels {
            Labels::Column(name) => self.texts(name).map(Some),
            Labels::File(path) => read_integers(path, self.records.len()).map(Some),
            Labels::Usual if columns.contains(&LABEL_COLUMN) => Ok(None),
            Labels::Usual if self.header.iter().any(|name| name == LABEL_COLUMN) => {
                self.texts(LABEL_COLUMN).map(Some)
            }
            Labels::Usual => Ok(None),
        }
    }

    fn position(&self, name: &str) -> anyhow::Result<usize> {
        self.header.iter().position(|known| known == name).with_context(|| {
            format!(
                "{} has no column {name:?}; its columns are {}",
                self.path.display(),
                self.header.join(", ")
            )
        })
    }

    fn number(&self, record: &csv::StringRecord, position: usize) -> anyhow::Result<f32> {
        let cell = &record[position];
        if cell.is_empty() {
            return Ok(f32::NAN);
        }
        cell.parse().with_context(|| {
            let line = record.position().map_or(0, csv::Position::line);
            let column = &self.header[position];
            format!(
                "{}, line {line}, column {column:?}: {cell:?} is not a number, and a number was expected",
                self.path.display()
            )
        })
    }
}

/// From which session each row of a CSV file is: a number per text of the column, in the order in which they begin.
pub fn read_sessions(path: &Path, column: &str) -> anyhow::Result<Vec<u32>> {
    numbered(Table::read(path)?.texts(column)?)
}

/// From which session each sample is, by a `.npy` file of integers; numbered likewise.
pub fn read_session_file(path: &Path, count: usize) -> anyhow::Result<Vec<u32>> {
    numbered(read_integers(path, count)?)
}

fn numbered(names: Vec<String>) -> anyhow::Result<Vec<u32>> {
    let mut numbers = HashMap::new();
    let mut number = |name| {
        let next = u32::try_from(numbers.len()).context("there are too many sessions")?;
        Ok(*numbers.entry(name).or_insert(next))
    };
    names.into_iter().map(&mut number).collect()
}

/// The images of a `.npy` file.
pub fn read_images(path: &Path) -> anyhow::Result<Vec<Sample>> {
    let images = read_tensor(path)?;
    let (shape, TensorData::U8(pixels)) = (images.shape(), images.data()) else {
        bail!("{} holds {} values; images are u8", path.display(), images.dtype());
    };
    let [count, extents @ ..] = shape else { bail!("{} holds a single number", path.display()) };
    ensure!(
        matches!(extents.len(), 2 | 3) && !pixels.is_empty(),
        "{} has the shape {shape:?}; images are [sample, height, width] or [sample, height, width, channel]",
        path.display()
    );
    let image = |data: &[u8]| Sample::Image { shape: extents.to_vec(), data: data.to_vec() };
    Ok(pixels.chunks(pixels.len() / count).map(image).collect())
}

/// The class of a label: its place among the manifest's labels, or the index that it is.
pub fn class_of(label: &str, labels: &[String]) -> anyhow::Result<usize> {
    let index = labels.iter().position(|known| known == label);
    let index = index
        .or_else(|| label.parse().ok().filter(|index| labels.is_empty() || *index < labels.len()));
    index.with_context(|| {
        format!("the label {label:?} is none of the model's: {}", labels.join(", "))
    })
}

/// The bytes of a file of at most [`DATA_BYTES_MAX`].
pub fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let len_bytes =
        fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    ensure!(
        len_bytes <= DATA_BYTES_MAX,
        "{} has {len_bytes} bytes, and the limit is {DATA_BYTES_MAX}; give a smaller sample of the data",
        path.display()
    );
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn image_labels(path: &Path, labels: &Labels, count: usize) -> anyhow::Result<Option<Vec<String>>> {
    match labels {
        Labels::Column(name) => {
            bail!("there is no column {name:?} in {}; give a .npy file of labels", path.display())
        }
        Labels::File(file) => read_integers(file, count).map(Some),
        Labels::Usual => {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let beside = path.with_file_name(format!("{stem}-labels.npy"));
            if beside.exists() { read_integers(&beside, count).map(Some) } else { Ok(None) }
        }
    }
}

fn read_integers(path: &Path, count: usize) -> anyhow::Result<Vec<String>> {
    let tensor = read_tensor(path)?;
    let found = tensor.data().len();
    ensure!(found == count, "{} has {found} integers for {count} samples", path.display());
    Ok(match tensor.data() {
        TensorData::F32(_) => bail!("{} holds f32 values, and integers are needed", path.display()),
        TensorData::I8(values) => values.iter().map(i8::to_string).collect(),
        TensorData::U8(values) => values.iter().map(u8::to_string).collect(),
        TensorData::I32(values) => values.iter().map(i32::to_string).collect(),
        TensorData::I64(values) => values.iter().map(i64::to_string).collect(),
    })
}

fn read_tensor(path: &Path) -> anyhow::Result<NamedTensor> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    read_npy(&name, &read_file(path)?).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use selvedge_bundle::write_npy;

    use super::*;

    fn row_spec(names: &[&str]) -> SampleSpec {
        let columns: Vec<_> =
            names.iter().map(|name| serde_json::json!({ "name": name })).collect();
        serde_json::from_value(serde_json::json!({"kind": "row", "columns": columns}))
            .expect("a well-formed sample")
    }

    fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("the folder is writable");
        (folder, path)
    }

    #[test]
    fn columns_are_found_by_name_in_any_order_and_an_empty_cell_is_nan() {
        let (_folder, path) = written("t.csv", b"b, label,a\n2,up,1\n,down,3\n");
        let samples =
            Samples::read(&path, &row_spec(&["a", "b"]), &Labels::Usual).expect("well-formed");
        assert_eq!(samples.samples[0], Sample::Row(vec![1.0, 2.0]));
        let Sample::Row(second) = &samples.samples[1] else { panic!("rows") };
        assert!(second[0] == 3.0 && second[1].is_nan());
        assert_eq!(samples.labels, Some(vec!["up".to_owned(), "down".to_owned()]));
    }

    #[test]
    fn what_is_wrong_with_a_table_is_said_with_its_place() {
        let cases: [(&[u8], &[&str]); 5] = [
            (b"a,c\n1,2\n", &["no column \"b\"", "a, c"]),
            (b"a,b\n1,2\n3,x\n", &["line 3", "column \"b\"", "\"x\""]),
            (b"a,b\n", &["no rows"]),
            (b"a,b,a\n1,2,3\n", &["two columns \"a\""]),
            (b"a,b\n1\n", &["as CSV"]),
        ];
        for (bytes, words) in cases {
            let (_folder, path) = written("t.csv", bytes);
            let error =
                Samples::read(&path, &row_spec(&["a", "b"]), &Labels::Usual).expect_err("refused");
            assert!(words.iter().all(|word| format!("{error:#}").contains(word)), "{error:#}");
        }
    }

    #[test]
    fn sessions_are_numbered_in_the_order_in_which_they_begin() {
        let (_folder, path) = written("t.csv", b"a,day\n1,tue\n2,mon\n3,tue\n");
        assert_eq!(read_sessions(&path, "day").expect("well-formed"), [0, 1, 0]);
        let error = read_sessions(&path, "run").expect_err("refused").to_string();
        assert!(error.contains("no column \"run\""), "{error}");
    }

    #[test]
    fn images_take_their_labels_from_the_file_beside_them() {
        let image = NamedTensor::new("i", vec![2, 1, 2], TensorData::U8(vec![1, 2, 3, 4]))
            .expect("two images");
        let labels =
            NamedTensor::new("l", vec![2], TensorData::I64(vec![7, 0])).expect("two labels");
        let (folder, path) = written("digits.npy", &write_npy(&image));
        fs::write(folder.path().join("digits-labels.npy"), write_npy(&labels)).expect("writable");
        let image = serde_json::json!({"kind": "image", "axes": ["height", "width"], "shape": [1, 2], "dtype": "u8", "min": 0, "max": 16});
        let spec: SampleSpec = serde_json::from_value(image).expect("a well-formed sample");
        let samples = Samples::read(&path, &spec, &Labels::Usual).expect("well-formed");
        assert_eq!(samples.samples[1], Sample::Image { shape: vec![1, 2], data: vec![3, 4] });
        assert_eq!(samples.labels, Some(vec!["7".to_owned(), "0".to_owned()]));
    }

    #[test]
    fn a_label_is_a_name_or_an_index_of_a_class() {
        let labels = ["5".to_owned(), "up".to_owned()];
        assert_eq!(class_of("up", &labels).expect("a name"), 1);
        assert_eq!(class_of("5", &labels).expect("a name that looks like an index"), 0);
        assert_eq!(class_of("1", &labels).expect("an index"), 1);
        assert_eq!(class_of("9", &[]).expect("without names every index is one"), 9);
        assert!(class_of("7", &labels).expect_err("none of them").to_string().contains("5, up"));
    }
}
