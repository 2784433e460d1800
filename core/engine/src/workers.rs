//! A team of threads that are kept over many runs: one who waits for work soon sleeps.
//!
//! A run opens the team, wakes the workers, takes part itself, and closes the team again. Only those are waited for
//! who had come in before it was closed: a worker who sleeps too long misses the run, and nothing waits for it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicIsize, AtomicPtr, AtomicUsize, Ordering};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::thread::{self, JoinHandle};

use crate::share::Team;

/// How often a worker looks for the next run before it sleeps.
const TURNS_BEFORE_SLEEP: u32 = 1 << 10;

/// How often one who waits for another looks before it lets other threads run.
const TURNS_BEFORE_YIELD: u32 = 1 << 8;

/// The team is closed: no one is inside, and no one may enter.
const CLOSED: isize = isize::MIN;

type Part<'a> = &'a (dyn Fn() + Sync);

/// Threads that wait for runs to share.
#[derive(Debug)]
pub struct Workers {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
    /// Set while a run has them.
    taken: AtomicBool,
}

#[derive(Debug)]
struct Gate {
    /// How many workers are inside of the run, or [`CLOSED`].
    inside: AtomicIsize,
    /// The run's part; only those inside may look at it, and it is written while the gate is closed.
    part: AtomicPtr<Part<'static>>,
    /// Counts runs, so that a worker takes part in each once.
    run: AtomicUsize,
    /// Whether a worker's part panicked.
    panicked: AtomicBool,
    stopped: AtomicBool,
}

impl Workers {
    /// Starts so many threads, which with the caller's make a team of one more.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn start(threads: usize) -> io::Result<Workers> {
        let gate = Arc::new(Gate {
            inside: AtomicIsize::new(CLOSED),
            part: AtomicPtr::default(),
            run: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let mut workers = Workers { gate, threads: Vec::new(), taken: AtomicBool::new(false) };
        for _ in 0..threads {
            let gate = Arc::clone(&workers.gate);
            let thread =
                thread::Builder::new().name("inference".into()).spawn(move || gate.work())?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

impl Team for Workers {
    /// Runs that are not the first at the same time have the caller's thread alone.
    fn run(&self, part: &(dyn Fn() + Sync)) {
        if self.threads.is_empty() || self.taken.swap(true, Ordering::Acquire) {
            return part();
        }
        let opened = Opened::new(self, &part);
        part();
        drop(opened);
        if self.gate.panicked.load(Ordering::Relaxed) {
            panic!("a worker panicked");
        }
    }

    fn wait(&self, turns: u32) {
        wait(turns);
    }
}

fn wait(turns: u32) {
    if turns < TURNS_BEFORE_YIELD { core::hint::spin_loop() } else { thread::yield_now() }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.gate.stopped.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // Its panics were told to the run that they belong to.
            let _ = thread.join();
        }
    }
}

/// A run that has the workers. Closes the gate when it goes out of scope, whether or not the caller's part panics.
struct Opened<'a>(&'a Workers);

impl<'a> Opened<'a> {
    fn new(workers: &'a Workers, part: &'a Part<'a>) -> Opened<'a> {
        let gate = &workers.gate;
        // A run whose own part panicked did not ask.
        gate.panicked.store(false, Ordering::Relaxed);
        gate.part.store(core::ptr::from_ref(part).cast_mut().cast(), Ordering::Relaxed);
        gate.inside.store(0, Ordering::Release);
        gate.run.fetch_add(1, Ordering::Release);
        workers.threads.iter().for_each(|thread| thread.thread().unpark());
        Opened(workers)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let inside = &self.0.gate.inside;
        let mut turns = 0_u32;
        while inside.compare_exchange(0, CLOSED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            wait(turns);
            turns = turns.saturating_add(1);
        }
        self.0.taken.store(false, Ordering::Release);
    }
}

impl Gate {
    /// What a worker does until it is stopped.
    fn work(&self) {
        let mut last_run = 0;
        let mut turns = 0;
        while !self.stopped.load(Ordering::Acquire) {
            let run = self.run.load(Ordering::Acquire);
            if run != last_run {
                (last_run, turns) = (run, 0);
                self.take_part();
            } else if turns < TURNS_BEFORE_SLEEP {
                turns += 1;
                core::hint::spin_loop();
            } else {
                // Whoever opens the gate or stops the team wakes this thread afterwards, so nothing is missed.
                thread::park();
            }
        }
    }

    fn take_part(&self) {
        let enter = |inside: isize| (inside >= 0).then_some(inside + 1);
        if self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
            return;
        }
        // SAFETY: the pointer was written before the gate was opened, and what it points to lives at least until the
        // gate is closed, which waits until this thread has left.
        let part: Part<'_> = unsafe { *self.part.load(Ordering::Relaxed) };
        if panic::catch_unwind(AssertUnwindSafe(part)).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.inside.fetch_sub(1, Ordering::Release);
    }
}
