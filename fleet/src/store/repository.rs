//! The files of the TUF repository. A change is one transaction: the new files, what they say of
//! bundles, and the desired states that a new director's key has to sign.

use std::collections::BTreeMap;

use selvedge_wire::DeviceId;

use super::{
    Slots, Store, TargetRow,
    bundles::mark_targets,
    desired::{keep_desired, read_slots, take_generation},
};
use crate::Error;

/// The one file of a repository whose name does not begin with its version.
pub const TIMESTAMP_FILE: &str = "timestamp.json";

/// What a change of the repository puts into the database.
pub struct RepositoryChange<'a> {
    /// The new files by name.
    pub files: &'a [(String, Vec<u8>)],
    /// Every target after the change.
    pub targets: &'a [TargetRow],
    /// Whether a file is part of the repository after the change; what is not goes.
    pub is_current: &'a (dyn Fn(&str) -> bool + Sync),
}

impl Store {
    /// The files of the repository by name; none before the first start.
    pub async fn repository_files(&self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT file, content FROM repository_files")
                .fetch_all(&self.readers)
                .await
                .map_err(Error::store("read the repository"))?;
        Ok(rows.into_iter().collect())
    }

    /// The names of the repository's files.
    pub async fn repository_names(&self) -> Result<Vec<String>, Error> {
        sqlx::query_scalar("SELECT file FROM repository_files ORDER BY file")
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read the repository"))
    }

    /// One file of the repository, if it is there.
    pub async fn repository_file(&self, file: &str) -> Result<Option<Vec<u8>>, Error> {
        sqlx::query_scalar("SELECT content FROM repository_files WHERE file = $1")
            .bind(file)
            .fetch_optional(&self.readers)
            .await
            .map_err(Error::store("read the repository"))
    }

    /// Keeps a change of the repository. A file that was there before is never written over, except for
    /// the timestamp, so that no version stands for two things.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a file of that name is there; then nothing was changed.
    pub async fn change_repository(
        &self,
        change: &RepositoryChange<'_>,
        redirect: Option<Redirect<'_>>,
        now_ms: u64,
    ) -> Result<Vec<DeviceId>, Error> {
        let doing = "change the repository";
        let mut tx = self.begin().await?;
        for (file, content) in change.files {
            let on_conflict = if file == TIMESTAMP_FILE {
                "INSERT INTO repository_files (file, content) VALUES ($1, $2) \
                 ON CONFLICT (file) DO UPDATE SET content = excluded.content"
            } else {
                "INSERT INTO repository_files (file, content) VALUES ($1, $2) \
                 ON CONFLICT (file) DO NOTHING"
            };
            let kept = sqlx::query(on_conflict)
                .bind(file)
                .bind(content)
                .execute(&mut *tx)
                .await
                .map_err(Error::store(doing))?;
            if kept.rows_affected() != 1 {
                return Err(Error::Conflict(format!("the repository has a file {file} already")));
            }
        }
        let names: Vec<String> = sqlx::query_scalar("SELECT file FROM repository_files")
            .fetch_all(&mut *tx)
            .await
            .map_err(Error::store(doing))?;
        for gone in names.iter().filter(|name| !(change.is_current)(name)) {
            sqlx::query("DELETE FROM repository_files WHERE file = $1")
                .bind(gone)
                .execute(&mut *tx)
                .await
                .map_err(Error::store(doing))?;
        }
        mark_targets(&mut tx, change.targets).await.map_err(Error::store(doing))?;
        let mut redirected = Vec::new();
        if let Some(sign) = redirect {
            let rows: Vec<(String, String)> = sqlx::query_as("SELECT device, slots FROM desired")
                .fetch_all(&mut *tx)
                .await
                .map_err(Error::store(doing))?;
            for (device, slots) in rows {
                let device: DeviceId =
                    device.parse().expect("names are checked before they are stored");
                let slots = read_slots(&slots);
                let generation =
                    take_generation(&mut tx, &device).await.map_err(Error::store(doing))?;
                let document = sign(&device, generation, &slots);
                keep_desired(&mut tx, &device, generation, &slots, &document, now_ms)
                    .await
                    .map_err(Error::store(doing))?;
                redirected.push(device);
            }
        }
        tx.commit().await.map_err(Error::store(doing))?;
        Ok(redirected)
    }
}

/// Signs a desired state of a device again: its generation and its slots.
pub type Redirect<'a> = &'a (dyn Fn(&DeviceId, u64, &Slots) -> super::SignedDesired + Sync);
