//! An export of captured samples, part by part.

use std::{io, str::FromStr};

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};

use selvedge_bundle::{DType, npy_header};

use super::parquet::{Column, ParquetWriter, Values};
use crate::{
    Error, Limits,
    error::one_line,
    store::{CaptureCensus, CaptureFilter, CaptureLabel, CaptureRow, Store},
};

/// Parts that may wait for a slow reader.
const PARTS_WAITING_MAX: usize = 4;

/// Samples of one part, which is one group of rows in Parquet.
const PART_SAMPLES_MAX: usize = 8192;

/// Bytes of values at which a part is closed.
const PART_BYTES: i64 = 4 * 1024 * 1024;

/// The names of the columns that say whose a sample is, and what was right for it.
const OWN_COLUMNS: [&str; 8] =
    ["id", "device", "slot", "bundle", "at_ms", "reason", "label", "label_value"];

/// As what samples are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A table: id, device, slot, bundle, time, reason, label, and a column per feature; of images, pixels and
    /// extents.
    Parquet,
    /// The values of all samples, stacked: `[sample, column] f32` or `[sample, height, width(, channel)] u8`.
    Npy,
    /// The same samples in the same order as in an array, one line each.
    Ids,
}

impl ExportFormat {
    /// The media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Npy => "application/octet-stream",
            Self::Ids => "text/csv; charset=utf-8",
        }
    }

    /// How a file's name ends.
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Npy => "npy",
            Self::Ids => "csv",
        }
    }
}

impl FromStr for ExportFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "parquet" => Ok(Self::Parquet),
            "npy" => Ok(Self::Npy),
            "ids" => Ok(Self::Ids),
            _ => {
                Err(Error::Refused(format!("format={text} is not known: use parquet, npy or ids")))
            }
        }
    }
}

/// What all samples of an export are.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// `[column] f32`, with the columns' names.
    Row(Vec<String>),
    /// `u8` of this shape.
    Image(Vec<i32>),
}

/// An export that can be made.
pub struct Export {
    store: Store,
    format: ExportFormat,
    form: Form,
    // The names of the bundle's classes.
    labels: Vec<String>,
    // Kind and shape of each sample.
    kept_as: (String, String),
    // Id and bytes of values of each sample.
    samples: Vec<(i64, i64)>,
}

impl Export {
    /// Looks whether what `filter` takes can be exported; `columns` are the names of the bundle's columns, none for
    /// images, `labels` those of its classes.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no sample, [`Error::Conflict`] if there are too many bytes of them, or if
    /// they do not go together.
    pub async fn begin(
        store: &Store,
        filter: &CaptureFilter,
        format: ExportFormat,
        columns: &[String],
        labels: Vec<String>,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let census = store.count_captures(filter).await?;
        let CaptureCensus { samples, len_bytes, forms } = &census;
        let max = limits.capture_export_bytes_max;
        if *len_bytes > max {
            return Err(Error::Conflict(format!(
                "the {samples} samples have {len_bytes} bytes, more than the {max} of one export: ask \
                 for one device, or for a shorter time"
            )));
        }
        let kept_as = match &forms[..] {
            [] => return Err(Error::NotFound("there is no captured sample like that".into())),
            [kept_as] => kept_as.clone(),
            [(kind, shape), (other_kind, other_shape), ..] => {
                return Err(Error::Conflict(format!(
                    "the samples do not go together: there are {kind}s of shape {shape} and \
                     {other_kind}s of shape {other_shape}"
                )));
            }
        };
        let form = read_form(&kept_as.0, &kept_as.1, columns)?;
        let samples = store.capture_ids(filter).await?;
        Ok(Self { store: store.clone(), format, form, labels, kept_as, samples })
    }

    /// The bytes, part by part. It ends with an error if a sample is deleted meanwhile, or one of another form came
    /// just before.
    pub fn stream(self) -> impl Stream<Item = io::Result<Vec<u8>>> {
        let (parts, waiting) = mpsc::channel(PARTS_WAITING_MAX);
        tokio::spawn(async move {
            if let Err(error) = self.send(&parts).await {
                tracing::warn!("an export of captured samples ended early: {}", one_line(&error));
                // The reader is told that what it has is not the whole; it may be gone.
                let _ = parts.send(Err(io::Error::other("a sample is not what it was"))).await;
            }
        });
        ReceiverStream::new(waiting)
    }

    async fn send(self, parts: &mpsc::Sender<io::Result<Vec<u8>>>) -> Result<(), Error> {
        let Self { store, format, form, labels, kept_as, samples } = self;
        let mut writer = Writer::new(format, form);
        let mut bytes = writer.begin(samples.len());
        for part in parts_of(&samples) {
            let ids: Vec<i64> = part.iter().map(|(id, _)| *id).collect();
            let rows = store.captures_with_values(&ids).await?;
            let is_alike = |(row, _): &(CaptureRow, Vec<u8>)| {
                (&row.kind, &row.shape) == (&kept_as.0, &kept_as.1)
            };
            let alike = rows.iter().filter(|row| is_alike(row)).count();
            if alike != ids.len() {
                let other = ids.len() - alike;
                return Err(Error::Conflict(format!("{other} samples are not what they were")));
            }
            bytes.extend(writer.part(&rows, &labels));
            if parts.send(Ok(std::mem::take(&mut bytes))).await.is_err() {
                // Whoever asked has gone.
                return Ok(());
            }
        }
        bytes.extend(writer.end());
        let _ = parts.send(Ok(bytes)).await;
        Ok(())
    }
}

fn parts_of(mut samples: &[(i64, i64)]) -> impl Iterator<Item = &[(i64, i64)]> {
    std::iter::from_fn(move || {
        let mut len_bytes = 0;
        let fits = samples.iter().take(PART_SAMPLES_MAX).take_while(|(_, len)| {
            let is_begun = len_bytes > 0;
            len_bytes += len;
            !is_begun || len_bytes <= PART_BYTES
        });
        let (part, rest) = samples.split_at(fits.count());
        samples = rest;
        (!part.is_empty()).then_some(part)
    })
}

fn read_form(kind: &str, shape: &str, columns: &[String]) -> Result<Form, Error> {
    let extents: Vec<i32> = serde_json::from_str(shape).map_err(|_| {
        Error::Conflict(format!("samples of shape {shape} are larger than can be exported"))
    })?;
    match (kind, &extents[..]) {
        ("row", [count]) if usize::try_from(*count).is_ok_and(|it| it == columns.len()) => {
            Ok(Form::Row(column_names(columns)))
        }
        ("image", _) => Ok(Form::Image(extents)),
        _ => Err(Error::Conflict(format!(
            "the samples are {kind}s of shape {shape}, and the bundle has {} columns",
            columns.len()
        ))),
    }
}

/// The columns' names; one that is taken stands behind `feature.`.
fn column_names(columns: &[String]) -> Vec<String> {
    let name = |name: &String| match OWN_COLUMNS.contains(&&name[..]) {
        true => format!("feature.{name}"),
        false => name.clone(),
    };
    columns.iter().map(name).collect()
}

/// Makes the parts of one format.
enum Writer {
    Parquet(ParquetWriter, Form),
    Npy(Form),
    Ids,
}

impl Writer {
    fn new(format: ExportFormat, form: Form) -> Self {
        match format {
            ExportFormat::Parquet => Self::Parquet(ParquetWriter::default(), form),
            ExportFormat::Npy => Self::Npy(form),
            ExportFormat::Ids => Self::Ids,
        }
    }

    fn begin(&mut self, samples: usize) -> Vec<u8> {
        match self {
            Self::Parquet(writer, _) => writer.begin(),
            Self::Npy(Form::Row(columns)) => npy_header(DType::F32, &[samples, columns.len()]),
            Self::Npy(Form::Image(shape)) => {
                let extents = shape.iter().map(|&extent| extent.unsigned_abs() as usize);
                npy_header(DType::U8, &[samples].into_iter().chain(extents).collect::<Vec<_>>())
            }
            Self::Ids => {
                b"id,device,boot,source,sample,slot,bundle,at_ms,reason,label\r\n".to_vec()
            }
        }
    }

    fn part(&mut self, rows: &[(CaptureRow, Vec<u8>)], labels: &[String]) -> Vec<u8> {
        match self {
            Self::Parquet(writer, form) => writer.group(&columns_of(form, labels, rows)),
            // Values are kept as an array has them.
            Self::Npy(_) => rows.iter().flat_map(|(_, values)| values.iter().copied()).collect(),
            Self::Ids => {
                rows.iter().map(|(row, _)| line_of(row, labels)).collect::<String>().into_bytes()
            }
        }
    }

    fn end(self) -> Vec<u8> {
        match self {
            Self::Parquet(writer, _) => writer.end(),
            Self::Npy(_) | Self::Ids => Vec::new(),
        }
    }
}

/// The columns of a table: what is said of each sample, then its values.
fn columns_of(form: &Form, labels: &[String], rows: &[(CaptureRow, Vec<u8>)]) -> Vec<Column> {
    let text = |name: &str, of: &dyn Fn(&CaptureRow) -> String| {
        let texts = rows.iter().map(|(row, _)| of(row).into_bytes()).collect();
        Column::new(name, Values::Text(texts))
    };
    let labels: Vec<_> = rows.iter().map(|(row, _)| row.label(labels)).collect();
    let [id, device, slot, bundle, at_ms, reason, label, label_value] = OWN_COLUMNS;
    let mut columns = vec![
        text(id, &CaptureRow::result_id),
        text(device, &|row| row.device.clone()),
        text(slot, &|row| row.slot.clone()),
        text(bundle, &|row| row.bundle().to_string()),
        Column::new(at_ms, Values::Time(rows.iter().map(|(row, _)| row.at_ms).collect())),
        text(reason, &|row| row.reason.clone()),
        optional(label, &labels, Values::Text, |label| match label {
            CaptureLabel::Class(name) => Some(name.clone().into_bytes()),
            CaptureLabel::Value(_) => None,
        }),
        optional(label_value, &labels, Values::Float, |label| match label {
            CaptureLabel::Class(_) => None,
            CaptureLabel::Value(value) => Some(*value),
        }),
    ];
    match form {
        Form::Row(names) => columns.extend(names.iter().enumerate().map(|(place, name)| {
            let value = |(_, values): &(CaptureRow, Vec<u8>)| {
                let (floats, _) = values.as_chunks::<4>();
                f32::from_le_bytes(floats[place])
            };
            Column::new(name, Values::Float(rows.iter().map(value).collect()))
        })),
        Form::Image(shape) => {
            let pixels = rows.iter().map(|(_, values)| values.clone()).collect();
            columns.push(Column::new("pixels", Values::Bytes(pixels)));
            let names = ["height", "width", "channels"];
            columns.extend(names.into_iter().enumerate().map(|(axis, name)| {
                let extent = shape.get(axis);
                Column {
                    name: name.into(),
                    values: Values::Int(extent.map_or_else(Vec::new, |it| vec![*it; rows.len()])),
                    present: Some(vec![extent.is_some(); rows.len()]),
                }
            }));
        }
    }
    columns
}

/// A column of what some labels say.
fn optional<T>(
    name: &str,
    labels: &[Option<CaptureLabel>],
    values: impl FnOnce(Vec<T>) -> Values,
    of: impl Fn(&CaptureLabel) -> Option<T>,
) -> Column {
    let said: Vec<Option<T>> = labels.iter().map(|label| label.as_ref().and_then(&of)).collect();
    let present = said.iter().map(Option::is_some).collect();
    let values = values(said.into_iter().flatten().collect());
    Column { name: name.into(), values, present: Some(present) }
}

/// A sample's line of ids, as CSV (RFC 4180). Of names, those of classes alone may have something to quote.
fn line_of(row: &CaptureRow, labels: &[String]) -> String {
    let label = match row.label(labels) {
        Some(CaptureLabel::Class(name)) if name.contains([',', '"', '\r', '\n']) => {
            format!("\"{}\"", name.replace('"', "\"\""))
        }
        Some(CaptureLabel::Class(name)) => name,
        Some(CaptureLabel::Value(value)) => value.to_string(),
        None => String::new(),
    };
    let CaptureRow { device, boot, source, sample, slot, at_ms, reason, .. } = row;
    let (id, bundle) = (row.result_id(), row.bundle());
    format!("{id},{device},{boot},{source},{sample},{slot},{bundle},{at_ms},{reason},{label}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_closed_by_bytes_and_by_samples_and_none_is_lost() {
        let sizes = |samples: &[(i64, i64)]| parts_of(samples).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[(1, 3 * PART_BYTES), (2, PART_BYTES / 2), (3, PART_BYTES / 2)]), [1, 2]);
        let many: Vec<(i64, i64)> = (0..PART_SAMPLES_MAX as i64 + 1).map(|id| (id, 4)).collect();
        assert_eq!(sizes(&many), [PART_SAMPLES_MAX, 1]);
    }

    #[test]
    fn what_does_not_fit_the_bundle_is_named() {
        let columns = ["id".to_owned(), "flow".to_owned()];
        let row = read_form("row", "[2]", &columns).expect("it has two columns");
        assert_eq!(row, Form::Row(vec!["feature.id".into(), "flow".into()]));
        assert_eq!(read_form("image", "[8,8]", &[]).expect("it fits"), Form::Image(vec![8, 8]));
        for (kind, shape, named) in [
            ("row", "[3]", "rows of shape [3], and the bundle has 2 columns"),
            ("row", "[4294967295]", "larger than can be exported"),
        ] {
            let error = read_form(kind, shape, &columns).expect_err(shape).to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_format_that_is_not_known_is_refused_with_those_that_are() {
        for format in ["parquet", "npy", "ids"] {
            format.parse::<ExportFormat>().expect(format);
        }
        let error = "xlsx".parse::<ExportFormat>().expect_err("it is not known").to_string();
        assert!(error.contains("format=xlsx") && error.contains("parquet, npy or ids"), "{error}");
    }
}
