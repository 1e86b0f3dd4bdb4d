//! Memory that a node still has for its ranks.
//!
//! ```text
//! MemAvailable of /proc/meminfo, or less where the control group of the process, or one above it, has a limit:
//! limit − (used − files in cache, which give way)
//!
//!             limit                    used                     files in cache, of memory.stat
//! version 2   memory.max               memory.current           active_file, inactive_file
//! version 1   memory.limit_in_bytes    memory.usage_in_bytes    total_active_file, total_inactive_file
//! ```
use std::path::Path;

/// Of both versions: what stands before the group's path in /proc/self/cgroup, where the groups' folders lie, and the files' names.
const VERSIONS: [(&str, &str, &str, &str, [&str; 2]); 2] = [
    ("0::", "sys/fs/cgroup", "memory.max", "memory.current", ["active_file ", "inactive_file "]),
    (
        ":memory:",
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ["total_active_file ", "total_inactive_file "],
    ),
];

/// Bytes; `None` where the system does not tell.
pub fn available() -> Option<u64> {
    available_in(Path::new("/"))
}

/// The same, of the system whose files lie under `root`.
pub fn available_in(root: &Path) -> Option<u64> {
    let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let meminfo = text("proc/meminfo");
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let mut least = 1024 * line.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
    let groups = text("proc/self/cgroup");
    for (line, root, limit, used, cached) in VERSIONS {
        let mine = groups.lines().find_map(|group| group.split_once(line)).map_or("", |(_, path)| path.trim());
        for group in Path::new(mine).ancestors() {
            let file = |name: &str| text(&format!("{root}{}/{name}", group.display()));
            let [limit, used] = [limit, used].map(|name| file(name).trim().parse::<u64>().ok());
            if let (Some(limit), Some(used)) = (limit, used) {
                let stat = file("memory.stat");
                let part = |name: &&str| stat.lines().find_map(|l| l.strip_prefix(*name)?.trim().parse::<u64>().ok());
                let cached: u64 = cached.iter().filter_map(part).sum();
                least = least.min(limit.saturating_sub(used.saturating_sub(cached)));
            }
        }
    }
    Some(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_the_system_and_the_groups() {
        let root = std::env::temp_dir().join(format!("memory-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), text).unwrap();
        };
        assert_eq!(available_in(&root), None);
        write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    8000 kB\n");
        assert_eq!(available_in(&root), Some(8000 * 1024));
        write("proc/self/cgroup", "0::/job/step\n");
        write("sys/fs/cgroup/job/step/memory.max", "max\n");
        write("sys/fs/cgroup/job/step/memory.current", "5\n");
        write("sys/fs/cgroup/job/memory.max", "1000\n");
        write("sys/fs/cgroup/job/memory.current", "400\n");
        assert_eq!(available_in(&root), Some(600));
        write("sys/fs/cgroup/job/memory.stat", "anon 90\nfile 310\nactive_file 100\ninactive_file 200\n");
        assert_eq!(available_in(&root), Some(900));
        // Version 1, with both mounted as on a system between the two.
        write("proc/self/cgroup", "9:cpu,cpuacct:/x\n4:memory:/slurm/job_7/step_0\n0::/job/step\n");
        write("sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", "700\n");
        write("sys/fs/cgroup/memory/slurm/job_7/memory.usage_in_bytes", "300\n");
        assert_eq!(available_in(&root), Some(400));
        write("sys/fs/cgroup/memory/slurm/job_7/memory.stat", "cache 99\ntotal_inactive_file 50\ntotal_active_file 30\n");
        assert_eq!(available_in(&root), Some(480));
        std::fs::remove_dir_all(&root).unwrap();
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
