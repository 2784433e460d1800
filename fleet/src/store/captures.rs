//! Samples that devices kept: what was asked for, and what came.
//!
//! A sample is one row under the name of its result, however often its pieces come and in whatever order; it is
//! shown once all of them are there. Only what fits a request to its device is taken. The oldest samples of a device
//! make room for the newest.

#[cfg(test)]
mod tests;

use sqlx::{FromRow, SqliteConnection};

use selvedge_wire::{
    Batch, CaptureFinished, CapturePiece, CaptureRecord, CaptureRequest, DeviceId, Digest, Record,
    SampleForm, SlotName,
};

use super::{
    Cursor, Store,
    devices::no_device,
    digest,
    ingest::{Place, Row},
    integer, natural,
};
use crate::{Error, Limits};

/// What a sample takes of its device's limit beside its values.
const SAMPLE_OVERHEAD_BYTES: u64 = 256;

/// Requests of device `$1` beyond the newest `$2`.
const TRIM_REQUESTS: &str = "DELETE FROM capture_requests WHERE device = $1 AND number <= \
     (SELECT number FROM capture_requests WHERE device = $1 ORDER BY number DESC LIMIT 1 OFFSET $2)";

/// Which samples, of those that are whole.
#[derive(Clone, Debug, Default)]
pub struct CaptureFilter {
    /// Those of this device.
    pub device: Option<DeviceId>,
    /// Those that this bundle answered.
    pub bundle: Option<Digest>,
    /// Those that this slot had.
    pub slot: Option<SlotName>,
    /// Those that were kept here or later, in Unix milliseconds by the device's clock.
    pub from_ms: Option<u64>,
    /// Those that were kept no later than this.
    pub to_ms: Option<u64>,
}

/// A captured sample, without its values.
#[derive(Clone, Debug, FromRow)]
pub struct CaptureRow {
    /// Counts the rows of this fleet, in the order of their arrival.
    pub id: i64,
    /// The device that had it.
    pub device: String,
    /// The run that had it.
    pub boot: u32,
    /// Where it came from.
    pub source: String,
    /// Counts the samples of that source.
    pub sample: i64,
    /// The slot that had it.
    pub slot: String,
    bundle: Vec<u8>,
    /// When it was kept, by the device's clock.
    pub at_ms: i64,
    /// Why.
    pub reason: String,
    /// `row` or `image`.
    pub kind: String,
    /// The extents of its axes, as JSON.
    pub shape: String,
    /// The bytes of its values.
    pub len_bytes: i64,
    /// When it came.
    pub received_ms: i64,
    // Of the label that came for it: index, name and value, as a JSON array of which one is not null.
    label: Option<String>,
}

/// What was right for a captured sample, by the label that came for it.
#[derive(Clone, Debug, PartialEq)]
pub enum CaptureLabel {
    /// A class: its name among the bundle's labels, or its index where it has none.
    Class(String),
    /// A value.
    Value(f32),
}

impl CaptureRow {
    /// The label that came for it, if there is one. `labels` are the names of the bundle's classes.
    pub fn label(&self, labels: &[String]) -> Option<CaptureLabel> {
        type Truth = (Option<usize>, Option<String>, Option<f32>);
        let truth: Truth = serde_json::from_str(self.label.as_ref()?)
            .expect("labels are checked before they are stored");
        match truth {
            (Some(index), ..) => {
                let name = labels.get(index).cloned();
                Some(CaptureLabel::Class(name.unwrap_or_else(|| index.to_string())))
            }
            (None, Some(name), _) => Some(CaptureLabel::Class(name)),
            (None, None, value) => value.map(CaptureLabel::Value),
        }
    }

    /// The bundle that answered.
    pub fn bundle(&self) -> Digest {
        digest(&self.bundle)
    }

    /// The name of its result in the whole fleet.
    pub fn result_id(&self) -> String {
        format!("{}/{}/{}/{}", self.device, self.boot, self.source, self.sample)
    }
}

/// How many samples there are, and of which forms.
#[derive(Clone, Debug, Default)]
pub struct CaptureCensus {
    /// How many.
    pub samples: u64,
    /// The bytes of their values.
    pub len_bytes: u64,
    /// Kind and shape of each form that some of them have; at most two forms are told.
    pub forms: Vec<(String, String)>,
}

/// Samples of one bundle.
#[derive(Clone, Debug, FromRow)]
pub struct CaptureSums {
    /// The bundle.
    bundle: Vec<u8>,
    /// How many.
    pub samples: i64,
    /// The bytes of their values.
    pub len_bytes: i64,
}

impl CaptureSums {
    /// The bundle.
    pub fn bundle(&self) -> Digest {
        digest(&self.bundle)
    }
}

/// What was asked for, and what came of it.
#[derive(Clone, Debug, FromRow)]
pub struct CaptureRequestRow {
    /// The device.
    pub device: String,
    /// Counts the requests to it.
    pub number: i64,
    /// Of this slot.
    pub slot: Option<String>,
    bundle: Option<Vec<u8>>,
    /// From here on.
    pub from_ms: i64,
    /// Up to here.
    pub to_ms: i64,
    /// The most samples.
    pub samples_max: u32,
    /// The most bytes.
    pub bytes_max: i64,
    /// When it was asked.
    pub asked_ms: i64,
    /// Bytes that the device has sent for it.
    pub received_bytes: i64,
    /// When the device had done with it.
    pub finished_ms: Option<i64>,
    /// Samples that it sent.
    pub sent: Option<u32>,
    /// Samples that it left out.
    pub left_out: Option<u32>,
    /// Samples that were gone.
    pub gone: Option<u32>,
    /// Whether it keeps samples.
    pub capturing: Option<bool>,
    /// Whether another took its place.
    pub replaced: bool,
}

impl CaptureRequestRow {
    /// Of this bundle.
    pub fn bundle(&self) -> Option<Digest> {
        self.bundle.as_deref().map(digest)
    }

    /// The request as the device gets it.
    pub fn request(&self) -> CaptureRequest {
        let slot = self.slot.as_ref();
        CaptureRequest {
            number: natural(self.number),
            slot: slot.map(|slot| slot.parse().expect("names are checked before they are stored")),
            bundle: self.bundle(),
            from_ms: natural(self.from_ms),
            to_ms: match self.to_ms {
                i64::MAX => u64::MAX,
                to_ms => natural(to_ms),
            },
            samples_max: self.samples_max,
            bytes_max: natural(self.bytes_max),
        }
    }
}

/// Selects [`CaptureRequestRow`]s.
macro_rules! requests {
    ($which:literal) => {
        concat!(
            "SELECT r.device, number, slot, bundle, from_ms, to_ms, samples_max, bytes_max, asked_ms, \
             received_bytes, finished_ms, sent, left_out, gone, capturing, finished_ms IS NULL \
             AND number < (SELECT number FROM capture_accounts a WHERE a.device = r.device) \
             AS replaced FROM capture_requests r ",
            $which
        )
    };
}

/// A condition that a [`CaptureFilter`] is bound to, from `$1` to `$5`.
macro_rules! matching {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "received = pieces AND ($1 IS NULL OR device = $1) AND ($2 IS NULL OR bundle = $2) \
             AND ($3 IS NULL OR slot = $3) AND ($4 IS NULL OR at_ms >= $4) \
             AND ($5 IS NULL OR at_ms <= $5)",
            $after
        )
    };
}

/// Binds a [`CaptureFilter`].
macro_rules! bind {
    ($query:expr, $filter:expr) => {
        $query
            .bind($filter.device.as_ref().map(DeviceId::as_str))
            .bind($filter.bundle.as_ref().map(|bundle| &bundle.0[..]))
            .bind($filter.slot.as_ref().map(SlotName::as_str))
            .bind($filter.from_ms.map(integer))
            .bind($filter.to_ms.map(integer))
    };
}

/// Asking.
impl Store {
    /// Keeps a request, and gives it the next number of its device.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device.
    pub async fn ask_captures(
        &self,
        device: &DeviceId,
        wanted: &CaptureRequest,
        now_ms: u64,
    ) -> Result<u64, Error> {
        let failed = || Error::store("keep a request for captured samples");
        let mut tx = self.begin().await?;
        let number: Option<i64> = sqlx::query_scalar(
            "INSERT INTO capture_accounts (device, number) SELECT id, 1 FROM devices WHERE id = $1 \
             ON CONFLICT (device) DO UPDATE SET number = capture_accounts.number + 1 \
             RETURNING number",
        )
        .bind(device.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed())?;
        let number = number.ok_or_else(|| no_device(device))?;
        sqlx::query(
            "INSERT INTO capture_requests (device, number, slot, bundle, from_ms, to_ms, \
             samples_max, bytes_max, asked_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(device.as_str())
        .bind(number)
        .bind(wanted.slot.as_ref().map(SlotName::as_str))
        .bind(wanted.bundle.as_ref().map(|bundle| &bundle.0[..]))
        .bind(integer(wanted.from_ms))
        .bind(integer(wanted.to_ms))
        .bind(wanted.samples_max)
        .bind(integer(wanted.bytes_max))
        .bind(integer(now_ms))
        .execute(&mut *tx)
        .await
        .map_err(failed())?;
        sqlx::query(TRIM_REQUESTS)
            .bind(device.as_str())
            .bind(self.limits.capture_requests_kept_max)
            .execute(&mut *tx)
            .await
            .map_err(failed())?;
        tx.commit().await.map_err(failed())?;
        Ok(natural(number))
    }

    /// What `device` was asked for, the newest first.
    pub async fn capture_requests(
        &self,
        device: &DeviceId,
    ) -> Result<Vec<CaptureRequestRow>, Error> {
        sqlx::query_as(requests!("WHERE r.device = $1 ORDER BY number DESC"))
            .bind(device.as_str())
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read requests for captured samples"))
    }

    /// What devices are asked for and have not answered to the end: the newest request of each.
    pub async fn open_capture_requests(&self) -> Result<Vec<(DeviceId, CaptureRequest)>, Error> {
        let rows: Vec<CaptureRequestRow> = sqlx::query_as(requests!(
            "WHERE finished_ms IS NULL AND NOT replaced ORDER BY r.device"
        ))
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read requests for captured samples"))?;
        let open = |row: CaptureRequestRow| {
            let device = row.device.parse().expect("names are checked before they are stored");
            (device, row.request())
        };
        Ok(rows.into_iter().map(open).collect())
    }

    /// The request of that number, if it is not answered yet.
    pub async fn open_capture_request(
        &self,
        device: &DeviceId,
        number: u64,
    ) -> Result<Option<CaptureRequest>, Error> {
        let row: Option<CaptureRequestRow> = sqlx::query_as(requests!(
            "WHERE r.device = $1 AND number = $2 AND finished_ms IS NULL AND NOT replaced"
        ))
        .bind(device.as_str())
        .bind(integer(number))
        .fetch_optional(&self.readers)
        .await
        .map_err(Error::store("read requests for captured samples"))?;
        Ok(row.map(|row| row.request()))
    }
}

/// Reading.
impl Store {
    /// Samples that `filter` takes, in the order of their arrival.
    pub async fn captures(
        &self,
        filter: &CaptureFilter,
        cursor: Cursor,
    ) -> Result<Vec<CaptureRow>, Error> {
        let query = matching!(
            "SELECT id, device, boot, source, sample, slot, bundle, at_ms, reason, kind, shape, \
             len_bytes, received_ms, (SELECT json_array(truth_index, truth_name, truth_value) \
             FROM labels l WHERE l.device = captures.device AND l.boot = captures.boot \
             AND l.source = captures.source AND l.sample = captures.sample) AS label \
             FROM captures WHERE ",
            " AND id > $6 ORDER BY id LIMIT $7"
        );
        bind!(sqlx::query_as(query), filter)
            .bind(integer(cursor.after))
            .bind(cursor.limit)
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read captured samples"))
    }

    /// How many samples `filter` takes, and of which forms.
    pub async fn count_captures(&self, filter: &CaptureFilter) -> Result<CaptureCensus, Error> {
        let sums =
            matching!("SELECT COUNT(*), COALESCE(SUM(len_bytes), 0) FROM captures WHERE ", "");
        let (samples, len_bytes): (i64, i64) = bind!(sqlx::query_as(sums), filter)
            .fetch_one(&self.readers)
            .await
            .map_err(Error::store("count captured samples"))?;
        let forms = matching!("SELECT DISTINCT kind, shape FROM captures WHERE ", " LIMIT 2");
        let forms = bind!(sqlx::query_as(forms), filter)
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("count captured samples"))?;
        Ok(CaptureCensus { samples: natural(samples), len_bytes: natural(len_bytes), forms })
    }

    /// Id and bytes of values of each sample that `filter` takes, in the order of their arrival.
    pub async fn capture_ids(&self, filter: &CaptureFilter) -> Result<Vec<(i64, i64)>, Error> {
        let query = matching!("SELECT id, len_bytes FROM captures WHERE ", " ORDER BY id");
        bind!(sqlx::query_as(query), filter)
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read captured samples"))
    }

    /// The samples of these ids with their values, in the order of the ids; those that are gone by now are left
    /// out.
    pub async fn captures_with_values(
        &self,
        ids: &[i64],
    ) -> Result<Vec<(CaptureRow, Vec<u8>)>, Error> {
        let ids = serde_json::to_string(ids).expect("a list of numbers is JSON");
        let rows: Vec<CaptureRow> = sqlx::query_as(
            "SELECT id, device, boot, source, sample, slot, bundle, at_ms, reason, kind, shape, \
             len_bytes, received_ms, (SELECT json_array(truth_index, truth_name, truth_value) \
             FROM labels l WHERE l.device = captures.device AND l.boot = captures.boot \
             AND l.source = captures.source AND l.sample = captures.sample) AS label \
             FROM captures \
             WHERE id IN (SELECT value FROM json_each($1)) AND received = pieces ORDER BY id",
        )
        .bind(&ids)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read captured samples"))?;
        let pieces: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT capture, bytes FROM capture_pieces \
             WHERE capture IN (SELECT value FROM json_each($1)) ORDER BY capture, piece",
        )
        .bind(&ids)
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read captured samples"))?;
        let mut pieces = pieces.into_iter().peekable();
        let with_values = |row: CaptureRow| {
            let mut values = Vec::new();
            while let Some((_, bytes)) = pieces.next_if(|(capture, _)| *capture <= row.id) {
                values.extend(bytes);
            }
            (row, values)
        };
        let whole = rows.into_iter().map(with_values);
        // Of one that was deleted between the two reads, pieces may be missing.
        Ok(whole.filter(|(row, values)| natural(row.len_bytes) == values.len() as u64).collect())
    }

    /// The samples of `device`, by bundle, the most of them first.
    pub async fn capture_sums(&self, device: &DeviceId) -> Result<Vec<CaptureSums>, Error> {
        sqlx::query_as(
            "SELECT bundle, COUNT(*) AS samples, SUM(len_bytes) AS len_bytes FROM captures \
             WHERE device = $1 AND received = pieces GROUP BY bundle ORDER BY samples DESC, bundle",
        )
        .bind(device.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("count captured samples"))
    }

    /// How many samples of `device` made room for newer ones.
    pub async fn captures_dropped(&self, device: &DeviceId) -> Result<u64, Error> {
        let dropped: Option<i64> =
            sqlx::query_scalar("SELECT dropped FROM capture_accounts WHERE device = $1")
                .bind(device.as_str())
                .fetch_optional(&self.readers)
                .await
                .map_err(Error::store("count captured samples"))?;
        Ok(dropped.map_or(0, natural))
    }

    /// Deletes the samples of `device`, and what it was asked for: what still comes is not taken.
    pub async fn delete_captures(&self, device: &DeviceId) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        for &delete in DELETES {
            sqlx::query(delete)
                .bind(device.as_str())
                .execute(&mut *tx)
                .await
                .map_err(Error::store("delete captured samples"))?;
        }
        tx.commit().await.map_err(Error::store("delete captured samples"))
    }
}

/// Everything that is kept of a device's samples, except the number of its requests.
pub(super) const DELETES: &[&str] = &[
    "DELETE FROM captures WHERE device = $1",
    "DELETE FROM capture_requests WHERE device = $1",
    "UPDATE capture_accounts SET held_bytes = 0, dropped = 0 WHERE device = $1",
];

/// What is wrong with the first record of a batch that is not taken.
pub(super) fn fault(batch: &Batch<CaptureRecord>) -> Option<String> {
    batch.records.iter().find_map(|record| match record {
        Record::One(CaptureRecord::Piece(piece)) if !piece.is_sound() => {
            let (index, len, form) = (piece.index, piece.bytes.len(), &piece.form);
            Some(format!(
                "piece {index} of a captured sample has {len} bytes, which {form:?} has not"
            ))
        }
        _ => None,
    })
}

/// Whether a batch ends a request.
pub(super) fn finishes(batch: &Batch<CaptureRecord>) -> bool {
    let is_end = |record: &Record<_>| matches!(record, Record::One(CaptureRecord::Finished(_)));
    batch.records.iter().any(is_end)
}

impl Row for CaptureRecord {
    // What samples take is looked at with each of them.
    const TRIM: &'static str = TRIM_REQUESTS;

    fn kept_max(limits: &Limits) -> u32 {
        limits.capture_requests_kept_max
    }

    async fn insert(
        &self,
        tx: &mut SqliteConnection,
        place: &Place<'_>,
        limits: &Limits,
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::Piece(piece) if piece.is_sound() => {
                insert_piece(tx, place.device, piece, place.received_ms, limits).await
            }
            Self::Piece(_) => Ok(()),
            Self::Finished(finished) => finish(tx, place.device, finished, place.received_ms).await,
        }
    }
}

async fn insert_piece(
    tx: &mut SqliteConnection,
    device: &DeviceId,
    piece: &CapturePiece,
    at_ms: u64,
    limits: &Limits,
) -> Result<(), sqlx::Error> {
    let asked = sqlx::query(
        "UPDATE capture_requests SET received_bytes = MAX(received_bytes, $3) \
         WHERE device = $1 AND number = $2 AND (slot IS NULL OR slot = $4) \
         AND (bundle IS NULL OR bundle = $5) AND $6 BETWEEN from_ms AND to_ms",
    )
    .bind(device.as_str())
    .bind(integer(piece.request))
    .bind(integer(piece.sent_bytes.min(super::ingest::COUNT_MAX)))
    .bind(piece.slot.as_str())
    .bind(&piece.bundle.0[..])
    .bind(integer(piece.at_ms))
    .execute(&mut *tx)
    .await?;
    if asked.rows_affected() == 0 {
        // Nobody asks for it, or not any more.
        return Ok(());
    }
    let Some(capture) = find_or_begin(tx, device, piece, at_ms).await? else { return Ok(()) };
    let inserted = sqlx::query(
        "INSERT INTO capture_pieces (capture, piece, bytes) VALUES ($1, $2, $3) \
         ON CONFLICT (capture, piece) DO NOTHING",
    )
    .bind(capture)
    .bind(piece.index)
    .bind(&piece.bytes)
    .execute(&mut *tx)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(());
    }
    let len_bytes = piece.bytes.len() as u64;
    sqlx::query(
        "UPDATE captures SET received = received + 1, held_bytes = held_bytes + $2 WHERE id = $1",
    )
    .bind(capture)
    .bind(integer(len_bytes))
    .execute(&mut *tx)
    .await?;
    hold(tx, device, integer(len_bytes)).await?;
    make_room(tx, device, limits.captures_bytes_max).await
}

/// The row of the piece's sample; nothing if there is one of that name and of another form.
async fn find_or_begin(
    tx: &mut SqliteConnection,
    device: &DeviceId,
    piece: &CapturePiece,
    at_ms: u64,
) -> Result<Option<i64>, sqlx::Error> {
    let (kind, shape) = match &piece.form {
        SampleForm::Row { columns } => ("row", vec![*columns]),
        SampleForm::Image { shape } => ("image", shape.clone()),
    };
    let shape = serde_json::to_string(&shape).expect("a list of numbers is JSON");
    let (len_bytes, pieces) = (piece.form.len_bytes(), piece.form.pieces());
    let begun: Option<i64> = sqlx::query_scalar(
        "INSERT INTO captures (device, boot, source, sample, slot, bundle, at_ms, reason, kind, \
         shape, len_bytes, pieces, held_bytes, received_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         ON CONFLICT (device, boot, source, sample) DO NOTHING RETURNING id",
    )
    .bind(device.as_str())
    .bind(piece.boot.0)
    .bind(&piece.source)
    .bind(integer(piece.sample))
    .bind(piece.slot.as_str())
    .bind(&piece.bundle.0[..])
    .bind(integer(piece.at_ms))
    .bind(piece.reason.as_str())
    .bind(kind)
    .bind(&shape)
    .bind(len_bytes.map(integer))
    .bind(pieces)
    .bind(integer(SAMPLE_OVERHEAD_BYTES))
    .bind(integer(at_ms))
    .fetch_optional(&mut *tx)
    .await?;
    if begun.is_some() {
        hold(tx, device, integer(SAMPLE_OVERHEAD_BYTES)).await?;
        return Ok(begun);
    }
    sqlx::query_scalar(
        "SELECT id FROM captures WHERE device = $1 AND boot = $2 AND source = $3 AND sample = $4 \
         AND kind = $5 AND shape = $6",
    )
    .bind(device.as_str())
    .bind(piece.boot.0)
    .bind(&piece.source)
    .bind(integer(piece.sample))
    .bind(kind)
    .bind(&shape)
    .fetch_optional(tx)
    .await
}

/// The device's samples take so many bytes more.
async fn hold(tx: &mut SqliteConnection, device: &DeviceId, bytes: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE capture_accounts SET held_bytes = held_bytes + $2 WHERE device = $1")
        .bind(device.as_str())
        .bind(bytes)
        .execute(tx)
        .await
        .map(drop)
}

/// Drops the oldest samples until the rest has room, and counts them.
async fn make_room(
    tx: &mut SqliteConnection,
    device: &DeviceId,
    bytes_max: u64,
) -> Result<(), sqlx::Error> {
    loop {
        let held: i64 =
            sqlx::query_scalar("SELECT held_bytes FROM capture_accounts WHERE device = $1")
                .bind(device.as_str())
                .fetch_one(&mut *tx)
                .await?;
        if natural(held) <= bytes_max {
            return Ok(());
        }
        let freed: Option<i64> = sqlx::query_scalar(
            "DELETE FROM captures WHERE id = (SELECT MIN(id) FROM captures WHERE device = $1) \
             RETURNING held_bytes",
        )
        .bind(device.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(freed) = freed else { return Ok(()) };
        sqlx::query(
            "UPDATE capture_accounts SET held_bytes = held_bytes - $2, dropped = dropped + 1 \
             WHERE device = $1",
        )
        .bind(device.as_str())
        .bind(freed)
        .execute(&mut *tx)
        .await?;
    }
}

async fn finish(
    tx: &mut SqliteConnection,
    device: &DeviceId,
    finished: &CaptureFinished,
    at_ms: u64,
) -> Result<(), sqlx::Error> {
    let CaptureFinished { request, sent, sent_bytes, left_out, gone, capturing } = *finished;
    sqlx::query(
        "UPDATE capture_requests SET finished_ms = $3, sent = $4, sent_bytes = $5, left_out = $6, \
         gone = $7, capturing = $8 WHERE device = $1 AND number = $2 AND finished_ms IS NULL",
    )
    .bind(device.as_str())
    .bind(integer(request))
    .bind(integer(at_ms))
    .bind(sent)
    .bind(integer(sent_bytes.min(super::ingest::COUNT_MAX)))
    .bind(left_out)
    .bind(gone)
    .bind(capturing)
    .execute(tx)
    .await
    .map(drop)
}
