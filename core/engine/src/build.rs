//! Making programs: constants in the layout that kernels want, then operations, then bytes.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::ProgramError;
use crate::limits::{ARENA_SLACK_BYTES, Limits};
use crate::op::{Conv, Depthwise, Op};
use crate::program::{
    CONSTANTS_ALIGNMENT, Element, Header, MAGIC, PREFIX_BYTES, Port, Program, Shape, VERSION,
};

/// The constants of a [`Conv`] or [`Depthwise`] as models have them.
#[derive(Clone, Copy, Debug)]
pub struct ConvWeights<'a> {
    /// `[output channels, kernel height, kernel width, input channels of the group] i8`, zero point 0.
    pub weights: &'a [i8],
    /// `[output channels] i32`, in steps of input scale · weight scale.
    pub bias: &'a [i32],
    /// `[output channels]`, input scale · weight scale / output scale.
    pub multipliers: &'a [f32],
    /// The zero point of the input, which is folded into the bias.
    pub input_zero_point: i8,
}

/// A program in the making.
#[derive(Debug, Default)]
pub struct ProgramBuilder {
    constants: Vec<u8>,
    ports: [Vec<(String, Element, Shape, u32)>; 2],
    operations: Vec<Op>,
}

impl ProgramBuilder {
    /// An empty program.
    pub fn new() -> ProgramBuilder {
        ProgramBuilder::default()
    }

    /// Adds an input, whose elements the caller puts at `offset`.
    pub fn input(&mut self, name: &str, element: Element, shape: Shape, offset: u32) {
        self.ports[0].push((name.into(), element, shape, offset));
    }

    /// Adds an output, whose elements the caller finds at `offset`.
    pub fn output(&mut self, name: &str, element: Element, shape: Shape, offset: u32) {
        self.ports[1].push((name.into(), element, shape, offset));
    }

    /// Adds constants, and says at which offset.
    pub fn constants(&mut self, bytes: &[u8]) -> u32 {
        self.constants.resize(self.constants.len().next_multiple_of(CONSTANTS_ALIGNMENT), 0);
        let offset = self.constants.len() as u32;
        self.constants.extend_from_slice(bytes);
        offset
    }

    /// Adds an operation behind those that are there.
    pub fn push(&mut self, op: Op) {
        self.operations.push(op);
    }

    /// Adds a convolution, packing its constants; the offsets of constants in `op` are set here.
    ///
    /// # Panics
    /// If the constants are not as long as `op` says.
    pub fn push_conv(&mut self, mut op: Conv, constants: &ConvWeights<'_>) {
        let packed = pack_conv(&op, constants);
        op.weights = self.constants(&packed.weights);
        op.bias = self.constants(&packed.bias);
        op.multipliers = self.constants(&packed.multipliers);
        self.push(Op::Conv(op));
    }

    /// Adds a convolution of channels by themselves; likewise.
    ///
    /// # Panics
    /// As [`ProgramBuilder::push_conv`].
    pub fn push_depthwise(&mut self, mut op: Depthwise, constants: &ConvWeights<'_>) {
        let packed = pack_depthwise(&op, constants);
        op.weights = self.constants(&packed.weights);
        op.bias = self.constants(&packed.bias);
        op.multipliers = self.constants(&packed.multipliers);
        self.push(Op::Depthwise(op));
    }

    /// The program's bytes, over an arena of `arena_bytes`.
    ///
    /// # Errors
    /// As [`Program::check`], which is asked at the end.
    pub fn finish(mut self, arena_bytes: u32, limits: &Limits) -> Result<Vec<u8>, ProgramError> {
        self.constants.resize(self.constants.len() + ARENA_SLACK_BYTES, 0);
        let header = Header {
            arena_bytes,
            inputs: self.ports[0].len() as u16,
            outputs: self.ports[1].len() as u16,
            operations: self.operations.len() as u32,
        };
        let mut plan = encoded(&header);
        for (name, element, shape, offset) in self.ports.iter().flatten() {
            let port = Port { name, element: *element, shape: *shape, offset: *offset };
            plan.extend(encoded(&port));
        }
        plan.extend(self.operations.iter().flat_map(encoded));
        let mut bytes = Vec::with_capacity(
            PREFIX_BYTES + plan.len() + CONSTANTS_ALIGNMENT + self.constants.len(),
        );
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&(plan.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.constants.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&plan);
        bytes.resize(bytes.len().next_multiple_of(CONSTANTS_ALIGNMENT), 0);
        bytes.extend_from_slice(&self.constants);
        Program::check(&bytes, limits)?;
        Ok(bytes)
    }
}

fn encoded(record: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(record).expect("records of a program hold nothing that cannot be encoded")
}

struct Packed {
    weights: Vec<u8>,
    bias: Vec<u8>,
    multipliers: Vec<u8>,
}

fn pack_conv(op: &Conv, constants: &ConvWeights<'_>) -> Packed {
    let segments = op.segments();
    let (outputs, blocks) = (op.group_outputs(), op.group_blocks());
    let filter = op.window.taps() * (op.input.channels as usize / op.groups as usize);
    assert_eq!(
        constants.weights.len(),
        filter * op.output.channels as usize,
        "weights of the convolution"
    );
    let lanes = op.groups as usize * blocks * 16;
    let mut weights = alloc::vec![0_u8; op.groups as usize * blocks * segments.block_bytes()];
    let (mut bias, mut multipliers) = (alloc::vec![0_i32; lanes], alloc::vec![0_f32; lanes]);
    for channel in 0..op.output.channels as usize {
        let (group, of_group) = (channel / outputs, channel % outputs);
        let (block, lane) = (group * blocks + of_group / 16, of_group % 16);
        let values = &constants.weights[channel * filter..][..filter];
        let sum: i32 = values.iter().map(|value| i32::from(*value)).sum();
        let zero = i32::from(constants.input_zero_point);
        bias[block * 16 + lane] = constants.bias[channel].wrapping_sub(zero.wrapping_mul(sum));
        multipliers[block * 16 + lane] = constants.multipliers[channel];
        for (index, value) in values.iter().enumerate() {
            let (segment, k) = (index / segments.values, index % segments.values);
            let quad = segment * segments.quads() + k / 4;
            weights[block * segments.block_bytes() + quad * 64 + lane * 4 + k % 4] = *value as u8;
        }
    }
    Packed {
        weights,
        bias: little_endian(&bias, i32::to_le_bytes),
        multipliers: little_endian(&multipliers, f32::to_le_bytes),
    }
}

fn pack_depthwise(op: &Depthwise, constants: &ConvWeights<'_>) -> Packed {
    let (channels, padded, taps) =
        (op.output.channels as usize, op.padded_channels(), op.window.taps());
    assert_eq!(constants.weights.len(), channels * taps, "weights of the depthwise convolution");
    let mut weights = alloc::vec![0_u8; taps * padded];
    let (mut bias, mut multipliers) = (alloc::vec![0_i32; padded], alloc::vec![0_f32; padded]);
    for channel in 0..channels {
        let values = &constants.weights[channel * taps..][..taps];
        let sum: i32 = values.iter().map(|value| i32::from(*value)).sum();
        let zero = i32::from(constants.input_zero_point);
        bias[channel] = constants.bias[channel].wrapping_sub(zero.wrapping_mul(sum));
        multipliers[channel] = constants.multipliers[channel];
        for (tap, value) in values.iter().enumerate() {
            weights[tap * padded + channel] = *value as u8;
        }
    }
    Packed {
        weights,
        bias: little_endian(&bias, i32::to_le_bytes),
        multipliers: little_endian(&multipliers, f32::to_le_bytes),
    }
}

fn little_endian<T: Copy>(values: &[T], bytes: fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|value| bytes(*value)).collect()
}
