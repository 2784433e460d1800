//! A file, played at a rate: a CSV file with a header, or an `.npy` file.
//!
//! The columns of a CSV file are found by name; those that the model does not take, such as a label,
//! are ignored. In an `.npy` file the first axis counts the samples.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use selvedge_bundle::{NamedTensor, SampleSpec, TensorData, read_npy};
use selvedge_runtime::Sample;
use selvedge_wire::EventKind;
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    error::one_line, inference::SampleShape, limits::REPLAY_BYTES_MAX, reporter::Reporter,
};

use super::{Feed, Patience};

/// A rate above this is played as several samples per tick.
const TICKS_PER_S_MAX: f64 = 500.0;

/// How a file is played.
pub(crate) struct Replay {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) rate_hz: f64,
    pub(crate) repeat: bool,
}

/// Plays a file whenever the slot has a model that can take it, until its end, or for ever.
pub(crate) async fn run_replay(replay: Replay, mut feed: Feed, reporter: Reporter) {
    let recording = open(&replay, &reporter).await;
    let mut shape = feed.slot().shape();
    let mut player = Player { recording, next: 0, pace: Pace::new(replay.rate_hz) };
    let mut refused = None;
    loop {
        let Some(spec) = shape.borrow_and_update().clone() else {
            if shape.changed().await.is_err() {
                return;
            }
            continue;
        };
        match player.recording.reader(&spec) {
            Ok(reader) => {
                let end =
                    player.play(&reader, &spec, replay.repeat, &mut feed, &mut shape, &reporter);
                match end.await {
                    Played::ToTheEnd => break,
                    Played::UntilTheModelChanged => {}
                    Played::UntilTheWorkerEnded => return,
                }
            }
            Err(problem) => {
                let detail = format!("source {}: {problem}", replay.name);
                if refused.replace(detail.clone()) != Some(detail.clone()) {
                    tracing::warn!("{detail}");
                    reporter.tell_now(EventKind::SourceFailed, None, None, &detail).await;
                }
                if shape.changed().await.is_err() {
                    return;
                }
            }
        }
    }
    let detail = format!("source {}: the file has ended", replay.name);
    tracing::info!("{detail}");
    reporter.tell_now(EventKind::SourceFailed, None, None, &detail).await;
}

async fn open(replay: &Replay, reporter: &Reporter) -> Recording {
    let mut patience = Patience::new();
    loop {
        let file = replay.file.clone();
        let read = tokio::task::spawn_blocking(move || Recording::read(&file)).await;
        match read.unwrap_or_else(|_| Err("the file made its reader panic".to_owned())) {
            Ok(recording) => return recording,
            Err(problem) => patience.failed(&replay.name, &problem, reporter).await,
        }
    }
}

struct Player {
    recording: Recording,
    next: usize,
    pace: Pace,
}

enum Played {
    ToTheEnd,
    UntilTheModelChanged,
    UntilTheWorkerEnded,
}

impl Player {
    async fn play(
        &mut self,
        reader: &Reader,
        spec: &Arc<SampleSpec>,
        repeat: bool,
        feed: &mut Feed,
        shape: &mut watch::Receiver<SampleShape>,
        reporter: &Reporter,
    ) -> Played {
        while !shape.has_changed().unwrap_or(true) {
            for _ in 0..self.pace.samples_due().await {
                if self.next == self.recording.len() {
                    if !repeat {
                        return Played::ToTheEnd;
                    }
                    self.next = 0;
                }
                let sample = self.recording.sample(self.next, reader);
                self.next += 1;
                match sample {
                    Ok(sample) => {
                        if feed.answer(sample, spec).await.is_err() {
                            return Played::UntilTheWorkerEnded;
                        }
                    }
                    Err(problem) => reporter.malformed(&feed.source, &problem).await,
                }
            }
        }
        match shape.has_changed() {
            Ok(_) => Played::UntilTheModelChanged,
            Err(_) => Played::UntilTheWorkerEnded,
        }
    }
}

/// A rate as ticks of so many samples.
struct Pace {
    interval: Interval,
    samples: usize,
}

impl Pace {
    fn new(rate_hz: f64) -> Self {
        let samples = (rate_hz / TICKS_PER_S_MAX).ceil().max(1.0);
        let mut interval = interval(Duration::from_secs_f64(samples / rate_hz));
        // A tick that comes late does not shift those after it; a model that is slower than the file
        // slows the file.
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { interval, samples: samples as usize }
    }

    async fn samples_due(&mut self) -> usize {
        self.interval.tick().await;
        self.samples
    }
}

/// What a file holds. There is at least one sample.
enum Recording {
    Table { columns: Vec<String>, rows: Vec<Vec<Option<f32>>> },
    Tensor(NamedTensor),
}

/// How a model's samples are read from a recording.
enum Reader {
    /// The places of the model's columns in the table.
    Columns(Vec<usize>),
    /// The first axis counts the samples.
    Slices { len: usize },
}

impl Recording {
    fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let len_bytes = fs::metadata(path).map_err(failed)?.len();
        if len_bytes > REPLAY_BYTES_MAX {
            return Err(format!(
                "{} has {len_bytes} bytes, more than the limit of {REPLAY_BYTES_MAX}",
                path.display()
            ));
        }
        let bytes = fs::read(path).map_err(failed)?;
        let recording = match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Self::from_npy(&bytes),
            _ => Self::from_csv(&bytes),
        };
        let recording = recording.map_err(|problem| format!("{}: {problem}", path.display()))?;
        if recording.len() == 0 {
            return Err(format!("{} has no samples", path.display()));
        }
        Ok(recording)
    }

    fn from_npy(bytes: &[u8]) -> Result<Self, String> {
        let tensor = read_npy("samples", bytes).map_err(|error| one_line(&error))?;
        if tensor.shape().len() < 2 {
            return Err("expected an array whose first axis counts the samples".to_owned());
        }
        Ok(Self::Tensor(tensor))
    }

    fn from_csv(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = csv::Reader::from_reader(bytes);
        let header = reader.headers().map_err(|error| error.to_string())?;
        let columns = header.iter().map(|name| name.trim().to_owned()).collect();
        let mut rows = Vec::new();
        for row in reader.records() {
            let row = row.map_err(|error| error.to_string())?;
            rows.push(row.iter().map(|cell| cell.trim().parse().ok()).collect());
        }
        Ok(Self::Table { columns, rows })
    }

    fn len(&self) -> usize {
        match self {
            Self::Table { rows, .. } => rows.len(),
            Self::Tensor(tensor) => tensor.shape()[0],
        }
    }

    fn reader(&self, spec: &SampleSpec) -> Result<Reader, String> {
        match (self, spec) {
            (Self::Table { columns, .. }, SampleSpec::Row(row)) => {
                let place = |name: &str| columns.iter().position(|column| column == name);
                let places = row.columns.iter().map(|column| {
                    let name = &column.name;
                    place(name).ok_or_else(|| {
                        format!("the file has no column {name:?}, which the model takes")
                    })
                });
                Ok(Reader::Columns(places.collect::<Result<_, _>>()?))
            }
            (Self::Tensor(tensor), SampleSpec::Row(row)) => {
                let expected = [row.columns.len()];
                slices(tensor, &expected, "rows")
            }
            (Self::Tensor(tensor), SampleSpec::Image(image)) => {
                let expected: Vec<usize> = image.shape.iter().map(|axis| *axis as usize).collect();
                match tensor.data() {
                    TensorData::U8(_) => slices(tensor, &expected, "images"),
                    _ => Err(format!(
                        "the model takes images of u8, the file has {}",
                        tensor.dtype()
                    )),
                }
            }
            (Self::Table { .. }, SampleSpec::Image(_)) => {
                Err("the model takes images, the file has rows".to_owned())
            }
        }
    }

    fn sample(&self, number: usize, reader: &Reader) -> Result<Sample, String> {
        match (self, reader) {
            (Self::Table { columns, rows }, Reader::Columns(places)) => {
                let cell = |place: &usize| {
                    let value = rows[number].get(*place).copied().flatten();
                    value.ok_or_else(|| {
                        let line = number + 2;
                        format!("line {line}: column {:?} has no number", columns[*place])
                    })
                };
                Ok(Sample::Row(places.iter().map(cell).collect::<Result<_, _>>()?))
            }
            (Self::Tensor(tensor), Reader::Slices { len }) => {
                Ok(slice(tensor, number * len..(number + 1) * len))
            }
            _ => Err("the file is read in another way than it was made".to_owned()),
        }
    }
}

fn slices(tensor: &NamedTensor, expected: &[usize], what: &str) -> Result<Reader, String> {
    if tensor.shape()[1..] != *expected {
        let met = &tensor.shape()[1..];
        return Err(format!("the model takes {what} of shape {expected:?}, the file has {met:?}"));
    }
    Ok(Reader::Slices { len: expected.iter().product() })
}

fn slice(tensor: &NamedTensor, range: std::ops::Range<usize>) -> Sample {
    match tensor.data() {
        TensorData::U8(pixels) if tensor.shape().len() > 2 => {
            let (shape, data) = (tensor.shape()[1..].to_vec(), pixels[range].to_vec());
            Sample::Image { shape, data }
        }
        TensorData::F32(values) => Sample::Row(values[range].to_vec()),
        TensorData::U8(values) => Sample::Row(converted(&values[range])),
        TensorData::I8(values) => Sample::Row(converted(&values[range])),
        TensorData::I32(values) => Sample::Row(values[range].iter().map(|v| *v as f32).collect()),
        TensorData::I64(values) => Sample::Row(values[range].iter().map(|v| *v as f32).collect()),
    }
}

fn converted<T: Copy + Into<f32>>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| (*value).into()).collect()
}

#[cfg(test)]
mod tests {
    use selvedge_bundle::{Column, DType, ImageAxis, ImageSpec, RowSpec, write_npy};

    use super::*;

    fn rows_of(names: &[&str]) -> SampleSpec {
        let column = |name: &&str| Column {
            name: (*name).to_owned(),
            unit: String::new(),
            min: None,
            max: None,
        };
        SampleSpec::Row(RowSpec { columns: names.iter().map(column).collect() })
    }

    fn images(shape: [u32; 2]) -> SampleSpec {
        SampleSpec::Image(ImageSpec {
            axes: vec![ImageAxis::Height, ImageAxis::Width],
            shape: shape.to_vec(),
            dtype: DType::U8,
            min: 0.0,
            max: 255.0,
        })
    }

    fn npy(shape: &[usize], data: TensorData) -> Recording {
        let tensor = NamedTensor::new("samples", shape.to_vec(), data).expect("the shape fits");
        Recording::from_npy(&write_npy(&tensor)).expect("our own file")
    }

    #[test]
    fn columns_are_found_by_name_and_a_label_is_ignored() {
        let recording =
            Recording::from_csv(b"b, label ,a\n1,normal,2\n3.5,odd,-4e2\n").expect("it is CSV");
        let reader = recording.reader(&rows_of(&["a", "b"])).expect("both are there");
        assert_eq!(recording.sample(0, &reader), Ok(Sample::Row(vec![2.0, 1.0])));
        assert_eq!(recording.sample(1, &reader), Ok(Sample::Row(vec![-400.0, 3.5])));
    }

    #[test]
    fn what_the_model_takes_and_the_file_lacks_is_named() {
        let recording = Recording::from_csv(b"a,b\n1,x\n").expect("it is CSV");
        let problem = recording.reader(&rows_of(&["a", "c"])).err().expect("c lacks");
        assert!(problem.contains("\"c\""), "{problem}");
        let reader = recording.reader(&rows_of(&["b"])).expect("b is there");
        let problem = recording.sample(0, &reader).expect_err("x is no number");
        assert!(problem.contains("line 2") && problem.contains("\"b\""), "{problem}");
        assert!(recording.reader(&images([2, 2])).is_err());
    }

    #[test]
    fn an_array_is_cut_into_images_or_rows() {
        let recording = npy(&[2, 2, 2], TensorData::U8((0..8).collect()));
        let reader = recording.reader(&images([2, 2])).expect("the shapes agree");
        let second = Sample::Image { shape: vec![2, 2], data: vec![4, 5, 6, 7] };
        assert_eq!(recording.sample(1, &reader), Ok(second));
        let problem = recording.reader(&images([3, 2])).err().expect("the shapes differ");
        assert!(problem.contains("[3, 2]") && problem.contains("[2, 2]"), "{problem}");

        let recording = npy(&[2, 3], TensorData::I8(vec![0, 1, 2, 3, 4, -5]));
        let reader = recording.reader(&rows_of(&["a", "b", "c"])).expect("the shapes agree");
        assert_eq!(recording.sample(1, &reader), Ok(Sample::Row(vec![3.0, 4.0, -5.0])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_whatever_it_is() {
        for rate_hz in [0.5, 50.0, 500.0, 12_345.0] {
            let mut pace = Pace::new(rate_hz);
            let begun = tokio::time::Instant::from_std(std::time::Instant::from(
                pace.interval.tick().await,
            ));
            let mut samples = 0;
            while samples < 1_000 {
                samples += pace.samples_due().await;
            }
            let measured = samples as f64 / begun.elapsed().as_secs_f64();
            assert!((0.7..=1.1).contains(&(measured / rate_hz)), "{rate_hz} Hz became {measured}");
        }
    }
}
