//! A step takes no memory: all of it was taken before, by the plan or by the first steps.
use llm_train::device::{Cpu, Device, Precision, Rounding};
use llm_train::model::{Config, Decoder, Input, Recompute, Shape};
use llm_train::ops::elementwise;
use llm_train::ops::gemm::Into;
use llm_train::ops::verdict::Verdict;
use llm_train::optim::{AdamW, Hyper};
use llm_train::tensor::Tensor;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting.
struct Counting;
static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}
#[global_allocator]
static COUNTING: Counting = Counting;

/// What a step allocates is allocated in each of these …
const STEPS: u64 = 20;
/// … and a thread that comes late to its first task of attention takes its room once for either pass.
const LATE: usize = 5;

const SHAPE: Shape = Shape { micro_batch: 2, seq: 40 };

#[test]
fn a_step_allocates_nothing_once_the_first_have_run() {
    // At last with weights in bf16 alone, biases among them.
    for (family, precision, alone) in [
        ("gpt2", Precision::Fp32, false),
        ("qwen3", Precision::Fp32, false),
        ("qwen3", Precision::Bf16, false),
        ("qwen3", Precision::Bf16, true),
        ("gpt2", Precision::Bf16, true),
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family).join("config.json");
        let json = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let (config, _) = Config::from_hf(&json, &file).unwrap();
        let mut plan = Cpu::plan(precision).with_weights_in_bf16(alone);
        let model = Decoder::plan(&mut plan, &config, SHAPE, Recompute::None, 1);
        let hyper = Hyper { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, decay_embeddings: true };
        let adamw = AdamW::plan(&mut plan, model.groups().to_vec(), hyper);
        let mut dev = Device::cpu(&plan, 2, &[], precision).unwrap();
        if alone {
            dev.round_at_random(Rounding::new(1, model.groups().iter().map(|g| &g.weights)));
        }
        model.prepare(&dev);
        model.init(&dev, 1);
        let tokens: Vec<u32> = (0..80).map(|i| i * 7 % config.vocab as u32).collect();
        let input = Input { tokens: &tokens, targets: &tokens, starts: None, positions: None };
        dev.install(|| {
            let mut step = |t| {
                model.forward_backward(&dev, &input, 1.0, &mut Into::Overwrite);
                let norm: f64 =
                    model.groups().iter().map(|g| elementwise::square_sum(&dev, Tensor::range(g.grads.start, g.grads.end))).sum();
                assert!(norm > 0.0);
                adamw.step(&dev, 1e-3, t, Verdict::Scale(1.0));
            };
            (1..=3).for_each(&mut step);
            let before = TAKEN.load(Ordering::Relaxed);
            assert!(before > 0, "the allocator counts");
            (4..4 + STEPS).for_each(&mut step);
            let taken = TAKEN.load(Ordering::Relaxed) - before;
            assert!(taken < LATE, "{family} {precision:?} {alone}: {taken} allocations in {STEPS} steps");
        });
    }
}
