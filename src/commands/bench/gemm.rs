//! `llm-train bench gemm`: the three products of every layer of a model, as training runs them.
//!
//! ```text
//! forward  NT  y  (n, o) = x (n, c) · W (o, c)ᵀ
//! dx       NN  dx (n, c) = dy (n, o) · W (o, c)
//! dW       TN  dW (o, c) += dy (n, o)ᵀ · x (n, c)
//! ```
//! n: the rows of a pass, or of a chunk of the head's. On a GPU, where the host only puts work into a stream, many products in a row are
//! timed, and dx and dW together.
use crate::commands::bench::{machine, tallied};
use crate::commands::count;
use crate::commands::kernels;
use crate::commands::{check_json, tell, write_json};
use crate::config::{DeviceKind, Run};
use crate::device::cuda::{self, Cuda, Extent, Gpu};
use crate::device::{Cpu, Device, Precision, Row};
use crate::error::Result;
use crate::launch::{cores, usable_cores};
use crate::metrics::stats::Stats;
use crate::metrics::units::significant;
use crate::ops::gemm::Into;
use crate::ops::linear;
use crate::tensor::{Kind, Plan, Tensor};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Seconds that each layer is measured for, and the least times.
const SECONDS: f64 = 1.0;
const LEAST: usize = 5;

pub fn run(run: &Run) -> Result<()> {
    check_json(run.json_of_its_own())?;
    let mut run = run.clone();
    run.validate_for(1)?;
    let (precision, threads) = (run.system.precision, run.system.threads.unwrap_or_else(usable_cores));
    let gpu = match run.system.device {
        DeviceKind::Cpu => None,
        DeviceKind::Auto => Gpu::of(0).ok(),
        DeviceKind::Cuda => Some(Gpu::of(0)?),
    };
    let (_, model, ..) = if gpu.is_some() { count::lay_out_on_gpu(&run, 0, 1) } else { count::lay_out(&run, 0, 1) };
    let (c, rows) = (&run.model.config, run.batch.micro_batch * run.batch.seq_len);
    let attention = c.heads * c.head_dim;
    let layers = [
        ("qkv", [rows, c.width, attention + 2 * c.kv_heads * c.head_dim]),
        ("out", [rows, attention, c.width]),
        ("up", [rows, c.width, c.up_rows()]),
        ("down", [rows, c.hidden, c.width]),
        ("head", [model.logit_rows(), c.width, c.vocab_rows()]),
    ];
    if gpu.is_none() {
        run.validate_on_cpu()?;
    }
    let mut found = vec![];
    for (layer, size) in layers {
        if let Some(gpu) = &gpu {
            let rates = on_gpu(gpu, size, precision)?;
            found.extend([("NT", rates[0]), ("NN, TN", rates[1])].map(|(layout, rates)| (layer, layout, size, rates)));
            continue;
        }
        let once: f64 = Layer::measure(size, precision, threads, 1)?[0].iter().map(|row| row.time.as_secs_f64()).sum();
        let repeats = ((SECONDS / once) as usize).max(LEAST);
        let runs = Layer::measure(size, precision, threads, repeats)?;
        for (product, layout) in [("linear forward", "NT"), ("linear dx", "NN"), ("linear dW", "TN")] {
            let rows = runs.iter().flatten().filter(|row| row.name == product);
            let rates = Stats::of(rows.map(|row| row.flops / row.time.as_secs_f64() / 1e9)).expect("it was noted");
            found.push((layer, layout, size, rates));
        }
    }
    let best = found.iter().map(|(.., rates)| rates.max).fold(0.0, f64::max);
    let (precision, mut rows) = (precision.name(), vec![]);
    let device = gpu.as_ref().map_or_else(cores::processor, |gpu| gpu.name.clone());
    let place = gpu.map_or_else(
        || format!("{threads} threads, {precision}; {}", cores::processor()),
        |gpu| format!("{precision}; {}", gpu.name),
    );
    let mut page = format!("bench gemm: {}, {place}\n", run.model.name);
    page += &format!(
        "{:<6} {:>6} {:>7} {:>7} {:>7} {:>9} {:>8} {:>8} {:>8} {:>6}\n",
        "layer", "layout", "rows", "inputs", "outputs", "GFLOP/s", "stddev", "min", "max", "best"
    );
    for (layer, layout, [n, inputs, outputs], s) in &found {
        let [median, stddev, min, max] = [s.median, s.stddev, s.min, s.max].map(|v| significant(v, 4));
        let share = format!("{:.0}%", 100.0 * s.median / best);
        page += &format!(
            "{layer:<6} {layout:>6} {n:>7} {inputs:>7} {outputs:>7} {median:>9} {stddev:>8} {min:>8} {max:>8} {share:>6}\n"
        );
        rows.push(json!({ "layer": layer, "layout": layout, "rows": n, "inputs": inputs, "outputs": outputs,
                          "gflops": s.json(), "share_of_best": s.median / best }));
    }
    tell(page + &format!("best: {} GFLOP/s; shares are of medians\n", significant(best, 4)));
    let mut all = machine(&run, 1, threads);
    all["device"] = json!(device);
    all["best_gflops"] = json!(best);
    all["products"] = json!(rows);
    run.json_of_its_own().map_or(Ok(()), |file| write_json(file, &all))
}

/// GFLOP/s of the forward, and of the backward.
pub fn on_gpu(gpu: &Arc<Gpu>, [rows, inputs, outputs]: [usize; 3], precision: Precision) -> Result<[Stats; 2]> {
    let mut plan = Plan::default();
    // Weights first: what lies there has a copy in bf16.
    let w = plan.matrix(Kind::Parameters, outputs, inputs);
    let dw = plan.matrix(Kind::Gradients, outputs, inputs);
    let [x, dx] = [(); 2].map(|()| plan.matrix(Kind::Activations, rows, inputs));
    let y = plan.matrix(Kind::Activations, rows, outputs);
    let layer = Layer { x, y, w, dx, dw };
    let extent =
        Extent { activations: vec![x, dx, y], rows, width: inputs.max(outputs), heads: 1, ranks: 1, ..Extent::default() };
    let cuda = Cuda::new(gpu, &plan, &extent, precision, &cuda::binary(gpu, precision)?, None)?;
    let dev = Device::Cuda(Box::new(cuda));
    let Device::Cuda(cuda) = &dev else { unreachable!("it was made above") };
    dev.clear(std::iter::once(dw.at..dw.end()));
    layer.fill(&dev);
    cuda.tune(|| layer.pass(&dev));
    let forward = || linear::forward(&dev, y, x, w, None, None);
    let backward = || linear::backward(&dev, dx, dw, None, y, x, w, Into::Add);
    let timed = |product: &dyn Fn(), times: usize| {
        let began = Instant::now();
        (0..times).for_each(|_| product());
        dev.read(Tensor { rows: 1, cols: 1, ..dw }); // waits for all
        began.elapsed().as_secs_f64() / times as f64
    };
    let rates = |product: &dyn Fn(), flops: usize| {
        timed(product, 2);
        let times = ((SECONDS / SAMPLES as f64 / timed(product, 2)) as usize).clamp(2, 1000);
        let rates = (0..SAMPLES).map(|_| flops as f64 / timed(product, times) / 1e9);
        Stats::of(rates).expect("some samples")
    };
    let flops = 2 * rows * inputs * outputs;
    Ok([rates(&forward, flops), rates(&backward, 2 * flops)])
}

/// Of a second of products, how many parts are timed.
const SAMPLES: usize = 10;

/// A linear layer with a place for everything.
pub struct Layer {
    x: Tensor,
    y: Tensor,
    w: Tensor,
    dx: Tensor,
    dw: Tensor,
}

impl Layer {
    /// What the ops noted of each of `repeats` forwards and backwards of a layer of [rows, inputs, outputs]; one more
    /// goes before.
    ///
    /// Errors: the system refuses the memory.
    pub fn measure(
        [rows, inputs, outputs]: [usize; 3],
        precision: Precision,
        threads: usize,
        repeats: usize,
    ) -> Result<Vec<Vec<Row>>> {
        let mut plan = Cpu::plan(precision);
        let x = plan.operand(Kind::Workspace, rows, inputs);
        let mut matrix = |rows, cols| plan.matrix(Kind::Workspace, rows, cols);
        let layer = Layer {
            x,
            y: matrix(rows, outputs),
            w: matrix(outputs, inputs),
            dx: matrix(rows, inputs),
            dw: matrix(outputs, inputs),
        };
        plan.copy(Kind::Workspace, layer.w.at..layer.w.end());
        kernels::choose(precision, None)?;
        let dev = Device::cpu(&plan, threads, &[], precision)?;
        layer.fill(&dev);
        dev.install(|| layer.pass(&dev));
        Ok((0..repeats).map(|_| tallied(&dev, true, || layer.pass(&dev)).0).collect())
    }

    /// Numbers that are no zeros, which a GPU multiplies faster.
    fn fill(&self, dev: &Device) {
        for t in [self.x, self.w] {
            let some: Vec<f32> = (0..t.len()).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
            dev.write(t, &some);
        }
    }

    fn pass(&self, dev: &Device) {
        linear::forward(dev, self.y, self.x, self.w, None, None);
        linear::backward(dev, self.dx, self.dw, None, self.y, self.x, self.w, Into::Add);
    }
}
