//! What `/sys` says of where things sit in this machine: the NUMA nodes with their cores, which of these are one core's hardware threads, and the
//! node of a GPU or of a network card.
//!
//! | what | where |
//! |---|---|
//! | cores of a node | `devices/system/node/node3/cpulist` |
//! | hardware threads of a core | `devices/system/cpu/cpu3/topology/thread_siblings_list` |
//! | node of a GPU | `bus/pci/devices/0000:1b:00.0/numa_node`; −1: nobody knows |
//! | network cards | `class/infiniband`, else `class/cxi`, else those of `class/net` that are hardware |
use super::cores;
use std::path::{Path, PathBuf};

/// A machine, by the root of what describes it.
pub struct Machine {
    sys: PathBuf,
}

/// Some of a machine's cores, which share a memory controller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain {
    pub number: usize,
    pub cores: Vec<usize>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    pub name: String,
    /// Its NUMA node, where the system knows.
    pub numa: Option<usize>,
}

impl Machine {
    pub fn here() -> Machine {
        Machine::at(Path::new("/sys"))
    }
    pub fn at(sys: &Path) -> Machine {
        Machine { sys: sys.to_path_buf() }
    }

    /// The NUMA nodes that have cores, ascending. None where the system does not tell.
    pub fn domains(&self) -> Vec<Domain> {
        let domain = |name: &String| {
            let number = name.strip_prefix("node")?.parse().ok()?;
            let cores = cores::parse(&self.read(&format!("devices/system/node/{name}/cpulist"))?);
            Some(Domain { number, cores }).filter(|domain| !domain.cores.is_empty())
        };
        let mut all: Vec<Domain> = self.names("devices/system/node").iter().filter_map(domain).collect();
        all.sort();
        all
    }

    /// These cores as threads take them: of each physical core one hardware thread, then the others; and how many physical cores they are. Where
    /// the system does not tell, each is one.
    pub fn whole_first(&self, cores: &[usize]) -> (Vec<usize>, usize) {
        let first = |core: &usize| {
            let list = self.read(&format!("devices/system/cpu/cpu{core}/topology/thread_siblings_list")).unwrap_or_default();
            cores::parse(&list).iter().all(|other| other >= core || !cores.contains(other))
        };
        let (mut order, rest): (Vec<usize>, Vec<usize>) = cores.iter().partition(|core| first(core));
        let whole = order.len();
        order.extend(rest);
        (order, whole)
    }

    /// The NUMA node of a PCI device, by its bus id as a driver writes it.
    pub fn numa_of(&self, bus: &str) -> Option<usize> {
        let (domain, rest) = bus.split_once(':')?;
        // A driver may write eight digits and capitals, the system four and small letters.
        let domain = u32::from_str_radix(domain, 16).ok()?;
        self.number(&format!("bus/pci/devices/{domain:04x}:{}/numa_node", rest.to_lowercase()))
    }

    /// The cards that carry messages: InfiniBand's and Slingshot's before all others, without those that are down.
    pub fn nics(&self) -> Vec<Nic> {
        let up = |class: &str, name: &str| match class {
            "infiniband" => self.read(&format!("class/{class}/{name}/ports/1/state")).is_none_or(|s| s.contains("ACTIVE")),
            "net" => self.read(&format!("class/{class}/{name}/operstate")).is_none_or(|s| s != "down"),
            _ => true,
        };
        let of = |class: &str| -> Vec<Nic> {
            let is_hardware = |name: &String| self.sys.join(format!("class/{class}/{name}/device")).exists();
            let mut names: Vec<String> =
                self.names(&format!("class/{class}")).into_iter().filter(is_hardware).filter(|name| up(class, name)).collect();
            names.sort_by_key(|name| (name.len(), name.clone())); // mlx5_2 before mlx5_10
            let nic = |name: String| {
                let numa = self.number(&format!("class/{class}/{name}/device/numa_node"));
                Nic { name, numa }
            };
            names.into_iter().map(nic).collect()
        };
        ["infiniband", "cxi", "net"].iter().map(|class| of(class)).find(|nics| !nics.is_empty()).unwrap_or_default()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.sys.join(folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
    fn read(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.sys.join(file)).ok().map(|text| text.trim().to_owned())
    }
    /// −1, which is no `usize`, is what the system writes where it does not know.
    fn number(&self, file: &str) -> Option<usize> {
        self.read(file)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with these files. Removed when dropped.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Tree {
            let root = std::env::temp_dir().join(format!("llm-train-sys-{name}-{}", std::process::id()));
            for (file, text) in files {
                let path = root.join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, format!("{text}\n")).unwrap();
            }
            Tree(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn domains_are_those_with_cores() {
        let nodes = [("node10", "8-11"), ("node1", "4-7"), ("node0", "0-3"), ("node4", "")]; // node4: a GPU's own memory
        let files: Vec<(String, &str)> =
            nodes.iter().map(|(node, list)| (format!("devices/system/node/{node}/cpulist"), *list)).collect();
        let mut files: Vec<(&str, &str)> = files.iter().map(|(file, list)| (file.as_str(), *list)).collect();
        files.push(("devices/system/node/online", "0-1"));
        let tree = Tree::new("domains", &files);
        let found = Machine::at(&tree.0).domains();
        let expected = [(0, 0..4), (1, 4..8), (10, 8..12)].map(|(number, cores)| Domain { number, cores: cores.collect() });
        assert_eq!(found, expected);
        assert!(Machine::at(Path::new("/nowhere")).domains().is_empty());
    }

    #[test]
    fn a_core_counts_once_whatever_its_hardware_threads() {
        let lists: Vec<(String, String)> = (0..8)
            .map(|cpu| {
                (format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), format!("{},{}", cpu % 4, cpu % 4 + 4))
            })
            .collect();
        let files: Vec<(&str, &str)> = lists.iter().map(|(file, list)| (file.as_str(), list.as_str())).collect();
        let tree = Tree::new("siblings", &files);
        let machine = Machine::at(&tree.0);
        assert_eq!(machine.whole_first(&[0, 1, 4, 5]), (vec![0, 1, 4, 5], 2));
        assert_eq!(machine.whole_first(&[0, 4, 5, 6]), (vec![0, 5, 6, 4], 3), "5 and 6 are all that is given of their cores");
        assert_eq!(machine.whole_first(&[3, 8]), (vec![3, 8], 2), "of 8 nothing is known");
    }

    #[test]
    fn a_gpu_is_found_however_its_bus_id_is_written() {
        let tree = Tree::new(
            "gpus",
            &[("bus/pci/devices/0000:1b:00.0/numa_node", "3"), ("bus/pci/devices/0009:01:00.0/numa_node", "-1")],
        );
        let machine = Machine::at(&tree.0);
        assert_eq!(machine.numa_of("0000:1B:00.0"), Some(3));
        assert_eq!(machine.numa_of("00000000:1b:00.0"), Some(3));
        assert_eq!(machine.numa_of("0009:01:00.0"), None, "the system does not know");
        assert_eq!([machine.numa_of("0000:2b:00.0"), machine.numa_of("GPU 0")], [None, None]);
    }

    #[test]
    fn cards_are_those_that_carry_messages() {
        let tree = Tree::new(
            "nics",
            &[
                ("class/infiniband/mlx5_10/device/numa_node", "1"),
                ("class/infiniband/mlx5_2/device/numa_node", "0"),
                ("class/infiniband/mlx5_2/ports/1/state", "4: ACTIVE"),
                ("class/infiniband/mlx5_3/device/numa_node", "0"),
                ("class/infiniband/mlx5_3/ports/1/state", "1: DOWN"),
                ("class/net/eth0/device/numa_node", "0"),
            ],
        );
        let nic = |name: &str, numa| Nic { name: name.into(), numa };
        assert_eq!(Machine::at(&tree.0).nics(), [nic("mlx5_2", Some(0)), nic("mlx5_10", Some(1))]);
        let tree = Tree::new("ether", &[("class/net/eth0/device/x", ""), ("class/net/lo/mtu", "1"), ("class/cxi/x", "")]);
        assert_eq!(Machine::at(&tree.0).nics(), [nic("eth0", None)], "lo is no hardware");
    }
}
