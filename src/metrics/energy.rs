//! Energy that a node has used, from the counters that the system shows. One rank of each node reads them.
//!
//! ```text
//! 1. /sys/cray/pm_counters/energy                        joules of the node
//! 2. /sys/class/hwmon/*/device/power1_average            microwatts of a module (GH200: power1_oem_info names it), times the time
//! 3. /sys/class/powercap/intel-rapl:*/energy_uj          microjoules of a package, and of its memory where that is a zone
//!                                                        of its own; begins again at max_energy_range_uj
//! ```
//! The first kind that can be read counts, since each holds those after it. RAPL's files are often root's alone.
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A node's counters, and where they stood.
pub struct Counters {
    all: Vec<Counter>,
    last: Instant,
}

/// How much of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covers {
    Nothing,
    /// And their memory.
    Processors,
    Node,
}

struct Counter {
    file: PathBuf,
    unit: Unit,
    last: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Joules,
    /// And the value at which it begins again.
    Microjoules(f64),
    Microwatts,
}

impl Counters {
    /// Those of the system whose files lie under `root` (`/`), the first kind that can be read; maybe none.
    pub fn open(root: &Path) -> Counters {
        let kinds = [cray(root), modules(root), rapl(root)];
        let read = |found: Vec<(PathBuf, Unit)>| -> Vec<Counter> {
            found.into_iter().filter_map(|(file, unit)| Some(Counter { last: number(&file)?, file, unit })).collect()
        };
        let all = kinds.into_iter().map(read).find(|counters| !counters.is_empty()).unwrap_or_default();
        Counters { all, last: Instant::now() }
    }

    /// What they are of.
    pub fn covers(&self) -> Covers {
        match self.all.first().map(|counter| counter.unit) {
            None => Covers::Nothing,
            Some(Unit::Microjoules(_)) => Covers::Processors,
            Some(Unit::Joules | Unit::Microwatts) => Covers::Node,
        }
    }

    /// Joules since the last call, or since the start; `None` where there is no counter, or one can no longer be read.
    pub fn lap(&mut self) -> Option<f64> {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        self.lap_of(seconds)
    }

    fn lap_of(&mut self, seconds: f64) -> Option<f64> {
        let mut joules = 0.0;
        for counter in &mut self.all {
            let now = number(&counter.file)?;
            let before = std::mem::replace(&mut counter.last, now);
            joules += match counter.unit {
                Unit::Joules => now - before,
                Unit::Microjoules(range) if now < before => 1e-6 * (now + range - before),
                Unit::Microjoules(_) => 1e-6 * (now - before),
                Unit::Microwatts => 1e-6 * (before + now) / 2.0 * seconds,
            };
        }
        (!self.all.is_empty()).then_some(joules)
    }
}

/// The first word, which may be followed by a unit.
fn number(file: &Path) -> Option<f64> {
    std::fs::read_to_string(file).ok()?.split_whitespace().next()?.parse().ok()
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

fn cray(root: &Path) -> Vec<(PathBuf, Unit)> {
    vec![(root.join("sys/cray/pm_counters/energy"), Unit::Joules)]
}

fn modules(root: &Path) -> Vec<(PathBuf, Unit)> {
    let devices = names(&root.join("sys/class/hwmon")).into_iter().map(|hwmon| hwmon.join("device"));
    let whole = |device: &PathBuf| {
        let name = std::fs::read_to_string(device.join("power1_oem_info")).unwrap_or_default();
        name.starts_with("Module Power")
    };
    devices.filter(whole).map(|device| (device.join("power1_average"), Unit::Microwatts)).collect()
}

fn rapl(root: &Path) -> Vec<(PathBuf, Unit)> {
    let counts = |zone: &PathBuf| {
        let name = zone.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        let is = std::fs::read_to_string(zone.join("name")).unwrap_or_default();
        // intel-rapl:0 is a package, intel-rapl:0:1 a part: all but the memory are counted in the package
        match name.strip_prefix("intel-rapl:").map(|rest| rest.contains(':')) {
            Some(false) => is.trim().starts_with("package"),
            Some(true) => is.trim() == "dram",
            None => false,
        }
    };
    let zones = names(&root.join("sys/class/powercap")).into_iter().filter(counts);
    zones
        .filter_map(|zone| Some((zone.join("energy_uj"), Unit::Microjoules(number(&zone.join("max_energy_range_uj"))?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files, removed when dropped.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Tree {
            Tree(std::env::temp_dir().join(format!("energy-{name}-{}", std::process::id())))
        }
        fn write(&self, path: &str, text: &str) {
            let file = self.0.join("sys").join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        fn zone(&self, zone: &str, name: &str, energy: u64) {
            self.write(&format!("class/powercap/{zone}/name"), name);
            self.write(&format!("class/powercap/{zone}/max_energy_range_uj"), "1000000\n");
            self.energy(zone, energy);
        }
        fn energy(&self, zone: &str, energy: u64) {
            self.write(&format!("class/powercap/{zone}/energy_uj"), &format!("{energy}\n"));
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn packages_and_their_memory_add_up_over_the_end_of_a_counter() {
        let tree = Tree::new("rapl");
        assert!(Counters::open(&tree.0).covers() == Covers::Nothing && Counters::open(&tree.0).lap().is_none());
        tree.zone("intel-rapl:0", "package-0\n", 900_000);
        tree.zone("intel-rapl:0:0", "core\n", 0);
        tree.zone("intel-rapl:0:1", "dram\n", 10);
        tree.zone("intel-rapl:1", "psys\n", 0);
        let mut counters = Counters::open(&tree.0);
        assert_eq!(counters.covers(), Covers::Processors);
        tree.energy("intel-rapl:0", 950_000);
        tree.energy("intel-rapl:0:1", 20_010);
        tree.energy("intel-rapl:0:0", 500_000);
        tree.energy("intel-rapl:1", 500_000);
        assert!((counters.lap().unwrap() - 0.07).abs() < 1e-12);
        tree.energy("intel-rapl:0", 30_000); // 50,000 to the end, and on
        assert!((counters.lap().unwrap() - 0.08).abs() < 1e-12);
        assert_eq!(counters.lap(), Some(0.0));
        std::fs::remove_file(tree.0.join("sys/class/powercap/intel-rapl:0/energy_uj")).unwrap();
        assert_eq!(counters.lap(), None);
    }

    #[test]
    fn a_module_tells_its_power_and_a_node_its_energy() {
        let tree = Tree::new("others");
        tree.zone("intel-rapl:0", "package-0", 0);
        tree.write("class/hwmon/hwmon1/device/power1_oem_info", "Module Power Socket 0\n");
        tree.write("class/hwmon/hwmon1/device/power1_average", "200000000\n");
        tree.write("class/hwmon/hwmon2/device/power1_oem_info", "CPU Power Socket 0\n");
        tree.write("class/hwmon/hwmon2/device/power1_average", "90000000\n");
        let mut counters = Counters::open(&tree.0);
        assert_eq!(counters.covers(), Covers::Node);
        tree.write("class/hwmon/hwmon1/device/power1_average", "400000000\n");
        assert_eq!(counters.lap_of(2.0), Some(600.0));
        tree.write("cray/pm_counters/energy", "1000 J 1700000000 us\n");
        let mut counters = Counters::open(&tree.0);
        tree.write("cray/pm_counters/energy", "1250 J 1700000001 us\n");
        assert_eq!(counters.lap(), Some(250.0));
    }
}
