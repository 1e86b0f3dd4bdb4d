//! The cores that this process may really use: the affinity mask that the launcher set.

use super::machine::Machine;

/// Cores in the affinity mask, ascending; hardware threads each count as one.
pub fn affinity() -> Vec<usize> {
    let cores = mask("self");
    if cores.is_empty() { (0..available()).collect() } else { cores }
}

/// How many physical cores a process alone on its mask may use.
pub fn usable_cores() -> usize {
    Machine::here().whole_first(&affinity()).1.min(available()).max(1)
}

/// Cores that the control group's limit of processor time leaves to all of its processes; no limit: as many as you like.
pub fn room() -> usize {
    if available() < affinity().len() { available() } else { usize::MAX }
}

/// Cores that the launcher may use here: what a rank could use had it not been bound. That is the mask of our parent
/// process (mpirun, or its daemon); of a Slurm step's parent the mask is the whole machine, so Slurm's word for the cores
/// of the job counts as well.
pub fn open() -> usize {
    let parent = mask(&std::os::unix::process::parent_id().to_string()).len();
    super::slurm::cpus_on_node().unwrap_or(usize::MAX).min(parent)
}

/// The processor as it calls itself, with family and model, which tell apart what shares a name: `AMD EPYC, family 25,
/// model 1`.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_string())
    };
    let name = value("model name").unwrap_or_else(|| std::env::consts::ARCH.to_string());
    match value("cpu family").zip(value("model")) {
        Some((family, model)) => format!("{name}, family {family}, model {model}"),
        None => name,
    }
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn mask(process: &str) -> Vec<usize> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let list = text.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    list.map(|l| parse(l.trim())).unwrap_or_default()
}

/// `0-3,8` from `[0, 1, 2, 3, 8]`.
pub fn list(cores: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = vec![];
    for &core in cores {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let part = |(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

/// The other way; what is no number is passed over.
pub fn parse(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let number = |t: &str| t.trim().parse::<usize>().ok();
        number(a).zip(number(b)).map(|(a, b)| a..=b.min(a + (1 << 16)))
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_and_read() {
        for cores in [vec![], vec![0], vec![0, 1, 2, 3], vec![1, 3, 4, 5, 9], vec![7, 8]] {
            assert_eq!(parse(&list(&cores)), cores);
        }
        assert_eq!(list(&[0, 1, 2, 8]), "0-2,8");
        assert_eq!(parse("x,3"), vec![3]);
    }

    #[test]
    fn this_process_may_use_some_core() {
        assert!(usable_cores() >= 1);
    }
}
