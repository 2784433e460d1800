//! A program prepared for one CPU: operations decoded, kernels chosen, constants brought into the shape that they
//! want. Preparing allocates; running does not.

use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::ops::{Deref, DerefMut, Range};

use crate::error::ProgramError;
use crate::kernels::{KernelSet, Raw};
use crate::limits::{ARENA_SLACK_BYTES, Limits};
use crate::op::Op;
use crate::program::Program;
use crate::reference::{self, Memory};
use crate::share::{Progress, Schedule, Team};

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes that begin at a multiple of 64: an arena, or a program read into memory.
#[derive(Clone)]
pub struct Arena {
    lines: Vec<Line>,
    len_bytes: usize,
}

impl Arena {
    /// `len_bytes` zeros.
    pub fn zeroed(len_bytes: usize) -> Arena {
        Arena { lines: alloc::vec![Line([0; 64]); len_bytes.div_ceil(64)], len_bytes }
    }

    /// A copy of `bytes`.
    pub fn copied(bytes: &[u8]) -> Arena {
        let mut arena = Arena::zeroed(bytes.len());
        arena.copy_from_slice(bytes);
        arena
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}

impl Deref for Arena {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the lines are initialised, have no padding, and hold at least `len_bytes`.
        unsafe { core::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len_bytes) }
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and any byte is valid in a line.
        unsafe { core::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len_bytes) }
    }
}

impl AsRef<[u8]> for Arena {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[derive(Debug)]
struct Step {
    op: Op,
    /// Where what was prepared for it begins.
    prepared: usize,
}

/// A program, ready to run. `B` holds its bytes: fastest if they begin at a multiple of 64 ([`Arena::copied`]).
#[derive(Debug)]
pub struct Executable<B> {
    bytes: B,
    constants: Range<usize>,
    steps: Vec<Step>,
    schedule: Schedule,
    prepared: Arena,
    kernels: &'static KernelSet,
    arena_bytes: usize,
    limits: Limits,
}

impl<B: AsRef<[u8]>> Executable<B> {
    /// Checks the program and prepares it for `kernels`.
    ///
    /// # Errors
    /// As [`Program::check`].
    pub fn prepare(
        bytes: B,
        kernels: &'static KernelSet,
        limits: &Limits,
    ) -> Result<Executable<B>, ProgramError> {
        let program = Program::check(bytes.as_ref(), limits)?;
        let start = program.constants().as_ptr() as usize - bytes.as_ref().as_ptr() as usize;
        let constants = start..start + program.constant_bytes();
        let mut steps = Vec::with_capacity(program.operations().count());
        let mut prepared = Vec::new();
        for op in program.operations() {
            prepared.resize(prepared.len().next_multiple_of(64), 0);
            steps.push(Step { op, prepared: prepared.len() });
            prepared.extend(prepare_step(&op, program.constants(), kernels));
        }
        prepared.resize(prepared.len() + ARENA_SLACK_BYTES, 0);
        let schedule = Schedule::of(steps.iter().map(|step| &step.op));
        let arena_bytes = program.arena_bytes();
        let (prepared, limits) = (Arena::copied(&prepared), limits.clone());
        Ok(Executable { bytes, constants, steps, schedule, prepared, kernels, arena_bytes, limits })
    }

    /// The program.
    pub fn program(&self) -> Program<'_> {
        Program::decode(self.bytes.as_ref(), &self.limits)
            .expect("these bytes were checked when they were prepared")
    }

    /// Bytes of the arena that a caller has to lend.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// The program's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The kernels that it was prepared for.
    pub fn kernels(&self) -> &'static KernelSet {
        self.kernels
    }

    /// Runs the program once. Inputs stand in their ports' ranges of `arena`, outputs are found there.
    ///
    /// # Errors
    /// [`ProgramError::Arena`] if the arena is too small.
    pub fn run(&self, arena: &mut [u8]) -> Result<(), ProgramError> {
        self.run_observed(arena, |_, _| ())
    }

    /// As [`Executable::run`], and calls `after` with each operation and its index when it is done.
    ///
    /// # Errors
    /// As [`Executable::run`].
    pub fn run_observed(
        &self,
        arena: &mut [u8],
        mut after: impl FnMut(usize, &Op),
    ) -> Result<(), ProgramError> {
        let lent = self.lent(arena)?;
        for (index, step) in self.steps.iter().enumerate() {
            // SAFETY: nothing else uses the arena meanwhile, and all parts are the operation's.
            unsafe { self.step(step, 0..step.op.parts(), &lent) };
            after(index, &step.op);
        }
        Ok(())
    }

    fn lent(&self, arena: &mut [u8]) -> Result<Lent, ProgramError> {
        if arena.len() < self.arena_bytes {
            return Err(ProgramError::Arena { found: arena.len(), needed: self.arena_bytes });
        }
        Ok(Lent { arena: arena.as_mut_ptr(), len_bytes: arena.len() })
    }

    /// Computes some parts of a step.
    ///
    /// # Safety
    /// The arena is lent to this run, the parts are the operation's and not none, and no one writes what they read, or
    /// uses what they write, at the same time.
    unsafe fn step(&self, step: &Step, parts: Range<usize>, lent: &Lent) {
        let constants = &self.bytes.as_ref()[self.constants.clone()];
        let raw = Raw {
            arena: lent.arena,
            constants: constants.as_ptr(),
            prepared: self.prepared[step.prepared..].as_ptr(),
        };
        let set = self.kernels;
        // SAFETY: the checker has proven that the operation stays inside of the arena, whose length was compared with
        // the program's, and of the constants; a set is only handed out on a CPU that has its instructions; what was
        // prepared is this set's for this operation; and the caller answers for the rest.
        unsafe {
            match (&step.op, set) {
                (Op::Conv(op), KernelSet { conv: Some(conv), .. }) => conv(op, raw, parts),
                (Op::Depthwise(op), KernelSet { depthwise: Some(depthwise), .. }) => {
                    depthwise(op, raw, parts);
                }
                (Op::Add(op), KernelSet { add: Some(add), .. }) => add(op, raw),
                (Op::AveragePool(op), KernelSet { average_pool: Some(pool), .. }) => pool(op, raw),
                (Op::Import(op), KernelSet { import: Some(import), .. }) => import(op, raw),
                (Op::Table(op), KernelSet { table: Some(table), .. }) => table(op, raw),
                (op, _) => {
                    let cells =
                        core::slice::from_raw_parts(lent.arena.cast::<Cell<u8>>(), lent.len_bytes);
                    reference::run_part(
                        op,
                        &mut Memory::of_cells(cells, constants, set.flip),
                        parts,
                    );
                }
            }
        }
    }
}

impl<B: AsRef<[u8]> + Sync> Executable<B> {
    /// As [`Executable::run`], with the same bits, by all threads of a team. Programs too small for that run on the
    /// caller's thread alone.
    ///
    /// # Errors
    /// As [`Executable::run`].
    pub fn run_shared(&self, arena: &mut [u8], team: &impl Team) -> Result<(), ProgramError> {
        if !self.schedule.is_worth_sharing() {
            return self.run(arena);
        }
        self.run_phases(arena, team)
    }

    fn run_phases(&self, arena: &mut [u8], team: &impl Team) -> Result<(), ProgramError> {
        let lent = self.lent(arena)?;
        let progress = Progress::default();
        let wait = |turns| team.wait(turns);
        let part = || {
            self.schedule.take_part(&progress, wait, |work| {
                let step = &self.steps[work.step];
                // SAFETY: whoever computes other parts of the operation at the same time writes other values, and
                // reads none of these, nor in its slack: the schedule sees to that. Other operations are not computed
                // at the same time. What they wrote is seen, since it was counted as done after it was written.
                unsafe { self.step(step, work.parts.clone(), &lent) };
            });
        };
        team.run(&part);
        // Should the team have called no one, all is done here; else there is nothing left.
        part();
        assert!(self.schedule.is_done(&progress), "a team returns when all of its calls have");
        Ok(())
    }
}

/// The arena of one run.
struct Lent {
    arena: *mut u8,
    len_bytes: usize,
}

// SAFETY: it is the address of an arena; whoever reads or writes there says why it may.
unsafe impl Sync for Lent {}

fn prepare_step(op: &Op, constants: &[u8], kernels: &KernelSet) -> Vec<u8> {
    match (op, kernels) {
        (Op::Conv(op), KernelSet { prepare_conv: Some(prepare), .. }) => prepare(op, constants),
        (Op::Depthwise(op), KernelSet { prepare_depthwise: Some(prepare), .. }) => {
            prepare(op, constants)
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
