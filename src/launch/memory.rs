//! Memory that a node still has for its ranks.
//!
//! ```text
//! MemAvailable of /proc/meminfo, or less where the control group of the process, or one above it, has a limit (version 2:
//! memory.max − memory.current, and what files in cache take of the latter: they give way)
//! ```
use std::path::Path;

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
    let mine = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().trim().to_string();
    for group in Path::new(&mine).ancestors() {
        let number = |name: &str| text(&format!("sys/fs/cgroup/{}/{name}", group.display())).trim().parse::<u64>().ok();
        if let (Some(most), Some(used)) = (number("memory.max"), number("memory.current")) {
            let stat = text(&format!("sys/fs/cgroup/{}/memory.stat", group.display()));
            let part = |name: &str| stat.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0);
            let cached = part("active_file ") + part("inactive_file ");
            least = least.min(most.saturating_sub(used.saturating_sub(cached)));
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
        std::fs::remove_dir_all(&root).unwrap();
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
