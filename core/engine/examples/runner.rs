//! The barest runner of a program: what an inference costs, with nothing around it.
//!
//! ```text
//! runner PROGRAM [--seconds 2] [--iterations N] [--kernels NAME] [--seed 0] [--input FILE] [--output FILE] [--profile]
//! ```
//!
//! Prints one JSON line: CPU time per inference in microseconds (10th percentile and median of samples of at least
//! 200 µs), the time from the program's bytes to the first answer, peak resident memory, and sizes. With
//! `--iterations` it runs that often and measures nothing: for counting instructions. Inputs are random unless a file
//! holds them, one port after the other.

use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use selvedge_engine::{Arena, Element, Executable, KernelSet, Limits};

/// The least that one sample lasts.
const SAMPLE_US_MIN: f64 = 200.0;

struct Arguments {
    program: String,
    seconds: f64,
    iterations: Option<u64>,
    kernels: Option<String>,
    seed: u64,
    input: Option<String>,
    output: Option<String>,
    profile: bool,
}

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("runner: {message}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut found = Arguments {
        program: String::new(),
        seconds: 2.0,
        iterations: None,
        kernels: None,
        seed: 0,
        input: None,
        output: None,
        profile: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--seconds" => found.seconds = number(&value()?)?,
            "--iterations" => found.iterations = Some(number(&value()?)?),
            "--kernels" => found.kernels = Some(value()?),
            "--seed" => found.seed = number(&value()?)?,
            "--input" => found.input = Some(value()?),
            "--output" => found.output = Some(value()?),
            "--profile" => found.profile = true,
            _ if found.program.is_empty() && !word.starts_with('-') => found.program = word,
            _ => return Err(format!("{word} is not known here")),
        }
    }
    if found.program.is_empty() { Err("which program?".to_owned()) } else { Ok(found) }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn run(arguments: &Arguments) -> Result<String, String> {
    let kernels = match &arguments.kernels {
        None => KernelSet::best(),
        Some(name) => KernelSet::named(name).ok_or(format!("this CPU has no kernels {name}"))?,
    };
    let started = Instant::now();
    let bytes = aligned_file(&arguments.program)?;
    let executable =
        Executable::prepare(bytes, kernels, &Limits::new()).map_err(|error| error.to_string())?;
    let mut arena = Arena::zeroed(executable.arena_bytes());
    fill_inputs(&executable, &mut arena, arguments)?;
    executable.run(&mut arena).map_err(|error| error.to_string())?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    if let Some(path) = &arguments.output {
        let outputs: Vec<u8> =
            executable.program().outputs().flat_map(|port| arena[port.range()].to_vec()).collect();
        std::fs::write(path, outputs).map_err(|error| format!("cannot write {path}: {error}"))?;
    }
    let mut once = || executable.run(&mut arena).expect("it ran before");
    if let Some(iterations) = arguments.iterations {
        (0..iterations).for_each(|_| once());
        return Ok(format!("{{\"kernels\":\"{}\",\"iterations\":{iterations}}}", kernels.name()));
    }
    let samples = cpu_time_samples_us(&mut once, Duration::from_secs_f64(arguments.seconds));
    let profile = if arguments.profile {
        profile(&executable, &mut arena, arguments.seconds)
    } else {
        String::new()
    };
    Ok(format!(
        "{profile}{{\"kernels\":\"{}\",\"cpu_us_p10\":{:.2},\"cpu_us_median\":{:.2},\"samples\":{},\"load_ms\":{load_ms:.3},\
         \"peak_rss_mb\":{:.2},\"arena_bytes\":{},\"constant_bytes\":{}}}",
        kernels.name(),
        samples[samples.len() / 10],
        samples[samples.len() / 2],
        samples.len(),
        peak_resident_mb(),
        executable.arena_bytes(),
        executable.program().constant_bytes(),
    ))
}

/// The file at an address that whole cache lines begin at.
fn aligned_file(path: &str) -> Result<Arena, String> {
    let failed = |error: std::io::Error| format!("cannot read {path}: {error}");
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let len_bytes = file.metadata().map_err(failed)?.len() as usize;
    let mut bytes = Arena::zeroed(len_bytes);
    file.read_exact(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn fill_inputs<B: AsRef<[u8]>>(
    executable: &Executable<B>,
    arena: &mut Arena,
    arguments: &Arguments,
) -> Result<(), String> {
    let mut given = match &arguments.input {
        Some(path) => {
            std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?
        }
        None => Vec::new(),
    };
    let mut state = arguments.seed.wrapping_mul(2).wrapping_add(1);
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for port in executable.program().inputs() {
        let target = &mut arena[port.range()];
        if arguments.input.is_some() {
            if given.len() < target.len() {
                return Err(format!("the input ends within {}", port.name));
            }
            let rest = given.split_off(target.len());
            target.copy_from_slice(&given);
            given = rest;
        } else if port.element == Element::F32 {
            let values = target.chunks_exact_mut(4);
            values.for_each(|value| {
                value.copy_from_slice(&(f32::from(random()) / 128.0 - 1.0).to_le_bytes())
            });
        } else {
            target.fill_with(&mut random);
        }
    }
    Ok(())
}

fn cpu_time_samples_us(once: &mut impl FnMut(), time: Duration) -> Vec<f64> {
    once();
    let first = cpu_us();
    once();
    let count = (SAMPLE_US_MIN / (cpu_us() - first).max(0.1)).ceil().clamp(1.0, 1000.0);
    let end = Instant::now() + time;
    let mut samples = Vec::new();
    while Instant::now() < end || samples.len() < 10 {
        let before = cpu_us();
        (0..count as usize).for_each(|_| once());
        samples.push((cpu_us() - before) / count);
    }
    samples.sort_by(f64::total_cmp);
    samples
}

/// One line per operation: its share of the time, and what it does.
fn profile<B: AsRef<[u8]>>(executable: &Executable<B>, arena: &mut Arena, seconds: f64) -> String {
    let mut spent: Vec<(Duration, &str, u64)> = executable
        .program()
        .operations()
        .map(|op| (Duration::ZERO, op.name(), op.macs()))
        .collect();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut runs = 0_u32;
    while Instant::now() < end {
        let mut before = Instant::now();
        let after = |index: usize, _: &_| {
            let now = Instant::now();
            spent[index].0 += now - before;
            before = now;
        };
        executable.run_observed(arena, after).expect("it ran before");
        runs += 1;
    }
    let all: Duration = spent.iter().map(|(time, ..)| *time).sum();
    let line = |(index, (time, name, macs)): (usize, &(Duration, &str, u64))| {
        let us = time.as_secs_f64() * 1e6 / f64::from(runs.max(1));
        let share = time.as_secs_f64() / all.as_secs_f64() * 100.0;
        format!(
            "{index:4} {name:13} {us:9.2} us {share:5.1} % {macs:10} MAC {:7.1} MAC/ns\n",
            *macs as f64 / us / 1e3
        )
    };
    spent.iter().enumerate().map(line).collect()
}

/// CPU time of this process: other programs make wall time long.
fn cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn peak_resident_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: f64 =
        line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
    kib / 1024.0
}
