//! Which bundles there are. Their blobs are files; see the registry.

use sqlx::FromRow;

use selvedge_wire::Digest;

use super::{Store, digest, integer, natural};
use crate::Error;

/// A bundle of the registry.
#[derive(Clone, Debug)]
pub struct BundleRow {
    /// Its identity.
    pub digest: Digest,
    /// Its name, as its manifest has it.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// The bytes of all its blobs.
    pub len_bytes: u64,
    /// The signed statement.
    pub statement: Vec<u8>,
    /// Its manifest, as JSON.
    pub manifest: String,
    /// When it was registered, in Unix milliseconds.
    pub registered_ms: u64,
}

#[derive(FromRow)]
struct Row {
    digest: Vec<u8>,
    name: String,
    version: String,
    len_bytes: i64,
    statement: Vec<u8>,
    manifest: String,
    registered_ms: i64,
}

impl Store {
    /// Registers a bundle; one that is there already gets the newer statement.
    pub async fn add_bundle(&self, bundle: &BundleRow) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO bundles \
             (digest, name, version, len_bytes, statement, manifest, registered_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (digest) DO UPDATE SET statement = excluded.statement",
        )
        .bind(&bundle.digest.0[..])
        .bind(&bundle.name)
        .bind(&bundle.version)
        .bind(integer(bundle.len_bytes))
        .bind(&bundle.statement)
        .bind(&bundle.manifest)
        .bind(integer(bundle.registered_ms))
        .execute(&self.writer)
        .await
        .map_err(Error::store("add a bundle"))
        .map(drop)
    }

    /// All bundles, newest first.
    pub async fn bundles(&self) -> Result<Vec<BundleRow>, Error> {
        self.select_bundles(None).await
    }

    /// One bundle, if it is there.
    pub async fn bundle(&self, digest: &Digest) -> Result<Option<BundleRow>, Error> {
        Ok(self.select_bundles(Some(digest)).await?.pop())
    }

    async fn select_bundles(&self, digest: Option<&Digest>) -> Result<Vec<BundleRow>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT digest, name, version, len_bytes, statement, manifest, registered_ms \
             FROM bundles WHERE $1 IS NULL OR digest = $1 ORDER BY registered_ms DESC, digest",
        )
        .bind(digest.map(|digest| &digest.0[..]))
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read the bundles"))?;
        Ok(rows.into_iter().map(BundleRow::from).collect())
    }
}

impl From<Row> for BundleRow {
    fn from(row: Row) -> Self {
        Self {
            digest: digest(&row.digest),
            name: row.name,
            version: row.version,
            len_bytes: natural(row.len_bytes),
            statement: row.statement,
            manifest: row.manifest,
            registered_ms: natural(row.registered_ms),
        }
    }
}
