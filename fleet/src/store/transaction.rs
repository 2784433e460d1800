//! A transaction that leaves no trace when it fails, whatever the database did by itself.
//!
//! On a full disk SQLite may end the transaction on its own; whoever still counts it as open cannot
//! begin another on that connection. So the connection of a transaction that was not committed is
//! closed, which ends the transaction in any case, and the next one gets a new connection.

use std::ops::{Deref, DerefMut};

use sqlx::{Sqlite, SqliteConnection, pool::PoolConnection, sqlite::SqlitePool};

/// Changes that are made together or not at all.
pub(super) struct Tx {
    connection: PoolConnection<Sqlite>,
    committed: bool,
}

impl Tx {
    /// Takes the write lock.
    pub async fn begin(writer: &SqlitePool) -> Result<Self, sqlx::Error> {
        let mut tx = Self { connection: writer.acquire().await?, committed: false };
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *tx).await?;
        Ok(tx)
    }

    /// Makes the changes last.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::query("COMMIT").execute(&mut *self).await?;
        self.committed = true;
        Ok(())
    }
}

impl Deref for Tx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if !self.committed {
            self.connection.close_on_drop();
        }
    }
}
