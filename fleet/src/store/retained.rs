//! Which topics may carry a retained message of ours: what has to be cleared once nobody needs it.

use std::collections::BTreeSet;

use super::Store;
use crate::Error;

impl Store {
    /// Notes that `topics` are about to carry retained messages.
    pub async fn note_retained(&self, topics: &[String]) -> Result<(), Error> {
        self.for_each_topic(
            "INSERT INTO retained (topic) VALUES ($1) ON CONFLICT (topic) DO NOTHING",
            topics,
        )
        .await
    }

    /// Notes that the broker has accepted the clearing of `topics`.
    pub async fn forget_retained(&self, topics: &[String]) -> Result<(), Error> {
        self.for_each_topic("DELETE FROM retained WHERE topic = $1", topics).await
    }

    /// The topics that may carry a retained message of ours.
    pub async fn retained(&self) -> Result<BTreeSet<String>, Error> {
        let topics: Vec<String> = sqlx::query_scalar("SELECT topic FROM retained")
            .fetch_all(&self.readers)
            .await
            .map_err(Error::store("read the retained messages"))?;
        Ok(topics.into_iter().collect())
    }

    async fn for_each_topic(
        &self,
        statement: &'static str,
        topics: &[String],
    ) -> Result<(), Error> {
        let doing = "note the retained messages";
        let mut tx = self.begin().await?;
        for topic in topics {
            sqlx::query(statement)
                .bind(topic)
                .execute(&mut *tx)
                .await
                .map_err(Error::store(doing))?;
        }
        tx.commit().await.map_err(Error::store(doing))
    }
}
