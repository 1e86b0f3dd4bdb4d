//! One line a step on stdout; on a terminal also a progress bar below it.
//!
//! ```text
//! terminal         120/2000  loss 3.2345  norm 0.983  lr 3.00e-4    812 ms   5,040 tok/s  0.420 TFLOP/s   1.21 GiB  ETA 0:12:33
//! file        step 120/2000 loss 3.234512 grad_norm 0.98312 lr 3.0000e-4 ms 812.4 tokens/s 5040 TFLOP/s 0.420 …
//! ```
//! ETA = the steps left × the mean step time of the last hundred.
use super::units::{bytes, duration, significant, thousands};
use super::{StepRecord, terminal};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Mutex;

/// The bar on the screen, if there is one: whoever writes to the terminal takes it off first.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Steps whose mean time the ETA goes by.
const RECENT: usize = 100;

pub struct Console {
    total: u64,
    every: u64,
    quiet: bool,
    wide: bool,
    peak_tflops: Option<f64>,
    recent: VecDeque<f64>,
    first: bool,
}

impl Console {
    /// For rank 0. A line every `every` steps, and for the first and the last; none, and no bar, if `quiet`. MFU is
    /// shown where the device's peak is known.
    pub fn new(from: u64, total: u64, every: u64, quiet: bool, peak_tflops: Option<f64>) -> Console {
        if let Some(target) = terminal::bar().filter(|_| !quiet) {
            let bar = ProgressBar::with_draw_target(Some(total), target);
            let style = ProgressStyle::with_template(
                // Within 80 columns, which is also what a launcher's pseudo-terminal is taken for.
                "{bar:20.cyan/blue} {percent:>3} %  step {pos} of {len}  {elapsed} gone  {msg}",
            );
            bar.set_style(style.expect("a valid template").progress_chars("━╸─"));
            bar.set_position(from);
            *lock() = Some(bar);
        }
        let (wide, every) = (terminal::stdout_is_watched(), every.max(1));
        Console { total, every, quiet, wide, peak_tflops, recent: VecDeque::new(), first: true }
    }

    /// A step is complete.
    pub fn step(&mut self, record: &StepRecord) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(record.step_time);
        let eta = self.recent.iter().sum::<f64>() / self.recent.len() as f64 * self.total.saturating_sub(record.step) as f64;
        if let Some(bar) = &*lock() {
            bar.set_message(format!("ETA {}", duration(eta)));
            bar.set_position(record.step);
        }
        if self.first || record.step.is_multiple_of(self.every) || record.step == self.total {
            self.first = false;
            let line = if self.wide { wide } else { plain };
            self.say(&line(record, self.total, self.peak_tflops, eta));
        }
    }

    /// An evaluation is complete.
    pub fn eval(&self, name: &str, step: u64, loss: f64, bits_per_byte: Option<f64>) {
        let bits = bits_per_byte.map_or(String::new(), |b| format!(" bits_per_byte {b:.4}"));
        self.say(&format!("eval {name} step {step} loss {loss:.6}{bits}"));
    }

    /// A line on stdout, above the bar.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            self.result(line);
        }
    }

    /// The same, also where the run is to be quiet.
    pub fn result(&self, line: &str) {
        above_bar(|| {
            // A reader that has gone away (`| head`) does not stop the training.
            let _ = writeln!(io::stdout().lock(), "{line}");
        });
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(bar) = lock().take() {
            bar.finish_and_clear();
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn above_bar<R>(write: impl FnOnce() -> R) -> R {
    match &*lock() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// stderr for the log: `env_logger::Target::Pipe(Box::new(Stderr))` keeps its lines and the bar apart.
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        above_bar(|| io::stderr().write_all(text)).map(|()| text.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Aligned columns for the eye.
fn wide(r: &StepRecord, total: u64, peak: Option<f64>, eta: f64) -> String {
    let digits = total.to_string().len();
    let mfu = peak.map_or(String::new(), |p| format!("  MFU {:>4.1} %", 100.0 * r.tflops / p));
    format!(
        "{:>digits$}/{total}  loss {:<7.4} norm {:<6} lr {:<8.2e} {:>6} ms  {:>9} tok/s  {:>5} TFLOP/s{mfu}  {:>8}  ETA {}",
        r.step,
        r.loss,
        significant(r.grad_norm, 3),
        r.lr,
        significant(1e3 * r.step_time, 3),
        thousands(r.tokens_per_second.round() as u64),
        significant(r.tflops, 3),
        bytes(r.memory),
        duration(eta),
    )
}

/// `key value` pairs for grep and awk.
fn plain(r: &StepRecord, total: u64, peak: Option<f64>, eta: f64) -> String {
    let mfu = peak.map_or(String::new(), |p| format!(" MFU {:.4}", r.tflops / p));
    format!(
        "step {}/{total} loss {:.6} grad_norm {} lr {:.4e} ms {} tokens/s {:.1} TFLOP/s {}{mfu} memory_bytes {} ETA {}",
        r.step,
        r.loss,
        significant(r.grad_norm, 5),
        r.lr,
        significant(1e3 * r.step_time, 5),
        r.tokens_per_second,
        significant(r.tflops, 4),
        r.memory,
        duration(eta),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> StepRecord {
        let r = StepRecord { step: 120, loss: 3.234512, lr: 3e-4, grad_norm: 0.98312, step_time: 0.8124, ..Default::default() };
        StepRecord { memory: 1_300_000_000, ..r.with_rates(4096, 8e8, 2) }
    }

    #[test]
    fn plain_lines_are_key_value() {
        let line = plain(&record(), 2000, Some(10.0), 753.0);
        let expected = "step 120/2000 loss 3.234512 grad_norm 0.98312 lr 3.0000e-4 ms 812.40 tokens/s 5041.9 \
                        TFLOP/s 2.017 MFU 0.2017 memory_bytes 1300000000 ETA 0:12:33";
        assert_eq!(line, expected);
    }

    #[test]
    fn wide_lines_stay_aligned_and_narrow() {
        let a = wide(&record(), 2000, Some(10.0), 753.0);
        let b = wide(&StepRecord { step: 7, loss: 10.1, grad_norm: 12.34, lr: 1.2e-5, ..record() }, 2000, Some(10.0), 99.0);
        assert_eq!(a.find("TFLOP/s"), b.find("TFLOP/s"), "\n{a}\n{b}");
        assert!(a.len() < 130, "{a}");
    }

    #[test]
    fn no_mfu_where_the_peak_is_unknown() {
        assert!(!plain(&record(), 10, None, 0.0).contains("MFU") && !wide(&record(), 10, None, 0.0).contains("MFU"));
    }
}
