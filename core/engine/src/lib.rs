//! Integer programs: quantised networks as a flat list of operations over one arena.
//!
//! A [`Program`] is bytes that were checked: every address that an operation can touch lies inside of the arena or
//! the constants, whoever wrote the bytes. Running one allocates nothing and cannot fail. The functions in
//! [`reference`] define every operation bit by bit; kernels for an instruction set are other ways to the same bits.
//!
//! Vocabulary: the *arena* is the memory of one inference; a *view* is a block of quantised values in it,
//! `[height, width, channels]`, channels innermost; a *port* is where a caller puts an input or finds an output;
//! a *border* are the values around a view that stand for padding; *storage* is how a value lies in the arena: as
//! `i8`, or with its top bit flipped, as `u8`, where the CPU multiplies unsigned by signed bytes.
//!
//! Quantised values are `i8` throughout: `real = (value - zero_point) * scale`. A model of `u8` has the same values
//! less 128, and the ports translate.

#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate self as selvedge_engine;
#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(feature = "alloc")]
mod build;
mod check;
mod error;
#[cfg(feature = "alloc")]
mod executable;
#[cfg(feature = "alloc")]
mod kernels;
mod limits;
mod op;
mod program;
pub mod reference;
mod requantise;
#[cfg(feature = "alloc")]
mod share;
#[cfg(feature = "std")]
mod workers;

#[cfg(feature = "alloc")]
pub use build::{ConvWeights, ProgramBuilder};
pub use error::ProgramError;
#[cfg(feature = "alloc")]
pub use executable::{Arena, Executable};
#[cfg(feature = "alloc")]
pub use kernels::KernelSet;
pub use limits::{ARENA_SLACK_BYTES, Limits};
pub use op::{
    Add, AddChannels, ArgMax, AveragePool, Bilinear, Border, Constant, Conv, Copy, Depthwise,
    Elements, Export, Import, MatMul, MaxPool, Mul, Op, Softmax, Strided, Table, View, Window,
};
pub use program::{Element, Port, Program, Shape};
pub use requantise::{Range, requantise, round_half_even};
#[cfg(feature = "alloc")]
pub use share::Team;
#[cfg(feature = "std")]
pub use workers::Workers;
