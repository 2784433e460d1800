//! The word to stop, which every task of the manager waits for.

use tokio::sync::watch;

/// Says it. Dropping it says it too.
pub struct Stopper(watch::Sender<bool>);

/// Waits for it.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// The word, not said yet, and who waits for it.
    pub fn new() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Self(receiver))
    }

    /// Done when the word was said.
    pub async fn said(&mut self) {
        // An error means that the sender is gone, which says it too.
        let _ = self.0.wait_for(|said| *said).await;
    }
}

impl Stopper {
    /// Says it to all who wait, now or later.
    pub fn say(self) {
        self.0.send_replace(true);
    }
}
