//! What the updates order of the slots, carried out in its order; and trials, one at a time.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use selvedge_wire::{Digest, SlotName};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinHandle, JoinSet},
};

use crate::{
    inference::{LoadedModel, SlotHandle, WantedSite, WorkerEnded},
    trial::{TrialArgs, TrialProgram, run_trial},
    updates::{TrialLimits, UpdateInput},
};

/// A slot, and the way for orders to it.
pub(super) struct Slot {
    pub(super) handle: SlotHandle,
    pub(super) orders: mpsc::UnboundedSender<SlotOrder>,
    /// Ends when the slot's worker has ended and what it knew is on the disk.
    pub(super) keeper: JoinHandle<()>,
}

/// What is ordered of a slot.
pub(super) enum SlotOrder {
    Swap { model: Option<Box<LoadedModel>> },
    Shadow { model: Option<Box<LoadedModel>>, samples_wanted: u64 },
    Watch { on: bool },
    Site { site: Option<WantedSite> },
}

/// Carries orders to a slot, one after the other, and says when a model answers.
pub(super) async fn carry_orders(
    slot: SlotHandle,
    mut orders: mpsc::UnboundedReceiver<SlotOrder>,
    updates: mpsc::Sender<UpdateInput>,
) {
    while let Some(order) = orders.recv().await {
        let carried = match order {
            SlotOrder::Swap { model } => swap(&slot, model, &updates).await,
            SlotOrder::Shadow { model, samples_wanted } => {
                if let Some(model) = &model {
                    let (name, version) = (&model.running.name, &model.running.version);
                    tracing::info!("slot {}: {name} {version} gets the same samples", slot.slot());
                }
                slot.shadow(model, samples_wanted).await
            }
            SlotOrder::Watch { on } => slot.watch(on).await,
            SlotOrder::Site { site } => slot.judge_by_site(site).await,
        };
        if carried.is_err() {
            return;
        }
    }
}

async fn swap(
    slot: &SlotHandle,
    model: Option<Box<LoadedModel>>,
    updates: &mpsc::Sender<UpdateInput>,
) -> Result<(), WorkerEnded> {
    let running = model.as_ref().map(|model| model.running.clone());
    match &running {
        Some(running) => {
            let (name, version) = (&running.name, &running.version);
            tracing::info!("slot {}: {name} {version} takes over", slot.slot());
        }
        None => tracing::info!("slot {}: empty", slot.slot()),
    }
    slot.swap(model).await?;
    let slot = slot.slot().clone();
    updates.send(UpdateInput::Swapped { slot, running }).await.map_err(|_| WorkerEnded)
}

/// Runs trials, one at a time, so that their memory is that of one bundle.
pub(super) struct Trials {
    program: TrialProgram,
    state_dir: PathBuf,
    turn: Arc<Semaphore>,
    running: BTreeMap<SlotName, AbortHandle>,
}

impl Trials {
    pub(super) fn new(program: TrialProgram, state_dir: &Path) -> Self {
        let (turn, running) = (Arc::new(Semaphore::new(1)), BTreeMap::new());
        Self { program, state_dir: state_dir.into(), turn, running }
    }

    /// Begins a trial; one of the same slot that has not ended is over.
    pub(super) fn begin(
        &mut self,
        slot: SlotName,
        bundle: Digest,
        limits: TrialLimits,
        tasks: &mut JoinSet<()>,
        updates: mpsc::Sender<UpdateInput>,
    ) {
        if let Some(over) = self.running.remove(&slot) {
            over.abort();
        }
        let program = self.program.clone();
        let trial = TrialArgs::new(&self.state_dir, bundle, limits);
        let (turn, name) = (self.turn.clone(), slot.clone());
        let task = tasks.spawn(async move {
            let _turn = turn.acquire().await.expect("nobody closes the semaphore");
            tracing::info!("slot {slot}: the trial of {bundle} begins");
            let outcome = run_trial(&program, &trial).await;
            match &outcome {
                Ok(()) => tracing::info!("slot {slot}: {bundle} passed its trial"),
                Err(reason) => tracing::warn!("slot {slot}: {bundle} failed its trial: {reason}"),
            }
            // Updates that have ended want to know nothing.
            let _ = updates.send(UpdateInput::Tried { slot, bundle, outcome }).await;
        });
        self.running.insert(name, task);
    }
}
