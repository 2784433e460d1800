//! Which bundles and patches there are, and which of them targets name. Their bytes are files; see
//! the registry.

use std::collections::BTreeSet;

use sqlx::FromRow;

use selvedge_sketch::SpecId;
use selvedge_wire::Digest;

use super::{Store, Tx, digest, integer, natural};
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
    /// Its manifest, as JSON.
    pub manifest: String,
    /// When it was registered, in Unix milliseconds.
    pub registered_ms: u64,
    /// The target that names it, or named it last.
    pub target: Option<String>,
    /// The role whose metadata has that target.
    pub role: Option<String>,
    /// It was a target and is none any more.
    pub revoked: bool,
    /// What its chunks take at the broker.
    pub retained_bytes: u64,
}

/// A bundle that the registry has verified, or a patch, as it enters the database.
#[derive(Clone, Debug)]
pub struct Stocked {
    /// The encoded index of chunks or pieces.
    pub index: Vec<u8>,
    /// Each chunk or piece, with what it takes at the broker.
    pub pieces: Vec<(Digest, u64)>,
    /// Names the bins of the bundle's baseline; none for a bundle without one, and for a patch.
    pub spec: Option<SpecId>,
}

/// A patch from one bundle to another.
#[derive(Clone, Debug)]
pub struct PatchRow {
    /// The bundle that it begins from.
    pub source: Digest,
    /// The bundle that it leads to.
    pub target: Digest,
    /// The digest of its index, which a target names.
    pub index_digest: Digest,
    /// Its encoded index.
    pub index: Vec<u8>,
    /// The bytes of the patch.
    pub len_bytes: u64,
    /// Whether a target of the repository names its index.
    pub signed: bool,
}

/// A target of the repository, as far as the database needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRow {
    /// Its path.
    pub path: String,
    /// The role whose metadata names it.
    pub role: String,
    /// The bundle.
    pub bundle: Digest,
    /// The indexes of patches to it.
    pub patch_indexes: Vec<Digest>,
}

#[derive(FromRow)]
struct Row {
    digest: Vec<u8>,
    name: String,
    version: String,
    len_bytes: i64,
    manifest: String,
    registered_ms: i64,
    target: Option<String>,
    role: Option<String>,
    revoked: bool,
    retained_bytes: i64,
}

impl Store {
    /// Registers a bundle; one that is there already stays as it is.
    pub async fn add_bundle(&self, bundle: &BundleRow, stocked: &Stocked) -> Result<(), Error> {
        let doing = "add a bundle";
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO bundles (digest, name, version, len_bytes, manifest, registered_ms) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (digest) DO NOTHING",
        )
        .bind(&bundle.digest.0[..])
        .bind(&bundle.name)
        .bind(&bundle.version)
        .bind(integer(bundle.len_bytes))
        .bind(&bundle.manifest)
        .bind(integer(bundle.registered_ms))
        .execute(&mut *tx)
        .await
        .map_err(Error::store(doing))?;
        keep_index(&mut tx, &bundle.digest, stocked).await.map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))
    }

    /// Keeps what a bundle lacks that was registered before that was kept.
    pub async fn keep_stocked(&self, bundle: &Digest, stocked: &Stocked) -> Result<(), Error> {
        let doing = "keep what a bundle lacks";
        let mut tx = self.begin().await?;
        keep_index(&mut tx, bundle, stocked).await.map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))
    }

    /// The bundles of which something is not kept: the chunk index, or which bins the baseline has.
    pub async fn bundles_that_lack(&self) -> Result<Vec<Digest>, Error> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT digest FROM bundles WHERE chunk_index IS NULL OR spec IS NULL",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read the bundles"))?;
        Ok(rows.iter().map(|bytes| digest(bytes)).collect())
    }

    /// All bundles, newest first.
    pub async fn bundles(&self) -> Result<Vec<BundleRow>, Error> {
        self.select_bundles(None).await
    }

    /// One bundle, if it is there.
    pub async fn bundle(&self, digest: &Digest) -> Result<Option<BundleRow>, Error> {
        Ok(self.select_bundles(Some(digest)).await?.pop())
    }

    /// The encoded chunk index of a bundle, if it is there.
    pub async fn chunk_index(&self, bundle: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let row: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT chunk_index FROM bundles WHERE digest = $1")
                .bind(&bundle.0[..])
                .fetch_optional(&self.readers)
                .await
                .map_err(Error::store("read a chunk index"))?;
        Ok(row.flatten())
    }

    /// Keeps a patch between two bundles; it takes the place of an earlier one between them.
    ///
    /// # Errors
    /// [`Error::NotFound`] if one of the bundles is not there.
    pub async fn add_patch(
        &self,
        patch: &PatchRow,
        stocked: &Stocked,
        now_ms: u64,
    ) -> Result<(), Error> {
        let doing = "add a patch";
        let mut tx = self.begin().await?;
        for bundle in [&patch.source, &patch.target] {
            let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM bundles WHERE digest = $1")
                .bind(&bundle.0[..])
                .fetch_optional(&mut *tx)
                .await
                .map_err(Error::store(doing))?;
            known.ok_or_else(|| no_bundle(bundle))?;
        }
        sqlx::query(
            "INSERT INTO patches \
             (target, source, index_digest, patch_index, len_bytes, registered_ms) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (target, source) DO UPDATE SET \
             index_digest = excluded.index_digest, patch_index = excluded.patch_index, \
             len_bytes = excluded.len_bytes, registered_ms = excluded.registered_ms, signed = 0",
        )
        .bind(&patch.target.0[..])
        .bind(&patch.source.0[..])
        .bind(&patch.index_digest.0[..])
        .bind(&patch.index)
        .bind(integer(patch.len_bytes))
        .bind(integer(now_ms))
        .execute(&mut *tx)
        .await
        .map_err(Error::store(doing))?;
        keep_pieces(&mut tx, &patch.index_digest, &stocked.pieces)
            .await
            .map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))
    }

    /// All patches.
    pub async fn patches(&self) -> Result<Vec<PatchRow>, Error> {
        type Row = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, i64, bool);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT source, target, index_digest, patch_index, len_bytes, signed FROM patches \
             ORDER BY target, source",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read the patches"))?;
        let patch = |(source, target, index_digest, index, len_bytes, signed): Row| PatchRow {
            source: digest(&source),
            target: digest(&target),
            index_digest: digest(&index_digest),
            index,
            len_bytes: natural(len_bytes),
            signed,
        };
        Ok(rows.into_iter().map(patch).collect())
    }

    /// Each chunk of the bundle `owner`, or each piece of the patch with that index, with what it takes
    /// at the broker.
    pub async fn pieces(&self, owner: &Digest) -> Result<Vec<(Digest, u64)>, Error> {
        let rows: Vec<(Vec<u8>, i64)> =
            sqlx::query_as("SELECT digest, retained_bytes FROM pieces WHERE owner = $1")
                .bind(&owner.0[..])
                .fetch_all(&self.readers)
                .await
                .map_err(Error::store("read the chunks"))?;
        Ok(rows.iter().map(|(piece, bytes)| (digest(piece), natural(*bytes))).collect())
    }

    /// The bundles that some device should run.
    pub async fn assigned_bundles(&self) -> Result<BTreeSet<Digest>, Error> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar("SELECT DISTINCT bundle FROM assigned")
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read the assigned bundles"))?;
        Ok(rows.iter().map(|bytes| digest(bytes)).collect())
    }

    /// Notes which bundles and patches `targets`, all of the repository's, name.
    pub async fn mark_targets(&self, targets: &[TargetRow]) -> Result<(), Error> {
        let doing = "note the targets";
        let mut tx = self.begin().await?;
        mark_targets(&mut tx, targets).await.map_err(Error::store(doing))?;
        tx.commit().await.map_err(Error::store(doing))
    }

    async fn select_bundles(&self, digest: Option<&Digest>) -> Result<Vec<BundleRow>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT digest, name, version, len_bytes, manifest, registered_ms, target, role, \
             revoked, (SELECT COALESCE(SUM(retained_bytes), 0) FROM pieces \
             WHERE owner = bundles.digest) AS retained_bytes \
             FROM bundles WHERE $1 IS NULL OR digest = $1 ORDER BY registered_ms DESC, digest",
        )
        .bind(digest.map(|digest| &digest.0[..]))
        .fetch_all(&self.readers)
        .await
        .map_err(Error::store("read the bundles"))?;
        Ok(rows.into_iter().map(BundleRow::from).collect())
    }
}

/// In `tx`: which bundles and patches `targets`, all of the repository's, name.
pub(super) async fn mark_targets(tx: &mut Tx, targets: &[TargetRow]) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE bundles SET revoked = 1 WHERE target IS NOT NULL")
        .execute(&mut **tx)
        .await?;
    sqlx::query("UPDATE patches SET signed = 0").execute(&mut **tx).await?;
    for target in targets {
        sqlx::query("UPDATE bundles SET target = $2, role = $3, revoked = 0 WHERE digest = $1")
            .bind(&target.bundle.0[..])
            .bind(&target.path)
            .bind(&target.role)
            .execute(&mut **tx)
            .await?;
        for index in &target.patch_indexes {
            sqlx::query("UPDATE patches SET signed = 1 WHERE target = $1 AND index_digest = $2")
                .bind(&target.bundle.0[..])
                .bind(&index.0[..])
                .execute(&mut **tx)
                .await?;
        }
    }
    Ok(())
}

pub(super) fn no_bundle(digest: &Digest) -> Error {
    Error::NotFound(format!("there is no bundle {digest}; publish it first"))
}

async fn keep_index(tx: &mut Tx, bundle: &Digest, stocked: &Stocked) -> Result<(), sqlx::Error> {
    let spec = stocked.spec.map_or_else(Vec::new, |spec| spec.0.to_vec());
    sqlx::query("UPDATE bundles SET chunk_index = $2, spec = $3 WHERE digest = $1")
        .bind(&bundle.0[..])
        .bind(&stocked.index)
        .bind(spec)
        .execute(&mut **tx)
        .await?;
    keep_pieces(tx, bundle, &stocked.pieces).await
}

pub(super) async fn keep_pieces(
    tx: &mut Tx,
    owner: &Digest,
    pieces: &[(Digest, u64)],
) -> Result<(), sqlx::Error> {
    for (piece, retained_bytes) in pieces {
        sqlx::query(
            "INSERT INTO pieces (owner, digest, retained_bytes) VALUES ($1, $2, $3) \
             ON CONFLICT (owner, digest) DO UPDATE SET retained_bytes = excluded.retained_bytes",
        )
        .bind(&owner.0[..])
        .bind(&piece.0[..])
        .bind(integer(*retained_bytes))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

impl From<Row> for BundleRow {
    fn from(row: Row) -> Self {
        Self {
            digest: digest(&row.digest),
            name: row.name,
            version: row.version,
            len_bytes: natural(row.len_bytes),
            manifest: row.manifest,
            registered_ms: natural(row.registered_ms),
            target: row.target,
            role: row.role,
            revoked: row.revoked,
            retained_bytes: natural(row.retained_bytes),
        }
    }
}
