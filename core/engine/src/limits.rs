//! What a program may ask for.

/// Bytes behind the last value of an arena, and behind the constants, that kernels may read: they load whole
/// vectors, and multiply what lies beyond a row by zeros.
pub const ARENA_SLACK_BYTES: usize = 256;

/// The largest offset, step, arena or constants of any program, whatever the limits: it fits an `i32` with the slack
/// added, and the sum of two fits 32 bits.
pub(crate) const ADDRESS_MAX: u64 = (1 << 31) - 1 - ARENA_SLACK_BYTES as u64;

/// Bounds on programs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest program, in bytes.
    pub program_bytes_max: usize,
    /// The largest arena, in bytes.
    pub arena_bytes_max: usize,
    /// The most operations.
    pub operations_max: usize,
    /// The most inputs and outputs together.
    pub ports_max: usize,
    /// The longest extent of a view, and the largest kernel, stride or dilation.
    pub extent_max: u32,
    /// The most that one run may do, counted in multiplications, comparisons and copies of single values, as the
    /// reference does them.
    pub work_max: u64,
}

impl Limits {
    /// The defaults, for a gateway.
    pub const fn new() -> Limits {
        Limits {
            program_bytes_max: 256 << 20,
            arena_bytes_max: 256 << 20,
            operations_max: 100_000,
            ports_max: 64,
            extent_max: 1 << 24,
            work_max: 1 << 38,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new()
    }
}
