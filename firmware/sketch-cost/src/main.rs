//! How many instructions it takes to count a value, written to the semihosting console.
//!
//! Under `qemu-system-arm -icount shift=0` each instruction takes one nanosecond of the time that the
//! SysTick timer shows. The image first measures how many ticks 100,000 `nop` take, so that it need not
//! know the board's clock. A line says what was counted, and thousandths of an instruction per value:
//!
//! ```text
//! f32 48016
//! ```
//!
//! The loop that hands over the values is in it: a load, a subtraction and a branch. One spec and one set of
//! counters are used for all values, so the compiler keeps some of the spec in registers; where each
//! value has another spec, it is loaded anew. Instructions are not cycles: flash has wait states, and a
//! branch or a load takes more than one.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::{hint::black_box, panic::PanicInfo};

use cortex_m::{
    Peripherals, asm,
    peripheral::{SYST, syst::SystClkSource},
};
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprintln};
use selvedge_sketch::{BinCounts, BinSpec, CodeHistogram, Grid, LatencyHistogram, key_from_f32};

const ROUNDS: u32 = 100;
const VALUES: usize = 1000;
const TICKS_MAX: u32 = 0x00ff_ffff;
const NOPS: u32 = 100_000;

#[entry]
fn main() -> ! {
    let Some(Peripherals { SYST: mut timer, .. }) = Peripherals::take() else {
        panic!("the peripherals are taken once");
    };
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(TICKS_MAX);
    timer.clear_current();
    timer.enable_counter();
    let once = ticks(|| (0..NOPS / 100).for_each(|_| hundred_nops()));
    let twice = ticks(|| {
        (0..NOPS / 100).for_each(|_| {
            hundred_nops();
            hundred_nops();
        });
    });
    let nop_ticks = twice - once;

    let report = |what: &str, ticks: u32| {
        let instructions = u64::from(ticks) * u64::from(NOPS) * 1000 / u64::from(nop_ticks);
        hprintln!("{} {}", what, instructions / (u64::from(ROUNDS) * VALUES as u64));
    };
    let spec = spec();
    let mut seed = 1;
    let values: [f32; VALUES] = core::array::from_fn(|_| normal(&mut seed).clamp(-4.0, 4.0));
    let mut counts = BinCounts::new();
    report("f32", per_value(&values, |&value| counts.observe_f32(&spec, value)));

    let outside: [f32; VALUES] = core::array::from_fn(|_| draw(&mut seed) as f32 + 5.0);
    let mut counts_of_outside = BinCounts::new();
    report("outside", per_value(&outside, |&value| counts_of_outside.observe_f32(&spec, value)));

    let codes_spec = spec.codes().expect("the spec has a grid");
    let codes: [i16; VALUES] = core::array::from_fn(|place| (values[place] * 32.0) as i16);
    let mut counts_of_codes = BinCounts::new();
    report(
        "i16",
        per_value(&codes, |&code| counts_of_codes.observe_integer(&codes_spec, code.into())),
    );

    let codes: [i8; VALUES] = core::array::from_fn(|place| codes[place] as i8);
    let mut histogram = CodeHistogram::new();
    report("i8", per_value(&codes, |&code| histogram.observe_i8(code)));

    let latencies_us: [u32; VALUES] = core::array::from_fn(|_| draw(&mut seed) >> 20);
    let mut latency = LatencyHistogram::new();
    report("latency", per_value(&latencies_us, |&latency_us| latency.observe(latency_us)));

    let all = u64::from(ROUNDS) * VALUES as u64;
    let totals = [
        counts.total(),
        counts_of_outside.above().into(),
        counts_of_codes.total(),
        histogram.total(),
        latency.total(),
    ];
    let outcome = if totals == [all; 5] { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE };
    debug::exit(outcome);
    loop {
        asm::nop();
    }
}

/// Fifteen edges at sixteenths of a normal distribution, with a guard of four standard deviations, on a
/// grid of 32 codes per standard deviation.
fn spec() -> BinSpec {
    let quantiles = [1.534, 1.150, 0.887, 0.674, 0.489, 0.319, 0.157];
    let mut edges = [0; 15];
    for (place, quantile) in quantiles.into_iter().enumerate() {
        edges[place] = key_from_f32(-quantile);
        edges[14 - place] = key_from_f32(quantile);
    }
    let grid = Grid::new(1.0 / 32.0, 0).expect("the scale is a power of two");
    BinSpec::on_grid(&edges, key_from_f32(-4.0), key_from_f32(4.0), grid)
        .expect("the edges rise inside the guard")
}

fn draw(seed: &mut u32) -> u32 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    *seed
}

/// The sum of twelve uniform numbers: near a normal one, with the variance 1.
fn normal(seed: &mut u32) -> f32 {
    (0..12).map(|_| draw(seed) as f32 / u32::MAX as f32 - 0.5).sum()
}

#[inline(always)]
fn hundred_nops() {
    macro_rules! ten {
        ($($nop:expr;)*) => { $( $nop; $nop; $nop; $nop; $nop; $nop; $nop; $nop; $nop; $nop; )* };
    }
    ten! {
        asm::nop(); asm::nop(); asm::nop(); asm::nop(); asm::nop();
        asm::nop(); asm::nop(); asm::nop(); asm::nop(); asm::nop();
    }
}

#[inline(never)]
fn per_value<T>(values: &[T], mut count: impl FnMut(&T)) -> u32 {
    ticks(|| (0..ROUNDS).for_each(|_| black_box(values).iter().for_each(&mut count)))
}

fn ticks(work: impl FnOnce()) -> u32 {
    // The timer counts down, and wraps around once at most: even at 25 MHz it takes 0.67 s to come round,
    // and the longest measurement takes 7 million instructions, which are 7 ms.
    let begin = SYST::get_current();
    work();
    begin.wrapping_sub(SYST::get_current()) & TICKS_MAX
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    hprintln!("{}", info);
    debug::exit(debug::EXIT_FAILURE);
    loop {
        asm::nop();
    }
}
