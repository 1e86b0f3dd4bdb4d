//! `bench step --node C,B,F,R`: the step as counted here, predicted for a node of C cores, B bytes/s of memory and F FLOP/s
//! a core in products, shared by R ranks. A prediction: nothing of it was measured there.
//!
//! ```text
//! op               max(FLOPs / (F C/R), bytes / (B/R)) + calls · barrier         each rank has its share of both
//! between ranks    (3 G + G/R) / (B/R)      G: bytes of a rank's gradients. Each rank reads all R copies of its block,
//!                                           writes it, and copies everyone's blocks; R = 1: nothing. Not hidden.
//! adamw, norm      the rank's block: 1/R of the bytes (adamw: with --zero 1)
//! ```
//! Every rank does here what one rank did there: the same rows a pass, the same passes a step.
use crate::commands::bench::roofline::title;
use crate::config::Run;
use crate::device::Row;
use crate::metrics::units::significant;
use serde_json::{Value, json};

/// Assumed: seconds that a node's threads take to meet and part again at each op.
const BARRIER: f64 = 10e-6;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    pub cores: f64,
    /// Bytes/s of all memory.
    pub bytes: f64,
    /// FLOP/s of one core, in products.
    pub flops: f64,
    pub ranks: f64,
}

/// What bounds an op.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    Arithmetic,
    Memory,
}

pub struct Prediction {
    node: Node,
    ops: Vec<(String, Bound, f64)>,
    barriers: f64,
    between: f64,
    tokens: f64,
}

/// `112,614,2000,8`: cores, GB/s, GFLOP/s a core, ranks.
pub fn parse(text: &str) -> Result<Node, String> {
    let numbers: Vec<f64> = text.split(',').filter_map(|word| word.trim().parse().ok()).collect();
    match numbers[..] {
        [cores, bytes, flops, ranks] if numbers.iter().all(|x| x.is_finite() && *x > 0.0) && ranks <= cores => {
            Ok(Node { cores, bytes: 1e9 * bytes, flops: 1e9 * flops, ranks })
        }
        _ => Err("expected cores, GB/s, GFLOP/s of a core and ranks, such as 112,614,2000,8".to_string()),
    }
}

impl Node {
    /// `rows`: what `steps` steps of one of `ranks` ranks of this run have noted.
    pub fn predict(self, rows: &[Row], steps: usize, run: &Run, ranks: usize) -> Prediction {
        let Node { cores, bytes, flops, ranks: all } = self;
        let (steps, shard) = (steps as f64, ranks as f64 / all);
        let mut ops: Vec<(String, Bound, f64)> = rows
            .iter()
            .map(|row| {
                let divided = row.name == "square sum" || (row.name == "adamw" && run.system.zero == 1);
                let moved = row.bytes * if divided { shard } else { 1.0 };
                let (arithmetic, memory) = (row.flops / (flops * cores / all), moved / (bytes / all));
                let bound = if arithmetic > memory { Bound::Arithmetic } else { Bound::Memory };
                (title(row), bound, arithmetic.max(memory) / steps)
            })
            .collect();
        ops.sort_by(|a, b| b.2.total_cmp(&a.2));
        let gradients = 4.0 * run.model.config.parameter_count() as f64;
        let exchanged = if all > 1.0 { 3.0 * gradients + gradients / all } else { 0.0 };
        Prediction {
            node: self,
            ops,
            barriers: BARRIER * rows.iter().map(|row| row.calls as f64).sum::<f64>() / steps,
            between: exchanged / (bytes / all),
            tokens: run.tokens_per_step() as f64 / ranks as f64 * all,
        }
    }
}

impl Prediction {
    fn bound_by(&self, which: Bound) -> f64 {
        self.ops.iter().filter(|op| op.1 == which).fold(0.0, |sum, op| sum + op.2)
    }
    fn step(&self) -> f64 {
        self.bound_by(Bound::Arithmetic) + self.bound_by(Bound::Memory) + self.barriers + self.between
    }
    fn parts(&self) -> [(&'static str, f64); 4] {
        let (arithmetic, memory) = (self.bound_by(Bound::Arithmetic), self.bound_by(Bound::Memory));
        [("arithmetic", arithmetic), ("memory", memory), ("barriers", self.barriers), ("between ranks", self.between)]
    }

    pub fn text(&self) -> String {
        let Node { cores, bytes, flops, ranks } = self.node;
        let mut out = format!(
            "PREDICTION for a node of {cores} cores, {} GB/s, {} GFLOP/s a core, {ranks} ranks; {} µs a barrier assumed\n",
            bytes / 1e9,
            flops / 1e9,
            1e6 * BARRIER,
        );
        for (name, bound, time) in &self.ops {
            let by = if *bound == Bound::Memory { "memory" } else { "arithmetic" };
            out += &format!("{name:<26} {by:<13} {:>10.3} ms {:>6.1}%\n", 1e3 * time, 100.0 * time / self.step());
        }
        for (name, time) in self.parts() {
            out += &format!("{:<26} {name:<13} {:>10.3} ms {:>6.1}%\n", "all", 1e3 * time, 100.0 * time / self.step());
        }
        let rate = significant(self.tokens / self.step(), 4);
        out + &format!("a step of {} tokens: {:.1} ms, {rate} tokens/s\n", self.tokens, 1e3 * self.step())
    }

    pub fn json(&self) -> Value {
        let parts = self.parts().map(|(name, time)| (name.replace(' ', "_") + "_seconds", json!(time)));
        let Node { cores, bytes, flops, ranks } = self.node;
        let mut all = json!({ "cores": cores, "bytes_per_second": bytes, "flops_per_second_per_core": flops, "ranks": ranks,
            "barrier_seconds_assumed": BARRIER, "step_seconds": self.step(), "tokens_per_second": self.tokens / self.step() });
        parts.into_iter().for_each(|(name, value)| all[name] = value);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read() {
        assert_eq!(parse("112,614,2000,8"), Ok(Node { cores: 112.0, bytes: 614e9, flops: 2e12, ranks: 8.0 }));
        for wrong in ["", "112", "112,614,2000", "112,614,2000,8,9", "112,614,x,8", "112,0,2000,8", "4,614,2000,8", "1,1,inf,1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
