//! Keeps what the detectors of each slot know on the disk, so that a run goes on where the last one ended.
//!
//! A slot's worker gives its state away and never waits: of several that were given while one was written, the
//! newest is written alone. A state is replaced as a whole; a power cut leaves the old one or the new.

use selvedge_wire::SlotName;
use tokio::sync::watch;

use crate::disk::{DiskError, SharedDisk, replace};

/// The folder with one file per slot.
const DIR: &str = "drift";

/// What the run before kept of a slot; nothing too where it cannot be read, which is said in the log.
pub(crate) fn kept(disk: &SharedDisk, slot: &SlotName) -> Option<Vec<u8>> {
    disk.read(&path(slot)).unwrap_or_else(|error| {
        tracing::warn!("slot {slot}: the detectors of drift start afresh: {error}");
        None
    })
}

/// Writes each state that is given, until nobody gives any more.
pub(crate) async fn keep(
    disk: SharedDisk,
    slot: SlotName,
    mut states: watch::Receiver<Option<Vec<u8>>>,
) {
    let mut told = false;
    // What was given last before the end is still seen as changed.
    while states.changed().await.is_ok() {
        let Some(state) = states.borrow_and_update().clone() else { continue };
        let (disk, path) = (disk.clone(), path(&slot));
        let written = tokio::task::spawn_blocking(move || write(&disk, &path, &state)).await;
        match written {
            Ok(Ok(())) => told = false,
            Ok(Err(error)) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(
                    "slot {slot}: what the detectors of drift know is not kept: {error}"
                );
            }
            _ => {}
        }
    }
}

fn write(disk: &SharedDisk, path: &str, state: &[u8]) -> Result<(), DiskError> {
    disk.create_dir(DIR)?;
    replace(disk.as_ref(), path, state)
}

fn path(slot: &SlotName) -> String {
    format!("{DIR}/{slot}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;

    #[tokio::test]
    async fn the_newest_state_is_kept_even_if_it_came_just_before_the_end() {
        let disk: SharedDisk = Arc::new(SimulatedDisk::new());
        let slot: SlotName = "main".parse().expect("the name is well formed");
        assert_eq!(kept(&disk, &slot), None);
        let (states, receiver) = watch::channel(None);
        for state in 0..10_u8 {
            states.send_replace(Some(vec![state]));
        }
        drop(states);
        keep(disk.clone(), slot.clone(), receiver).await;
        assert_eq!(kept(&disk, &slot), Some(vec![9]));
    }

    #[tokio::test]
    async fn a_disk_that_fails_once_gets_the_next_state() {
        let disk = Arc::new(SimulatedDisk::new());
        disk.set_capacity(Some(0));
        let slot: SlotName = "main".parse().expect("the name is well formed");
        let (states, receiver) = watch::channel(None);
        let shared: SharedDisk = disk.clone();
        let keeper = tokio::spawn(keep(shared.clone(), slot.clone(), receiver));
        states.send_replace(Some(vec![1]));
        tokio::task::yield_now().await;
        disk.set_capacity(None);
        states.send_replace(Some(vec![2]));
        drop(states);
        keeper.await.expect("it does not panic");
        assert_eq!(kept(&shared, &slot), Some(vec![2]));
    }
}
