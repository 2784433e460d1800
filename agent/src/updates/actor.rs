//! The thread that owns [`Updates`]: checking a bundle and loading its model take their time here, while
//! messages, samples and the spool go on.

use std::thread;

use selvedge_wire::{Digest, Running, SlotName, Topic};
use tokio::sync::mpsc;

use crate::{clock::SharedClock, error::Error, inference::Judged};

use super::{Effect, Now, Observation, Updates};

/// How many inputs may wait: messages are acknowledged only after they were handled, which bounds them.
const INPUTS_MAX: usize = 256;

/// What happens to the updates.
pub(crate) enum UpdateInput {
    Message {
        topic: Topic,
        payload: Vec<u8>,
        ack: selvedge_link::Ack,
    },
    Swapped {
        slot: SlotName,
        running: Option<Running>,
    },
    Tried {
        slot: SlotName,
        bundle: Digest,
        outcome: Result<(), String>,
    },
    Observed {
        slot: SlotName,
        bundle: Digest,
        observation: Observation,
    },
    Judged {
        slot: SlotName,
        bundle: Digest,
        judged: Judged,
    },
    /// The fleet's word was not believed.
    Disbelieved,
    Tick,
}

/// Speaks to the thread.
pub(crate) struct UpdatesHandle {
    inputs: mpsc::Sender<UpdateInput>,
    effects: mpsc::UnboundedReceiver<Effect>,
}

impl UpdatesHandle {
    /// Gives the updates a thread; `first` are the effects of their start.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(crate) fn spawn(
        updates: Updates,
        first: Vec<Effect>,
        clock: SharedClock,
    ) -> Result<Self, Error> {
        let (inputs, inbox) = mpsc::channel(INPUTS_MAX);
        // Each input has few effects, so the bound of the inputs bounds these too.
        let (outbox, effects) = mpsc::unbounded_channel();
        first.into_iter().for_each(|effect| {
            let _ = outbox.send(effect);
        });
        let name = "updates".to_owned();
        let run = move || run(updates, inbox, &outbox, &clock);
        let thread = thread::Builder::new().name(name.clone()).spawn(run);
        thread.map_err(|source| Error::Thread { name, source })?;
        Ok(Self { inputs, effects })
    }

    /// Hands an input over; waits while many wait.
    pub(crate) fn inputs(&self) -> mpsc::Sender<UpdateInput> {
        self.inputs.clone()
    }

    /// Ends the thread when it has done what it is at, and waits for that.
    pub(crate) async fn close(self) {
        let Self { inputs, mut effects } = self;
        drop(inputs);
        while effects.recv().await.is_some() {}
    }

    /// The next thing to do; nothing once the thread has ended.
    pub(crate) async fn effect(&mut self) -> Option<Effect> {
        self.effects.recv().await
    }
}

fn run(
    mut updates: Updates,
    mut inbox: mpsc::Receiver<UpdateInput>,
    outbox: &mpsc::UnboundedSender<Effect>,
    clock: &SharedClock,
) {
    while let Some(input) = inbox.blocking_recv() {
        let elapsed_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = Now { unix_ms: clock.unix_ms(), elapsed_ms };
        let effects = match input {
            UpdateInput::Message { topic, payload, ack } => {
                let effects = updates.receive(&topic, &payload, now);
                // What mattered of it is on the disk.
                ack.accept();
                effects
            }
            UpdateInput::Swapped { slot, running } => updates.swapped(&slot, running, now),
            UpdateInput::Tried { slot, bundle, outcome } => {
                updates.tried(&slot, bundle, outcome, now)
            }
            UpdateInput::Observed { slot, bundle, observation } => {
                updates.observed(&slot, bundle, observation, now)
            }
            UpdateInput::Judged { slot, bundle, judged } => {
                updates.judged(&slot, bundle, judged, now)
            }
            UpdateInput::Disbelieved => updates.disbelieved(now),
            UpdateInput::Tick => updates.tick(now),
        };
        for effect in effects {
            if outbox.send(effect).is_err() {
                return;
            }
        }
    }
}
