//! Each op of a step beside what this machine can do at best (Williams, Waterman, Patterson 2009).
//!
//! ```text
//! at best    = max(FLOPs / product ceiling, bytes / memory ceiling)       ceiling: at best / time
//! over       = time − at best                                             what is left on the table
//! untallied  = step − waiting − Σ time: what no op noted (the loop itself)
//! ```
//! The ceilings are measured with the run's own threads and ops. Operands that are still in cache can beat the memory
//! ceiling: such an op stands above 100 %.
use crate::commands::bench::gemm::{self, Layer};
use crate::commands::bench::tallied;
use crate::device::cuda::{self, Cuda, Extent, Gpu};
use crate::device::{Device, Precision, Row};
use crate::error::Result;
use crate::metrics::units::significant;
use crate::ops::elementwise;
use crate::tensor::{Kind, Plan, Tensor};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// What this machine can do at best with the threads at hand.
#[derive(Clone, Debug)]
pub struct Ceilings {
    /// `2 threads`, or a GPU's name.
    of: String,
    /// Of matrix products, in FLOP/s, and the product that reached it.
    pub flops: f64,
    product: String,
    /// Of memory, in bytes/s as the ops count them, and the op that reached it.
    pub bytes: f64,
    pass: &'static str,
}

/// Products that are tried, squares and layers of usual sizes: inputs, outputs, and rows for each thread.
const PRODUCTS: [[usize; 2]; 3] = [[1024, 1024], [768, 3072], [3072, 768]];
const ROWS: usize = 512;
/// Elements of the arrays that are copied: together far more than a cache holds.
const ARRAY: usize = 1 << 25;
/// The same on a GPU of `memory` bytes: elements of arrays, 2²⁷ from 8 GB on, and the side of a square product, 4,096 from 32 GB on.
fn gpu_array(memory: usize) -> usize {
    (memory / 64).clamp(1, 1 << 27)
}
fn gpu_side(memory: usize) -> usize {
    1 << (memory / 2048).isqrt().clamp(16, 4096).ilog2()
}
/// The best of so many counts.
const REPEATS: usize = 3;

impl Ceilings {
    /// Takes some seconds and 400 MB, which are given back.
    ///
    /// Errors: the system refuses the memory.
    pub fn measure(precision: Precision, threads: usize) -> Result<Ceilings> {
        let (mut flops, mut product) = (0.0, String::new());
        for [inputs, outputs] in PRODUCTS {
            let size = [ROWS * threads, inputs, outputs];
            for row in Layer::measure(size, precision, threads, REPEATS)?.into_iter().flatten() {
                let rate = row.flops / row.time.as_secs_f64();
                if rate > flops {
                    (flops, product) = (rate, format!("{} of {}", row.name, size.map(|n| n.to_string()).join(" × ")));
                }
            }
        }
        let (plan, arrays) = arrays(ARRAY);
        let dev = Device::cpu(&plan, threads, &[], precision)?;
        let (bytes, pass) = passes(&dev, arrays);
        let of = format!("{threads} threads");
        Ok(Ceilings { of, flops, product, bytes, pass })
    }

    /// Of a GPU: takes some seconds and 1.5 GB of its memory, which are given back.
    ///
    /// Errors: a library is missing, or the GPU has not the memory.
    pub fn of_gpu(gpu: &Arc<Gpu>, precision: Precision) -> Result<Ceilings> {
        let (mut flops, mut product) = (0.0, String::new());
        let side = gpu_side(gpu.memory);
        for [inputs, outputs] in [[side, side], [side / 2, 2 * side], [2 * side, side / 2]] {
            let size = [2 * side, inputs, outputs];
            for (rates, name) in gemm::on_gpu(gpu, size, precision)?.into_iter().zip(["forward", "backward"]) {
                let rate = 1e9 * rates.max;
                if rate > flops {
                    (flops, product) = (rate, format!("{name} of {}", size.map(|n| n.to_string()).join(" × ")));
                }
            }
        }
        let (plan, arrays) = arrays(gpu_array(gpu.memory));
        let extent = Extent { activations: arrays.to_vec(), ranks: 1, ..Extent::default() };
        let cuda = Cuda::new(gpu, &plan, &extent, precision, &cuda::binary(gpu, precision)?, None)?;
        let (bytes, pass) = passes(&Device::Cuda(Box::new(cuda)), arrays);
        Ok(Ceilings { of: gpu.name.clone(), flops, product, bytes, pass })
    }

    /// Seconds that the row would take at best.
    fn at_best(&self, row: &Row) -> f64 {
        (row.flops / self.flops).max(row.bytes / self.bytes)
    }
}

/// Three arrays of so many elements.
fn arrays(elements: usize) -> (Plan, [Tensor; 3]) {
    let mut plan = Plan::default();
    let arrays = [(); 3].map(|()| plan.vector(Kind::Workspace, elements));
    (plan, arrays)
}

/// Bytes/s of the fastest of some passes over memory, and its name.
fn passes(dev: &Device, [a, b, c]: [Tensor; 3]) -> (f64, &'static str) {
    let pass = || {
        elementwise::copy(dev, a, b);
        elementwise::add(dev, c, a, b);
        if let Device::Cpu(_) = dev {
            elementwise::square_sum(dev, c); // of f32, which a GPU's arrays need not be
        }
    };
    dev.install(|| [a, b, c].map(|t| elementwise::zero(dev, t)));
    let runs = (0..REPEATS).flat_map(|_| tallied(dev, true, pass).0);
    let rates = runs.map(|row| (row.bytes / row.time.as_secs_f64(), row.name));
    rates.max_by(|a, b| a.0.total_cmp(&b.0)).expect("passes were noted")
}

/// A step, op by op.
pub struct Roofline {
    ceilings: Ceilings,
    /// Of one step, the longest first.
    rows: Vec<Row>,
    /// Seconds.
    step: f64,
    /// Of them, those spent waiting for something.
    waiting: [(&'static str, f64); 2],
}

impl Roofline {
    /// `rows`: what `steps` steps of `step` seconds have noted, with so many seconds of waiting in each.
    pub fn of(rows: &[Row], steps: usize, step: f64, waiting: [(&'static str, f64); 2], ceilings: Ceilings) -> Roofline {
        let mut rows = rows.to_vec();
        for row in &mut rows {
            row.calls /= steps as u64;
            row.flops /= steps as f64;
            row.bytes /= steps as f64;
            row.time /= steps as u32;
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.time));
        Roofline { ceilings, rows, step, waiting }
    }

    fn tallied(&self) -> f64 {
        self.rows.iter().map(|row| row.time.as_secs_f64()).sum()
    }
    fn untallied(&self) -> f64 {
        self.step - self.tallied() - self.waiting.iter().map(|(_, time)| time).sum::<f64>()
    }
    fn at_best(&self) -> f64 {
        self.rows.iter().map(|row| self.ceilings.at_best(row)).sum()
    }

    pub fn text(&self, precision: &str) -> String {
        let Ceilings { of, flops, product, bytes, pass } = &self.ceilings;
        let rate = |x: f64| significant(x / 1e9, 3);
        let mut out = format!(
            "ceilings of {of} here: {precision} products {} GFLOP/s ({product}), memory {} GB/s ({pass})\n\
             {:<26} {:>6} {:>9} {:>9} {:>10} {:>7} {:>8} {:>7} {:>8} {:>9}\n",
            rate(*flops),
            rate(*bytes),
            "op, a step of rank 0",
            "calls",
            "GFLOP",
            "MB",
            "ms",
            "share",
            "GFLOP/s",
            "GB/s",
            "ceiling",
            "over ms",
        );
        let mut line = |name: &str, calls: u64, flops: f64, bytes: f64, time: f64, best: f64| {
            let percent = |x: f64| format!("{:.1}%", 100.0 * x);
            let some = |x: f64, text: String| if x > 0.0 { text } else { String::new() };
            let _ = writeln!(
                out,
                "{name:<26} {:>6} {:>9} {:>9} {:>10.3} {:>7} {:>8} {:>7} {:>8} {:>9.3}",
                some(calls as f64, calls.to_string()),
                some(flops, format!("{:.3}", flops / 1e9)),
                some(bytes, format!("{:.1}", bytes / 1e6)),
                1e3 * time,
                percent(time / self.step),
                some(flops, rate(flops / time)),
                some(bytes, rate(bytes / time)),
                some(best, percent(best / time)),
                1e3 * (time - best),
            );
        };
        for row in &self.rows {
            line(&title(row), row.calls, row.flops, row.bytes, row.time.as_secs_f64(), self.ceilings.at_best(row));
        }
        let (flops, bytes) = self.rows.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.flops, sum.1 + row.bytes));
        self.waiting.iter().for_each(|(what, time)| line(what, 0, 0.0, 0.0, *time, 0.0));
        line("untallied", 0, 0.0, 0.0, self.untallied(), 0.0);
        line("step", 0, flops, bytes, self.step, self.at_best());
        let over = 1e3 * (self.step - self.at_best());
        out + &format!("left on the table: {over:.1} of {:.1} ms\n", 1e3 * self.step)
    }

    pub fn json(&self) -> Value {
        let Ceilings { of, flops, product, bytes, pass } = &self.ceilings;
        let row = |row: &Row| {
            json!({ "part": row.part, "name": row.name, "calls": row.calls, "flops": row.flops, "bytes": row.bytes,
                    "seconds": row.time.as_secs_f64(), "at_best_seconds": self.ceilings.at_best(row) })
        };
        json!({
            "ceilings": { "of": of, "flops_per_second": flops, "product": product, "bytes_per_second": bytes, "pass": pass },
            "step_seconds": self.step,
            "tallied_seconds": self.tallied(),
            "waiting_seconds": self.waiting.iter().map(|(_, time)| time).sum::<f64>(),
            "untallied_seconds": self.untallied(),
            "at_best_seconds": self.at_best(),
            "ops": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// `head: linear forward`
pub fn title(row: &Row) -> String {
    if row.part.is_empty() { row.name.to_string() } else { format!("{}: {}", row.part, row.name) }
}

#[cfg(test)]
mod tests {
    use super::{gpu_array, gpu_side};

    #[test]
    fn what_is_measured_fits_the_gpu() {
        assert_eq!((gpu_array(80 << 30), gpu_side(80 << 30)), (1 << 27, 4096));
        assert_eq!((gpu_array(16 << 30), gpu_side(16 << 30)), (1 << 27, 2048));
        assert_eq!((gpu_array(100 << 20), gpu_side(100 << 20)), (1_638_400, 128));
    }
}
