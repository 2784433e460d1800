//! Tells listeners that something changed, and lets them read it again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use utoipa::ToSchema;

use selvedge_wire::DeviceId;

use crate::stop::Stop;

/// Changes that may wait for a slow listener; beyond that it is told to read everything again.
const CHANGES_WAITING_MAX: usize = 1024;

/// Changes are told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What changed since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Changed {
    /// The devices of which something is different. Empty: read everything again.
    #[schema(value_type = Vec<String>)]
    pub devices: BTreeSet<DeviceId>,
}

/// Where changes are told.
#[derive(Clone)]
pub struct Live {
    changes: broadcast::Sender<DeviceId>,
    seats: Arc<Semaphore>,
    stop: Stop,
}

impl Live {
    /// Room for `listeners_max` listeners, until `stop` is said.
    pub fn new(listeners_max: usize, stop: Stop) -> Self {
        let (changes, _) = broadcast::channel(CHANGES_WAITING_MAX);
        Self { changes, seats: Arc::new(Semaphore::new(listeners_max)), stop }
    }

    /// Tells that `devices` changed.
    pub fn tell(&self, devices: impl IntoIterator<Item = DeviceId>) {
        for device in devices {
            // Nobody has to listen.
            let _ = self.changes.send(device);
        }
    }

    /// Changes from now on, or nothing if there are too many listeners.
    pub fn listen(&self) -> Option<mpsc::Receiver<Changed>> {
        let seat = self.seats.clone().try_acquire_owned().ok()?;
        let (told, listener) = mpsc::channel(1);
        tokio::spawn(forward(self.changes.subscribe(), told, self.stop.clone(), seat));
        Some(listener)
    }
}

async fn forward(
    mut changes: broadcast::Receiver<DeviceId>,
    told: mpsc::Sender<Changed>,
    mut stop: Stop,
    _seat: OwnedSemaphorePermit,
) {
    loop {
        let first = tokio::select! {
            first = changes.recv() => first,
            () = told.closed() => return,
            () = stop.said() => return,
        };
        let Some(changed) = collect(first, &mut changes) else { return };
        if told.send(changed).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(TELL_EVERY) => {}
            () = told.closed() => return,
            () = stop.said() => return,
        }
    }
}

/// What has come so far; nothing once there is nobody left to tell.
fn collect(
    first: Result<DeviceId, broadcast::error::RecvError>,
    changes: &mut broadcast::Receiver<DeviceId>,
) -> Option<Changed> {
    let mut changed = Changed::default();
    match first {
        Ok(device) => changed.devices.insert(device),
        Err(broadcast::error::RecvError::Lagged(_)) => return Some(Changed::default()),
        Err(broadcast::error::RecvError::Closed) => return None,
    };
    loop {
        match changes.try_recv() {
            Ok(device) => changed.devices.insert(device),
            Err(broadcast::error::TryRecvError::Lagged(_)) => return Some(Changed::default()),
            Err(_) => return Some(changed),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    #[tokio::test]
    async fn changes_are_told_together_and_seats_are_limited() {
        let (stopper, stop) = Stop::new();
        let live = Live::new(1, stop);
        let mut listener = live.listen().expect("there is a seat");
        assert!(live.listen().is_none(), "there was one seat");
        live.tell([name("a"), name("b"), name("a")]);
        let changed = listener.recv().await.expect("the listener is told");
        assert_eq!(changed.devices, [name("a"), name("b")].into());
        live.tell((0..2 * CHANGES_WAITING_MAX).map(|_| name("c")));
        let changed = listener.recv().await.expect("the listener is told");
        assert_eq!(changed, Changed::default(), "too much was missed");
        stopper.say();
        while listener.recv().await.is_some() {}
    }
}
