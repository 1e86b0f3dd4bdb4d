//! How much memory this process really has: RssAnon + RssShmem of `/proc/self/status`, looked at by a thread that mostly
//! sleeps. Files that are mapped (the corpus) are not in it: the system takes those back when it wants. Neither is the memory of
//! the other ranks of the node, which the system counts among ours once we have read it.
use super::units;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Measured: one look takes some 20 µs, so that one every 50 ms costs 0.04 % of a core.
const EVERY: Duration = Duration::from_millis(50);

/// Watches the process until it is dropped.
pub struct Sampler {
    peak: Arc<AtomicU64>,
    views: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// `views`: bytes of others' memory that this process has read.
    pub fn start(views: Arc<AtomicU64>) -> Sampler {
        let (peak, stop) = (Arc::new(AtomicU64::new(own(&views))), Arc::new(AtomicBool::new(false)));
        let (peak_there, views_there, stop_there) = (peak.clone(), views.clone(), stop.clone());
        let watch = move || {
            while !stop_there.load(Ordering::Relaxed) {
                peak_there.fetch_max(own(&views_there), Ordering::Relaxed);
                std::thread::park_timeout(EVERY);
            }
        };
        // Without a thread the peak is that of the moments when someone asks.
        let thread = std::thread::Builder::new().name("memory".into()).stack_size(64 << 10).spawn(watch).ok();
        Sampler { peak, views, stop, thread }
    }

    /// The highest seen so far, in bytes; looks once more itself.
    pub fn peak(&self) -> u64 {
        let now = own(&self.views);
        self.peak.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Bytes at this moment; 0 where the system does not tell.
pub fn current() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| resident(&status))
}

/// Bytes at this moment that are not others'. Asked for last: what is about to be read counts as seen already, and too little at
/// one moment spoils no peak.
fn own(views: &AtomicU64) -> u64 {
    let all = current();
    all.saturating_sub(views.load(Ordering::Relaxed))
}

fn resident(status: &str) -> u64 {
    let kib = |line: &str| line.split_ascii_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    status.lines().filter(|l| l.starts_with("RssAnon:") || l.starts_with("RssShmem:")).filter_map(kib).sum::<u64>() * 1024
}

/// The plan's rows (kind, bytes per rank), their sum, and the measured peak beside it, with what was measured.
///
/// ```text
/// memory per rank            bytes
///   parameters         497,759,232   475 MiB
///   …
///   planned            …
///   measured peak      …             1.3 % above the plan
/// ```
pub fn table(rows: &[(&str, u64)], measured: Option<(u64, &str)>) -> String {
    let planned: u64 = rows.iter().map(|(_, bytes)| bytes).sum();
    let line = |name: &str, bytes: u64, note: &str| {
        format!("  {name:<16} {:>20} {:>10}{note}\n", units::thousands(bytes), units::bytes(bytes))
    };
    let mut out = format!("{:<18} {:>20}\n", "memory per rank", "bytes");
    rows.iter().for_each(|(name, bytes)| out += &line(name, *bytes, ""));
    out += &line("planned", planned, "");
    if let Some((peak, of)) = measured {
        let off = 100.0 * (peak as f64 / planned as f64 - 1.0);
        let side = if off < 0.0 { "below" } else { "above" };
        out += &line("measured peak", peak, &format!("  {:.1} % {side} the plan (rank 0: {of})", off.abs()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_anonymous_and_shared_memory_only() {
        let status = "VmRSS:\t  900 kB\nRssAnon:\t     100 kB\nRssFile:\t     700 kB\nRssShmem:\t      20 kB\n";
        assert_eq!(resident(status), 120 * 1024);
    }

    #[test]
    fn the_peak_remembers_what_is_gone() {
        let sampler = Sampler::start(Arc::default());
        let before = sampler.peak();
        let block = vec![1u8; 64 << 20];
        while sampler.peak.load(Ordering::Relaxed) < before + (60 << 20) {
            std::thread::sleep(Duration::from_millis(5)); // the thread must see it by itself
        }
        drop(std::hint::black_box(block));
        assert!(sampler.peak() >= before + (60 << 20));
    }

    #[test]
    fn the_table_adds_up() {
        let text = table(&[("parameters", 1000), ("gradients", 3000)], Some((4100, "RssAnon + RssShmem")));
        assert!(text.contains("planned                         4,000"), "{text}");
        assert!(text.contains("2.5 % above the plan"), "{text}");
    }
}
