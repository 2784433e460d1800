//! Waiting for a condition: asked again at short intervals, for a limited time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a wait rests before it asks again.
pub const STEP: Duration = Duration::from_millis(100);

/// Asks until there is something, and gives up after `limit`, naming `what` was waited for.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        if started.elapsed() >= limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        tokio::time::sleep(STEP).await;
    }
}
