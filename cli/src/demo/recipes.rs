//! What the demo's devices run: the model recipes of a clone of the repository.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// A model recipe, and how fast its replay data comes in.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The folder's name in `models/`, which is also the bundle's name.
    pub name: &'static str,
    /// The held-out samples, relative to the recipe's folder.
    pub replay: &'static str,
    /// Samples per second and device.
    pub rate_hz: u32,
}

/// The sensor readings.
pub const SHUTTLE: Recipe = Recipe { name: "shuttle", replay: "data/replay.csv", rate_hz: 50 };
/// The utility meters.
pub const METER_DIGITS: Recipe =
    Recipe { name: "meter-digits", replay: "data/replay.npy", rate_hz: 20 };

/// The versions of a recipe that the demo deploys, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// What the devices start with.
    First,
    /// What goes out while they work.
    Second,
}

impl Version {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// The version's folder in that of the recipe.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::First => "v1",
            Self::Second => "v2",
        }
    }

    /// The version as the story calls it.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::First => "version 1",
            Self::Second => "version 2",
        }
    }
}

/// A device of the demo.
#[derive(Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub id: String,
    /// What it runs.
    pub recipe: &'static Recipe,
}

/// `count` devices: of every five, three watch sensors and two read meters.
pub fn devices(count: u16) -> Vec<Device> {
    let sensors = (3 * count + 2) / 5;
    let line = (1..=sensors).map(|n| Device { id: format!("line-{n}"), recipe: &SHUTTLE });
    let meter =
        (1..=count - sensors).map(|n| Device { id: format!("meter-{n}"), recipe: &METER_DIGITS });
    line.chain(meter).collect()
}

/// The folder of recipes: the one that was named, else that of the clone this binary was built in.
pub fn find_models(named: Option<&Path>) -> Result<PathBuf> {
    let of_the_clone = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let folder = named.map_or_else(of_the_clone, Path::to_path_buf);
    for recipe in [&SHUTTLE, &METER_DIGITS] {
        let manifest = folder.join(recipe.name).join(Version::First.folder()).join("manifest.toml");
        if !manifest.is_file() {
            bail!(
                "there is no {}: this needs the folder models/ of a clone of the repository; \
                 name it with --models DIR",
                manifest.display()
            );
        }
    }
    Ok(folder.canonicalize()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_devices_are_three_sensors_and_two_meters() {
        let ids: Vec<_> = devices(5).into_iter().map(|device| device.id).collect();
        assert_eq!(ids, ["line-1", "line-2", "line-3", "meter-1", "meter-2"]);
    }

    #[test]
    fn every_count_of_devices_is_met() {
        for count in 1..=40 {
            assert_eq!(devices(count).len(), usize::from(count));
        }
    }

    #[test]
    fn a_folder_without_recipes_is_refused_with_what_to_do() {
        let empty = tempfile::tempdir().expect("a temporary folder can be made");
        let error = find_models(Some(empty.path())).expect_err("the folder is empty").to_string();
        assert!(error.contains("--models DIR"), "{error}");
    }
}
