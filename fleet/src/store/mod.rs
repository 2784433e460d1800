//! The database: devices, what they should run, what they sent.
//!
//! SQLite in WAL mode. One connection writes, in transactions that take the write lock at their
//! beginning; a pool reads. A commit is synced to the disk before it is reported: only then is a
//! message acknowledged and a device told to forget it.

mod bundles;
mod captures;
mod desired;
mod devices;
mod drift;
mod ingest;
mod keys;
mod labels;
mod mutes;
mod repository;
mod retained;
mod sites;
mod telemetry;
#[cfg(test)]
mod tests;
mod transaction;

use std::{path::Path, time::Duration};

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
    },
};

use selvedge_wire::Digest;

use self::{keys::EnrolledKeys, transaction::Tx};
use crate::{Error, Limits};

pub use bundles::{BundleRow, PatchRow, Stocked, TargetRow};
pub use captures::{
    CaptureCensus, CaptureFilter, CaptureLabel, CaptureRequestRow, CaptureRow, CaptureSums,
};
pub use desired::{
    Assignment, Change, DesiredRow, DesiredSet, GENERATION_JUMP_MAX, SignedDesired, SlotRow, Slots,
};
pub use devices::DeviceRow;
pub use drift::{WindowFilter, Windows};
pub use ingest::{Applied, Malformed, MalformedKind, Received, Upward};
pub use keys::{EnrolledKey, Sender};
#[cfg(any(test, feature = "simulation"))]
pub use labels::DeviceLabelRow;
pub use labels::{Labelled, LabelledRow};
pub use repository::{RepositoryChange, TIMESTAMP_FILE};
pub use sites::{ProposalRow, SiteRow};
pub use telemetry::{
    Cursor, DisbeliefRow, EventRow, HealthPoint, HealthRow, MalformedRow, NewestEvent, NodeRow,
    ProfileRow, ResultRow, StreamRow,
};

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The open database.
#[derive(Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    keys: EnrolledKeys,
    limits: Limits,
}

impl Store {
    /// Opens the database at `path`, making or migrating it as needed.
    ///
    /// # Errors
    /// [`Error::Store`] if the file cannot be used or was written by a newer version.
    pub async fn open(path: &Path, limits: Limits) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let readers = options.clone().read_only(true).create_if_missing(false);
        Self::connect(options, SqlitePoolOptions::new().max_connections(READERS), readers, limits)
            .await
    }

    /// Opens an empty database in memory, which goes with the store.
    ///
    /// # Errors
    /// [`Error::Store`] if there is no memory for it.
    #[cfg(any(test, feature = "simulation"))]
    pub async fn open_in_memory(limits: Limits) -> Result<Self, Error> {
        let options: SqliteConnectOptions =
            "sqlite::memory:".parse().map_err(Error::store("name a database in memory"))?;
        // What is in memory is there as long as anybody is connected: the reader always is.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None);
        Self::connect(options.clone(), pool, options, limits).await
    }

    async fn connect(
        writing: SqliteConnectOptions,
        readers: SqlitePoolOptions,
        reading: SqliteConnectOptions,
        limits: Limits,
    ) -> Result<Self, Error> {
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(writing)
            .await
            .map_err(Error::store("open the file"))?;
        Migrator::with_migrations(migrations())
            .run(&writer)
            .await
            .map_err(|error| Error::store("migrate the tables")(error.into()))?;
        let readers = readers
            .connect_with(reading)
            .await
            .map_err(Error::store("open the file for reading"))?;
        let keys = EnrolledKeys::read(&readers).await?;
        Ok(Self { writer, readers, keys, limits })
    }

    /// Closes all connections; what was committed is in the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn begin(&self) -> Result<Tx, Error> {
        Tx::begin(&self.writer).await.map_err(Error::store("begin to write"))
    }
}

/// Every step from an empty file to the tables of today. A step that was released is never edited.
fn migrations() -> Vec<Migration> {
    let steps = [
        (1, "first", include_str!("../../migrations/0001_first.sql")),
        (2, "refused desired", include_str!("../../migrations/0002_refused_desired.sql")),
        (3, "repository", include_str!("../../migrations/0003_repository.sql")),
        (4, "profiles by bundle", include_str!("../../migrations/0004_profiles_by_bundle.sql")),
        (5, "labels", include_str!("../../migrations/0005_labels.sql")),
        (6, "captures", include_str!("../../migrations/0006_captures.sql")),
        (7, "site", include_str!("../../migrations/0007_site.sql")),
    ];
    let migration = |(number, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    steps.into_iter().map(migration).collect()
}

/// SQLite's integers are signed; what is too large for them is clamped.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn natural(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(bytes.try_into().expect("digests are stored as their 32 bytes"))
}
