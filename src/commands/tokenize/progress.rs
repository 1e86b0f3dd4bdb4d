//! How far a long command has come: a bar on a terminal, a line of the log now and then elsewhere.
use crate::metrics::terminal;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Between two lines of the log: seldom enough for a file, often enough to see that it lives.
const PAUSE: Duration = Duration::from_secs(10);

pub struct Progress {
    what: &'static str,
    total: u64,
    shown: bool,
    bar: Option<ProgressBar>,
    started: Instant,
    said: Instant,
}

impl Progress {
    /// `total` bytes lie ahead; only where `shown` does it say anything.
    pub fn new(what: &'static str, total: u64, shown: bool) -> Progress {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        let bar = terminal::bar().filter(|_| shown).map(|target| {
            let bar = ProgressBar::with_draw_target(Some(total), target);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
        });
        Progress { what, total, shown, bar, started: Instant::now(), said: Instant::now() }
    }
    /// `done` bytes lie behind.
    pub fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.shown && self.said.elapsed() >= PAUSE {
            self.said = Instant::now();
            let (mb, of) = (done as f64 / 1e6, self.total as f64 / 1e6);
            log::info!("{}: {mb:.0} of {of:.0} MB, {:.1} MB/s", self.what, mb / self.started.elapsed().as_secs_f64());
        }
    }
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
