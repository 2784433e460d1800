//! A program's bytes, and the program that they are.
//!
//! | offset | width | meaning |
//! |---|---|---|
//! | 0 | 4 | `SVIP` |
//! | 4 | 2 | version, little-endian |
//! | 6 | 2 | zero |
//! | 8 | 4 | length of the plan in bytes, little-endian |
//! | 12 | 4 | length of the constants in bytes, little-endian |
//! | 16 | plan | a [`Header`], its [`Port`]s (inputs first), its [`Op`]s, each in postcard's encoding |
//! | next multiple of 64 | constants | weights, biases, multipliers and tables, as the operations say; zeros before |
//!
//! The constants begin at a multiple of 64, so that rows of weights meet cache lines when the whole is read to such
//! an address. Kernels use them where they lie.

use serde::{Deserialize, Serialize};

use crate::check::Checker;
use crate::error::ProgramError;
use crate::limits::{ADDRESS_MAX, Limits};
use crate::op::Op;
use crate::reference::{self, Memory};

pub(crate) const MAGIC: [u8; 4] = *b"SVIP";
pub(crate) const VERSION: u16 = 1;
pub(crate) const PREFIX_BYTES: usize = 16;
pub(crate) const CONSTANTS_ALIGNMENT: usize = 64;

/// What begins a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Bytes of the arena that operations name; kernels may read [`ARENA_SLACK_BYTES`](crate::ARENA_SLACK_BYTES)
    /// more.
    pub(crate) arena_bytes: u32,
    pub(crate) inputs: u16,
    pub(crate) outputs: u16,
    pub(crate) operations: u32,
}

/// The type of a port's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Element {
    I8,
    U8,
    F32,
    I32,
    I64,
}

impl Element {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Element::I8 | Element::U8 => 1,
            Element::F32 | Element::I32 => 4,
            Element::I64 => 8,
        }
    }
}

/// The extents of a port, outermost first; those behind `rank` are 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    rank: u8,
    extents: [u32; 6],
}

impl Shape {
    /// The shape with these extents; `None` if there are more than six.
    pub fn new(extents: &[u32]) -> Option<Shape> {
        let mut all = [1; 6];
        all.get_mut(..extents.len())?.copy_from_slice(extents);
        Some(Shape { rank: extents.len() as u8, extents: all })
    }

    /// The extents.
    pub fn extents(&self) -> &[u32] {
        self.extents.get(..usize::from(self.rank)).unwrap_or(&self.extents)
    }

    /// Whether a decoded shape has as many extents as there is room for.
    pub(crate) fn rank_fits(&self) -> bool {
        usize::from(self.rank) <= self.extents.len()
    }

    /// Whether the extents behind the rank of a decoded shape are 1.
    pub(crate) fn ends_in_ones(&self) -> bool {
        self.extents.iter().skip(self.rank.into()).all(|extent| *extent == 1)
    }

    /// The number of elements, if it fits.
    pub(crate) fn elements(&self) -> Option<usize> {
        self.extents.iter().try_fold(1_usize, |all, &extent| all.checked_mul(extent as usize))
    }
}

/// Where a caller puts an input, or finds an output: elements in the order of the shape, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port<'a> {
    /// The tensor's name in the model.
    pub name: &'a str,
    /// The type of its elements.
    pub element: Element,
    /// Its extents.
    pub shape: Shape,
    /// Where it begins in the arena, at a multiple of 8.
    pub offset: u32,
}

impl Port<'_> {
    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.shape.elements().unwrap_or(0).saturating_mul(self.element.bytes())
    }

    /// The bytes of the arena that it is.
    pub fn range(&self) -> core::ops::Range<usize> {
        self.offset as usize..self.offset as usize + self.len_bytes()
    }
}

/// A program that was checked: running it touches nothing but its arena and its constants.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    header: Header,
    plan_bytes: usize,
    /// What follows the header in the plan.
    records: &'a [u8],
    constants: &'a [u8],
}

impl<'a> Program<'a> {
    /// Checks `bytes`, and takes them for a program if every rule holds.
    ///
    /// # Errors
    /// [`ProgramError`], which names the operation and the rule that it breaks.
    pub fn check(bytes: &'a [u8], limits: &Limits) -> Result<Program<'a>, ProgramError> {
        let program = Program::decode(bytes, limits)?;
        Checker::new(&program, limits).check()?;
        Ok(program)
    }

    /// Takes the bytes apart; nothing is known of ports and operations yet.
    pub(crate) fn decode(bytes: &'a [u8], limits: &Limits) -> Result<Program<'a>, ProgramError> {
        limit("bytes of the program", bytes.len() as u64, limits.program_bytes_max as u64)?;
        let (prefix, rest) =
            bytes.split_at_checked(PREFIX_BYTES).ok_or(ProgramError::NotAProgram)?;
        let word = |at: usize| {
            u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
        };
        if prefix[..4] != MAGIC || prefix[6..8] != [0, 0] {
            return Err(ProgramError::NotAProgram);
        }
        match u16::from_le_bytes([prefix[4], prefix[5]]) {
            VERSION => (),
            other => return Err(ProgramError::Version(other)),
        }
        let (plan_bytes, constant_bytes) = (word(8) as usize, word(12) as usize);
        let plan = rest.get(..plan_bytes).ok_or(ProgramError::Truncated)?;
        let start = (PREFIX_BYTES + plan_bytes).next_multiple_of(CONSTANTS_ALIGNMENT);
        let (between, constants) = bytes
            .get(PREFIX_BYTES + plan_bytes..)
            .and_then(|rest| rest.split_at_checked(start - PREFIX_BYTES - plan_bytes))
            .filter(|(_, constants)| constants.len() >= constant_bytes)
            .ok_or(ProgramError::Truncated)?;
        if between.iter().any(|byte| *byte != 0) {
            return Err(ProgramError::NotAProgram);
        }
        limit("bytes behind the constants", (constants.len() - constant_bytes) as u64, 0)?;
        limit("bytes of the constants", constant_bytes as u64, ADDRESS_MAX)?;
        let (header, records) = postcard::take_from_bytes::<Header>(plan)
            .map_err(|_| ProgramError::Malformed { byte: 0 })?;
        let arena_bytes_max = (limits.arena_bytes_max as u64).min(ADDRESS_MAX);
        limit("bytes of the arena", header.arena_bytes.into(), arena_bytes_max)?;
        limit("operations", header.operations.into(), limits.operations_max as u64)?;
        let ports = u64::from(header.inputs) + u64::from(header.outputs);
        limit("ports", ports, limits.ports_max as u64)?;
        Ok(Program { header, plan_bytes, records, constants })
    }

    /// Bytes of the arena that a caller has to lend, slack included.
    pub fn arena_bytes(&self) -> usize {
        self.header.arena_bytes as usize + crate::ARENA_SLACK_BYTES
    }

    /// Bytes that operations name.
    pub(crate) fn named_bytes(&self) -> usize {
        self.header.arena_bytes as usize
    }

    /// The constants.
    pub(crate) fn constants(&self) -> &'a [u8] {
        self.constants
    }

    /// Bytes of weights, biases, multipliers and tables.
    pub fn constant_bytes(&self) -> usize {
        self.constants.len()
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = Port<'a>> + use<'a> {
        self.ports().take(usize::from(self.header.inputs))
    }

    /// The outputs, in order.
    pub fn outputs(&self) -> impl Iterator<Item = Port<'a>> + use<'a> {
        self.ports().skip(usize::from(self.header.inputs))
    }

    /// Inputs, then outputs.
    pub fn ports(&self) -> impl Iterator<Item = Port<'a>> + use<'a> {
        self.port_records().map_while(Result::ok)
    }

    /// The operations, in order. They are decoded as they are asked for.
    pub fn operations(&self) -> impl Iterator<Item = Op> + use<'a> {
        self.operation_records().map_while(Result::ok)
    }

    pub(crate) fn port_count(&self) -> usize {
        usize::from(self.header.inputs) + usize::from(self.header.outputs)
    }

    pub(crate) fn port_records(&self) -> Records<'a, Port<'a>> {
        Records::new(self.records, self.port_count(), self.plan_bytes)
    }

    pub(crate) fn operation_records(&self) -> Records<'a, Op> {
        Records::new(self.after_ports(), self.header.operations as usize, self.plan_bytes)
    }

    /// Runs the program once by the reference alone, decoding operations as it goes: for devices without a heap.
    /// Inputs stand in their ports' ranges of `arena`, outputs are found there.
    ///
    /// # Errors
    /// [`ProgramError::Arena`] if the arena is smaller than [`Program::arena_bytes`].
    pub fn run(&self, arena: &mut [u8]) -> Result<(), ProgramError> {
        if arena.len() < self.arena_bytes() {
            return Err(ProgramError::Arena { found: arena.len(), needed: self.arena_bytes() });
        }
        let mut memory = Memory::new(arena, self.constants, 0);
        self.operations().for_each(|op| reference::run(&op, &mut memory));
        Ok(())
    }

    fn after_ports(&self) -> &'a [u8] {
        let mut ports = self.port_records();
        while ports.next().is_some() {}
        ports.bytes
    }
}

pub(crate) fn limit(what: &'static str, found: u64, limit: u64) -> Result<(), ProgramError> {
    if found > limit { Err(ProgramError::Limit { what, found, limit }) } else { Ok(()) }
}

/// Records one after the other, up to the end of the plan; an error ends them.
pub(crate) struct Records<'a, T> {
    bytes: &'a [u8],
    plan_bytes: usize,
    left: usize,
    record: core::marker::PhantomData<T>,
}

impl<'a, T: Deserialize<'a>> Records<'a, T> {
    fn new(bytes: &'a [u8], count: usize, plan_bytes: usize) -> Records<'a, T> {
        Records { bytes, plan_bytes, left: count, record: core::marker::PhantomData }
    }

    /// What follows the records that were read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a, T: Deserialize<'a>> Iterator for Records<'a, T> {
    type Item = Result<T, ProgramError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match postcard::take_from_bytes(self.bytes) {
            Ok((record, rest)) => {
                self.bytes = rest;
                Some(Ok(record))
            }
            Err(_) => {
                self.left = 0;
                Some(Err(ProgramError::Malformed { byte: self.plan_bytes - self.bytes.len() }))
            }
        }
    }
}
