//! Labels that come late, from devices and over the API, and the answers that they are of.
//!
//! A label is kept by the id of its result, so giving it twice changes nothing; of several the one that was given
//! last counts, in whatever order they come. Whichever of label and result comes second finds the other: two
//! triggers of the database see to that.

use sqlx::{FromRow, SqliteConnection};

use selvedge_wire::{
    Batch, Boot, DeviceId, Digest, Label, LabelRecord, LabelledAnswer, Outcome, Record, ResultId,
    SlotName, Truth,
};

use super::{
    Store, Tx, WindowFilter, digest,
    drift::names_of,
    ingest::{Place, Row, trim},
    integer, natural,
};
use crate::{Error, Limits};

/// A label, and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledRow {
    /// The device that answered.
    pub device: DeviceId,
    /// To which part of the samples it belongs.
    pub slice: Option<String>,
    /// When it was answered, in Unix milliseconds by the device's clock.
    pub answered_ms: u64,
    /// What was right.
    pub truth: Truth,
    /// What the answer was.
    pub outcome: Outcome,
}

/// Labels of a bundle's answers.
#[derive(Clone, Debug, Default)]
pub struct Labelled {
    /// Those that came last first.
    pub rows: Vec<LabelledRow>,
    /// There are labels that came before and were not read.
    pub cut: bool,
    /// Labels of these devices whose answer is not known.
    pub unmatched: u64,
    /// Labels of these devices that made room for newer ones.
    pub dropped: u64,
}

/// A label that a device was given.
#[cfg(any(test, feature = "simulation"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLabelRow {
    /// The run that answered.
    pub boot: u32,
    /// The label's sequence number, in the run in which it was given.
    pub sequence: u64,
    /// The sample that it is of.
    pub sample: u64,
}

/// A label as it enters the database.
struct Given<'a> {
    device: &'a DeviceId,
    boot: Boot,
    source: &'a str,
    sample: u64,
    truth: &'a Truth,
    slice: Option<&'a str>,
    given_ms: u64,
    turn: u64,
}

impl Store {
    /// Keeps labels that were given at `given_ms`, and says of how many the answer is known.
    ///
    /// # Errors
    /// [`Error::Store`] if the database does not take them; then none was kept.
    pub async fn put_labels(&self, labels: &[Label], given_ms: u64) -> Result<u64, Error> {
        let mut tx = self.begin().await?;
        self.put_all(&mut tx, labels, given_ms).await.map_err(Error::store("keep labels"))?;
        let mut matched = 0;
        for Label { id, .. } in labels {
            matched += u64::from(answer_of(&mut tx, id).await?.is_some());
        }
        tx.commit().await.map_err(Error::store("keep labels"))?;
        Ok(matched)
    }

    async fn put_all(
        &self,
        tx: &mut Tx,
        labels: &[Label],
        given_ms: u64,
    ) -> Result<(), sqlx::Error> {
        for Label { id, truth, slice } in labels {
            let given = Given {
                device: &id.device,
                boot: id.boot,
                source: id.source.as_str(),
                sample: id.sample,
                truth,
                slice: slice.as_ref().map(|slice| slice.as_str()),
                given_ms,
                // In the order in which they are kept.
                turn: 0,
            };
            put(tx, &given).await?;
        }
        let mut devices: Vec<&DeviceId> = labels.iter().map(|label| &label.id.device).collect();
        devices.sort_unstable();
        devices.dedup();
        for device in devices {
            trim_labels(tx, device, &self.limits).await?;
        }
        Ok(())
    }

    /// The bundle that gave a result, and its answer, if they are known.
    pub async fn answer(&self, id: &ResultId) -> Result<Option<(Digest, Outcome)>, Error> {
        let mut reader = self.readers.acquire().await.map_err(Error::store("read an answer"))?;
        answer_of(&mut reader, id).await
    }

    /// Labels of answers of `bundle` that `filter` takes and that were given from `from_ms` on: those that came
    /// last, up to the limit. Devices' clocks have no say in that.
    pub async fn labelled(
        &self,
        bundle: &Digest,
        filter: &WindowFilter,
        from_ms: Option<u64>,
    ) -> Result<Labelled, Error> {
        let devices = filter.devices.as_deref().map(names_of);
        let max = self.limits.quality_labels_max;
        let mut rows: Vec<RawRow> = sqlx::query_as(
            "SELECT device, slice, answered_ms, truth_index, truth_name, truth_value, class_index, \
             score, value FROM labels WHERE bundle = $1 AND ($2 IS NULL OR slot = $2) \
             AND ($3 IS NULL OR device IN (SELECT value FROM json_each($3))) \
             AND ($4 IS NULL OR answered_ms >= $4) AND ($5 IS NULL OR answered_ms <= $5) \
             ORDER BY id DESC LIMIT $6",
        )
        .bind(&bundle.0[..])
        .bind(filter.slot.as_ref().map(SlotName::as_str))
        .bind(&devices)
        .bind(from_ms.map(integer))
        .bind(filter.to_ms.map(integer))
        .bind(i64::from(max) + 1)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read labels"))?;
        let cut = rows.len() > max as usize;
        rows.truncate(max as usize);
        let (unmatched, dropped): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM labels WHERE bundle IS NULL \
             AND ($1 IS NULL OR device IN (SELECT value FROM json_each($1)))), \
             (SELECT COALESCE(SUM(labels_dropped), 0) FROM devices \
             WHERE $1 IS NULL OR id IN (SELECT value FROM json_each($1)))",
        )
        .bind(&devices)
        .fetch_one(&self.readers)
        .await
        .map_err(Error::store("count labels"))?;
        let rows = rows.into_iter().map(LabelledRow::from).collect();
        Ok(Labelled { rows, cut, unmatched: natural(unmatched), dropped: natural(dropped) })
    }

    /// The labels that `device` itself was given.
    #[cfg(any(test, feature = "simulation"))]
    pub async fn device_labels(&self, device: &DeviceId) -> Result<Vec<DeviceLabelRow>, Error> {
        let rows: Vec<(u32, i64, i64)> = sqlx::query_as(
            "SELECT boot, turn, sample FROM labels WHERE device = $1 AND turn > 0 \
             ORDER BY boot, turn",
        )
        .bind(device.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read labels"))?;
        let row = |(boot, turn, sample)| {
            let (sequence, sample) = (natural(turn), natural(sample));
            DeviceLabelRow { boot, sequence, sample }
        };
        Ok(rows.into_iter().map(row).collect())
    }
}

impl Row for LabelRecord {
    const TRIM: &'static str = "DELETE FROM labels WHERE device = $1 AND id <= \
         (SELECT id FROM labels WHERE device = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)";

    fn kept_max(limits: &Limits) -> u32 {
        limits.labels_kept_max
    }

    async fn insert(
        &self,
        tx: &mut SqliteConnection,
        place: &Place<'_>,
        _: &Limits,
    ) -> Result<(), sqlx::Error> {
        if !is_sound(&self.truth) {
            return Ok(());
        }
        let given = Given {
            device: place.device,
            boot: self.boot,
            source: self.source.as_str(),
            sample: self.sample,
            truth: &self.truth,
            slice: self.slice.as_ref().map(|slice| slice.as_str()),
            // A clock that is ahead must not make a label the last for ever.
            given_ms: self.at_ms.min(place.received_ms),
            turn: place.sequence,
        };
        put(tx, &given).await?;
        match &self.answer {
            Some(answer) => put_answer(tx, &given, answer).await,
            None => Ok(()),
        }
    }

    async fn trim(tx: &mut Tx, device: &DeviceId, limits: &Limits) -> Result<(), sqlx::Error> {
        trim_labels(tx, device, limits).await
    }
}

/// Whether a label says something. JSON has no other; a device may send any bits.
fn is_sound(truth: &Truth) -> bool {
    !matches!(truth, Truth::Value(value) if !value.is_finite())
}

/// What is wrong with the first label of a batch that is not kept.
pub(super) fn fault(batch: &Batch<LabelRecord>) -> Option<String> {
    batch.records.iter().find_map(|record| match record {
        Record::One(label) if !is_sound(&label.truth) => Some(format!(
            "the label of sample {} of {} is {:?}, which is no number",
            label.sample, label.source, label.truth
        )),
        _ => None,
    })
}

async fn put(tx: &mut SqliteConnection, given: &Given<'_>) -> Result<(), sqlx::Error> {
    let (index, name, value) = match given.truth {
        Truth::Class(index) => (Some(*index), None, None),
        Truth::Name(name) => (None, Some(name.as_str()), None),
        Truth::Value(value) => (None, None, Some(*value)),
    };
    sqlx::query(
        "INSERT INTO labels (device, boot, source, sample, given_ms, turn, truth_index, \
         truth_name, truth_value, slice) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (device, boot, source, sample) DO UPDATE SET given_ms = excluded.given_ms, \
         turn = excluded.turn, truth_index = excluded.truth_index, \
         truth_name = excluded.truth_name, truth_value = excluded.truth_value, \
         slice = excluded.slice \
         WHERE (excluded.given_ms, excluded.turn) >= (labels.given_ms, labels.turn)",
    )
    .bind(given.device.as_str())
    .bind(given.boot.0)
    .bind(given.source)
    .bind(integer(given.sample))
    .bind(integer(given.given_ms))
    .bind(integer(given.turn))
    .bind(index)
    .bind(name)
    .bind(value)
    .bind(given.slice)
    .execute(tx)
    .await
    .map(drop)
}

/// Keeps the answer that a device remembered, unless it is known already.
async fn put_answer(
    tx: &mut SqliteConnection,
    given: &Given<'_>,
    answer: &LabelledAnswer,
) -> Result<(), sqlx::Error> {
    let (class, score, value) = match &answer.outcome {
        Outcome::Class { index, score } => (Some(*index), Some(*score), None),
        Outcome::Values(values) => (None, None, values.first().copied()),
        Outcome::Failed(_) => (None, None, None),
    };
    sqlx::query(
        "UPDATE labels SET bundle = $5, slot = $6, answered_ms = $7, class_index = $8, score = $9, \
         value = $10 WHERE device = $1 AND boot = $2 AND source = $3 AND sample = $4 \
         AND bundle IS NULL",
    )
    .bind(given.device.as_str())
    .bind(given.boot.0)
    .bind(given.source)
    .bind(integer(given.sample))
    .bind(&answer.bundle.0[..])
    .bind(answer.slot.as_str())
    .bind(integer(answer.at_ms))
    .bind(class)
    .bind(score)
    .bind(value)
    .execute(tx)
    .await
    .map(drop)
}

/// Drops the oldest labels of a device beyond those that are kept, and counts them.
async fn trim_labels(tx: &mut Tx, device: &DeviceId, limits: &Limits) -> Result<(), sqlx::Error> {
    let dropped = trim(tx, LabelRecord::TRIM, device, LabelRecord::kept_max(limits)).await?;
    if dropped == 0 {
        return Ok(());
    }
    sqlx::query("UPDATE devices SET labels_dropped = labels_dropped + $2 WHERE id = $1")
        .bind(device.as_str())
        .bind(integer(dropped))
        .execute(&mut **tx)
        .await
        .map(drop)
}

async fn answer_of(
    reader: &mut SqliteConnection,
    id: &ResultId,
) -> Result<Option<(Digest, Outcome)>, Error> {
    #[derive(FromRow)]
    struct Row {
        bundle: Vec<u8>,
        class_index: Option<u32>,
        score: Option<f32>,
        value: Option<f32>,
    }
    let found: Option<Row> = sqlx::query_as(
        "SELECT bundle, class_index, score, value FROM labels WHERE device = $1 AND boot = $2 \
         AND source = $3 AND sample = $4 AND bundle IS NOT NULL UNION ALL \
         SELECT bundle, class_index, score, json_extract(output_values, '$[0]') AS value \
         FROM results \
         WHERE device = $1 AND boot = $2 AND source = $3 AND sample = $4 LIMIT 1",
    )
    .bind(id.device.as_str())
    .bind(id.boot.0)
    .bind(id.source.as_str())
    .bind(integer(id.sample))
    .fetch_optional(reader)
    .await
    .map_err(Error::store("read an answer"))?;
    let answer = |Row { bundle, class_index, score, value }| {
        (digest(&bundle), outcome(class_index, score, value))
    };
    Ok(found.map(answer))
}

#[derive(FromRow)]
struct RawRow {
    device: String,
    slice: Option<String>,
    answered_ms: i64,
    truth_index: Option<u32>,
    truth_name: Option<String>,
    truth_value: Option<f32>,
    class_index: Option<u32>,
    score: Option<f32>,
    value: Option<f32>,
}

impl From<RawRow> for LabelledRow {
    fn from(row: RawRow) -> Self {
        let truth = match (row.truth_index, row.truth_name, row.truth_value) {
            (Some(index), _, _) => Truth::Class(index),
            (_, Some(name), _) => {
                Truth::Name(name.parse().expect("names are checked before they are stored"))
            }
            (_, _, value) => Truth::Value(value.expect("a label says something")),
        };
        Self {
            device: row.device.parse().expect("names are checked before they are stored"),
            slice: row.slice,
            answered_ms: natural(row.answered_ms),
            truth,
            outcome: outcome(row.class_index, row.score, row.value),
        }
    }
}

/// An answer, from its columns. A value that is not finite is stored as none.
fn outcome(class: Option<u32>, score: Option<f32>, value: Option<f32>) -> Outcome {
    match (class, value) {
        (Some(index), _) => Outcome::Class { index, score: score.unwrap_or(f32::NAN) },
        (None, Some(value)) => Outcome::Values(vec![value]),
        (None, None) => Outcome::Failed("there was no answer".into()),
    }
}
