//! Kernels: other ways to the bits that [`reference`](crate::reference) defines, for one instruction set each.
//!
//! A set is chosen once, when a program is prepared. What a set has no kernel for runs by the reference. Kernels take
//! raw pointers: that they stay inside of what the pointers stand for is what the checker proved.

// Without `std`, nobody can ask the CPU what it has, and the reference runs.
#![cfg_attr(not(feature = "std"), allow(dead_code))]

#[cfg(all(target_arch = "aarch64", feature = "std"))]
mod aarch64;
#[cfg(all(target_arch = "arm", feature = "std"))]
mod armv7;
#[cfg(all(any(target_arch = "aarch64", target_arch = "arm"), feature = "std"))]
mod pixels;
#[cfg(all(any(target_arch = "aarch64", target_arch = "arm"), feature = "std"))]
mod taps;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86;

use core::ops::Range;

use crate::op::{Add, AveragePool, Conv, Depthwise, Import, Table};

/// Where the memory of a step lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    /// The arena, with its slack.
    pub(crate) arena: *mut u8,
    /// The constants.
    pub(crate) constants: *const u8,
    /// What the set prepared for the step; aligned to 64 bytes, with slack.
    pub(crate) prepared: *const u8,
}

// SAFETY: these are addresses; whoever reads or writes through them says why it may.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

/// Makes what a kernel reads beside the constants, from an operation and the constants.
#[cfg(feature = "alloc")]
pub(crate) type Prepare<T> = fn(&T, &[u8]) -> alloc::vec::Vec<u8>;

/// The kernels of one instruction set.
#[derive(Debug)]
pub struct KernelSet {
    pub(crate) name: &'static str,
    /// What a stored byte differs by from the value: 0x80 where activations are multiplied as `u8`.
    pub(crate) flip: u8,
    /// Output pixels of the range, counted row by row.
    pub(crate) conv: Option<unsafe fn(&Conv, Raw, Range<usize>)>,
    /// Output rows of the range.
    pub(crate) depthwise: Option<unsafe fn(&Depthwise, Raw, Range<usize>)>,
    pub(crate) add: Option<unsafe fn(&Add, Raw)>,
    pub(crate) average_pool: Option<unsafe fn(&AveragePool, Raw)>,
    pub(crate) import: Option<unsafe fn(&Import, Raw)>,
    pub(crate) table: Option<unsafe fn(&Table, Raw)>,
    /// What a set makes of an operation's constants before the first run. Without these, nothing.
    #[cfg(feature = "alloc")]
    pub(crate) prepare_conv: Option<Prepare<Conv>>,
    #[cfg(feature = "alloc")]
    pub(crate) prepare_depthwise: Option<Prepare<Depthwise>>,
}

/// The reference alone, on any CPU.
pub(crate) static SCALAR: KernelSet = KernelSet {
    name: "scalar",
    flip: 0,
    conv: None,
    depthwise: None,
    add: None,
    average_pool: None,
    import: None,
    table: None,
    #[cfg(feature = "alloc")]
    prepare_conv: None,
    #[cfg(feature = "alloc")]
    prepare_depthwise: None,
};

impl KernelSet {
    /// Its name: `scalar`, or that of an instruction set.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether values lie in the arena as `u8`, 128 more than they are. Ports hold what callers put there.
    pub fn stores_unsigned(&self) -> bool {
        self.flip != 0
    }

    /// The sets that this CPU can run, the fastest first, `scalar` last.
    #[cfg(feature = "std")]
    pub fn available() -> alloc::vec::Vec<&'static KernelSet> {
        #[cfg(target_arch = "x86_64")]
        let mut sets = x86::available();
        #[cfg(not(target_arch = "x86_64"))]
        let mut sets = alloc::vec::Vec::new();
        #[cfg(target_arch = "aarch64")]
        sets.extend(aarch64::available());
        #[cfg(target_arch = "arm")]
        if armv7::is_available() {
            sets.push(&armv7::ARMV7);
        }
        sets.push(&SCALAR);
        sets
    }

    /// The fastest set that this CPU can run.
    #[cfg(feature = "std")]
    pub fn best() -> &'static KernelSet {
        KernelSet::available()[0]
    }

    /// The set of this name, if this CPU can run it.
    #[cfg(feature = "std")]
    pub fn named(name: &str) -> Option<&'static KernelSet> {
        KernelSet::available().into_iter().find(|set| set.name == name)
    }

    /// The reference alone.
    pub fn scalar() -> &'static KernelSet {
        &SCALAR
    }
}
