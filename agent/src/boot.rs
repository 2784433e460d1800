//! The number of this run, which never goes back, whatever the power does; and how the last run ended.

use selvedge_wire::{Boot, Stream};

use crate::{
    disk::{Disk, DiskError, replace},
    spool::boot_of_segment,
    updates::PreviousRun,
};

const BOOT_FILE: &str = "boot";

/// An empty file that is there while the agent runs, and after a run that did not end in order.
const RUNNING_FILE: &str = "running";

/// A file whose room is given up when a full disk would keep the agent from starting.
const RESERVE_FILE: &str = "reserve";
const RESERVE_BYTES: usize = 64 * 1024;

/// The most numbers that are skipped at once.
const BOOTS_SKIPPED_MAX: u32 = 1 << 20;

/// Begins a run: gives its number once that is durable.
///
/// # Errors
/// [`DiskError`] if the number could not be recorded.
pub fn next_boot(disk: &dyn Disk) -> Result<Boot, DiskError> {
    let recorded = disk.read(BOOT_FILE)?.and_then(|bytes| parse(&bytes));
    let last = match recorded {
        Some(last) => last,
        // The record is gone or damaged; what is in the spool still tells.
        None => newest_in_spool(disk)?,
    };
    let boot = Boot(last.saturating_add(1));
    record(disk, boot)?;
    Ok(boot)
}

/// Makes the next run come after `newest`, which the fleet knows although this device does not.
///
/// # Errors
/// [`DiskError`] if that could not be recorded.
pub(crate) fn skip_to(disk: &dyn Disk, now: Boot, newest: Boot) -> Result<(), DiskError> {
    // Whoever claims more than a device can have lived through must not use the numbers up.
    record(disk, Boot(newest.0.min(now.0.saturating_add(BOOTS_SKIPPED_MAX)).max(now.0)))
}

/// Notes that a run is under way, and tells how the last one ended. Nothing tells a power cut from a crash.
///
/// # Errors
/// [`DiskError`] if that is not durable: then this run would pass for one that ended in order.
pub fn begin_run(disk: &dyn Disk) -> Result<PreviousRun, DiskError> {
    if disk.read(RUNNING_FILE)?.is_some() {
        return Ok(PreviousRun { ended_cleanly: false });
    }
    disk.write(RUNNING_FILE, &[])?;
    disk.sync_dir("")?;
    Ok(PreviousRun { ended_cleanly: true })
}

/// Notes that the run has ended in order.
///
/// # Errors
/// [`DiskError`] if that is not durable.
pub fn end_run(disk: &dyn Disk) -> Result<(), DiskError> {
    disk.remove(RUNNING_FILE)?;
    disk.sync_dir("")
}

fn parse(bytes: &[u8]) -> Option<u32> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

fn newest_in_spool(disk: &dyn Disk) -> Result<u32, DiskError> {
    let mut newest = 0;
    for stream in Stream::ALL {
        let names = disk.list(&format!("spool/{}", stream.as_str()))?;
        let boots = names.iter().filter_map(|name| boot_of_segment(name));
        newest = boots.map(|boot| boot.0).fold(newest, u32::max);
    }
    Ok(newest)
}

fn record(disk: &dyn Disk, boot: Boot) -> Result<(), DiskError> {
    let text = format!("{}\n", boot.0);
    match replace(disk, BOOT_FILE, text.as_bytes()) {
        Err(error) if error.is_full() => {
            disk.remove(RESERVE_FILE)?;
            replace(disk, BOOT_FILE, text.as_bytes())
        }
        recorded => {
            recorded?;
            keep_reserve(disk);
            Ok(())
        }
    }
}

fn keep_reserve(disk: &dyn Disk) {
    let present = disk.list("").is_ok_and(|names| names.iter().any(|name| name == RESERVE_FILE));
    // Without room for it there is nothing to reserve.
    if !present && disk.write(RESERVE_FILE, &[0; RESERVE_BYTES]).is_err() {
        let _ = disk.remove(RESERVE_FILE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::SimulatedDisk;

    fn boot(disk: &SimulatedDisk) -> u32 {
        next_boot(disk).expect("the disk works").0
    }

    #[test]
    fn each_run_has_a_higher_number() {
        let disk = SimulatedDisk::new();
        assert_eq!([boot(&disk), boot(&disk), boot(&disk)], [1, 2, 3]);
    }

    #[test]
    fn a_number_that_was_given_is_never_given_again_wherever_the_power_fails() {
        for cut in 0..8 {
            let disk = SimulatedDisk::new();
            let mut given = vec![boot(&disk)];
            for survives in 0..4 {
                disk.cut_after(cut);
                given.extend(next_boot(&disk).ok().map(|boot| boot.0));
                disk.power_cycle(|sides| survives % sides);
            }
            given.push(boot(&disk));
            assert!(given.is_sorted_by(|a, b| a < b), "cut after {cut}: {given:?}");
        }
    }

    #[test]
    fn a_device_that_lost_its_state_skips_the_numbers_that_the_fleet_knows() {
        let disk = SimulatedDisk::new();
        let now = Boot(boot(&disk));
        skip_to(&disk, now, Boot(700)).expect("the disk works");
        assert_eq!(boot(&disk), 701);
        skip_to(&disk, Boot(701), Boot(u32::MAX)).expect("the disk works");
        assert_eq!(boot(&disk), 702 + BOOTS_SKIPPED_MAX);
        skip_to(&disk, Boot(boot(&disk)), Boot(1)).expect("the disk works");
        assert_eq!(boot(&disk), 704 + BOOTS_SKIPPED_MAX, "it never goes back");
    }

    #[test]
    fn a_lost_record_is_made_up_from_the_spool() {
        let disk = SimulatedDisk::new();
        disk.write("boot", b"\0\0").expect("the disk works");
        disk.write("spool/events/0000000041-00000000000000000001.log", b"").expect("it works");
        assert_eq!(boot(&disk), 42);
    }

    fn begin(disk: &SimulatedDisk) -> bool {
        begin_run(disk).expect("the disk works").ended_cleanly
    }

    #[test]
    fn a_run_that_was_not_ended_is_told_whatever_the_power_does() {
        for survives in 0..4 {
            let disk = SimulatedDisk::new();
            assert!(begin(&disk), "there was no run before");
            disk.power_cycle(|sides| survives % sides);
            assert!(!begin(&disk));
            assert!(!begin(&disk), "until a run is ended");
            end_run(&disk).expect("the disk works");
            disk.power_cycle(|sides| survives % sides);
            assert!(begin(&disk));
        }
    }

    #[test]
    fn the_mark_of_a_run_fits_a_full_disk() {
        let disk = SimulatedDisk::new();
        disk.set_capacity(Some(0));
        assert!(begin(&disk) && !begin(&disk));
    }

    #[test]
    fn a_full_disk_does_not_keep_the_agent_from_starting() {
        let disk = SimulatedDisk::new();
        boot(&disk);
        let used: usize = disk.files().values().map(Vec::len).sum();
        disk.set_capacity(Some(used as u64));
        assert_eq!(boot(&disk), 2);
    }
}
