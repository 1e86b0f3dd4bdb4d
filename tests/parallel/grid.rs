//! Ranks × micro-steps × sharding × recomputation × ways of bringing ranks together: all train the same model.
//!
//! One job of six ranks divides itself into worlds of 1, 2 and 3, then of 4 and 2, and each runs its part of the grid. Two
//! things are asked: the same bits from DDP and ZeRO-1, from recomputation or none, from messages, shared memory or both (as
//! if every two ranks were a node), and from the same world again; and
//! elsewhere, in fp32, the same weights within rounding, ‖Δw‖/‖w‖ ≤ 1e-6 after ten steps. Weights that are bf16 alone are rounded at random,
//! by bits that know nothing of ranks: few fall to another side in another world.
use crate::job;
use crate::trainer::{Case, train_in};
use llm_train::comm::{Collective, Mpi};
use llm_train::device::Precision;
use llm_train::model::{Config, Recompute};
use llm_train::parallel::Stage;

#[test]
fn ranks_micro_steps_sharding_and_recomputation_give_the_same_weights() {
    let ended = job::succeeds(6, "grid");
    assert!(ended.text.contains("600 runs agree"), "2 models × 20 cases × 3 ways × 5 worlds");
}

/// A GPT-2 with a tied head and biases, a Llama with grouped queries and an untied head; odd vocabularies.
fn models() -> [Config; 2] {
    let gpt2 = Config::preset("nano").unwrap();
    let small = Config { layers: 2, width: 16, hidden: 64, heads: 2, kv_heads: 2, head_dim: 8, vocab: 61, context: 8, ..gpt2 };
    let llama = Config::preset("tinyllama-1.1b").unwrap();
    let llama = Config {
        layers: 2,
        width: 16,
        hidden: 40,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        vocab: 131,
        context: 8,
        tied: false,
        ..llama
    };
    [small, llama]
}

/// Samples of a step. 36 rows are computed, whatever the layout, of which the last is padding.
const SAMPLES: usize = 35;

/// Ranks of a node, as it is made believe. 1: messages alone.
const NODES: [usize; 3] = [1, 2, usize::MAX];

fn cases(ranks: usize) -> Vec<Case> {
    let mut all = vec![];
    let fp32 = (1..=3).map(|n| (n, Precision::Fp32, false));
    for (micro_steps, precision, weights_bf16) in fp32.chain([(2, Precision::Bf16, false), (2, Precision::Bf16, true)]) {
        for stage in [Stage::Replicate, Stage::Optimizer] {
            for recompute in [Recompute::None, Recompute::Block] {
                let micro_batch = 36 / (ranks * micro_steps);
                let (global_batch, seq, steps) = (SAMPLES, 8, 10);
                all.push(Case { micro_batch, global_batch, seq, stage, recompute, steps, precision, weights_bf16 });
            }
        }
    }
    all
}

pub fn rank() {
    let launch = job::join();
    let all = job::world();
    let mut worlds = vec![];
    for sizes in [&[1, 2, 3][..], &[4, 2]] {
        let starts: Vec<usize> = sizes.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
        let color = starts.iter().rposition(|start| *start <= all.rank()).unwrap();
        let world = all.split(color);
        assert_eq!(world.size(), sizes[color]);
        let mine = grid(&world);
        let told = all.gather(if world.rank() == 0 { &mine } else { &[] });
        starts.iter().zip(sizes).for_each(|(start, size)| worlds.push((*size, told[*start].clone())));
    }
    if launch.leads() {
        compare(&worlds);
    }
    launch.leave(0)
}

/// Every run's weights and words, as bytes. All ranks of the world have the same.
fn grid(world: &Mpi) -> Vec<u8> {
    let mut bytes = vec![];
    for config in models() {
        for (case, node) in cases(world.size()).into_iter().flat_map(|case| NODES.map(|node| (case, node))) {
            let share = |elements| world.share_in(elements, world.rank() / node).ok();
            let run = train_in(world, &config, &case, share);
            let mut mine: Vec<u8> = (run.weights.len() as u64).to_ne_bytes().to_vec();
            mine.extend(run.weights.iter().flat_map(|w| w.to_ne_bytes()));
            mine.extend(run.told.iter().flat_map(|w| w.to_ne_bytes()));
            for (rank, theirs) in world.gather(&mine).iter().enumerate() {
                assert!(*theirs == mine, "rank {rank} ends with other weights than rank {}: {case:?}", world.rank());
            }
            bytes.extend(mine);
        }
    }
    bytes
}

struct Run {
    ranks: usize,
    case: Case,
    weights: Vec<f32>,
    told: Vec<f64>,
}

fn read(ranks: usize, bytes: &mut &[u8]) -> Vec<Run> {
    let mut take = |n: usize| {
        let (head, tail) = bytes.split_at(n);
        *bytes = tail;
        head.to_vec()
    };
    let run = |case: Case| {
        let n = u64::from_ne_bytes(take(8).try_into().unwrap()) as usize;
        let weights = take(4 * n).as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect();
        let told = take(8 * 2 * case.steps as usize).as_chunks().0.iter().map(|b| f64::from_ne_bytes(*b)).collect();
        Run { ranks, case, weights, told }
    };
    cases(ranks).into_iter().flat_map(|case| NODES.map(|_| case)).map(run).collect()
}

fn compare(worlds: &[(usize, Vec<u8>)]) {
    let mut left: Vec<(usize, &[u8])> = worlds.iter().map(|(ranks, bytes)| (*ranks, bytes.as_slice())).collect();
    let (mut agreeing, mut furthest) = (0, 0.0f64);
    for model in ["gpt2", "llama"] {
        let runs: Vec<Run> = left.iter_mut().flat_map(|(ranks, bytes)| read(*ranks, bytes)).collect();
        let reference = &runs[0];
        assert_eq!((reference.ranks, reference.case), (1, cases(1)[0]));
        assert!(reference.told[18] < reference.told[0], "it learns: {:?}", reference.told);
        for run in &runs {
            let (ranks, case) = (run.ranks, run.case);
            // The same bits as the first run with this layout, whatever the sharding and recomputation.
            let layout = |r: &&Run| (r.ranks, r.case.micro_batch, r.case.precision, r.case.weights_bf16);
            let first = runs.iter().find(|r| layout(r) == layout(&run)).unwrap();
            let bits = |w: &[f32]| w.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
            assert!(bits(&first.weights) == bits(&run.weights), "{model}, {ranks} ranks: other bits with {case:?}");
            assert_eq!(first.told, run.told, "{model}, {ranks} ranks: {case:?}");
            agreeing += 1;
            if case.weights_bf16 {
                let alike = runs.iter().find(|r| r.ranks == 1 && r.case.weights_bf16).unwrap();
                assert!(run.weights.iter().all(|w| w.to_bits() & 0xffff == 0), "{model}: a weight is more than bf16");
                // With bits of the place in memory it would be 6e-3: a weight moves by a part of 2⁻⁹ of itself.
                let far = distance(&run.weights, &alike.weights);
                assert!(far <= 1e-3, "{model}, {ranks} ranks, {case:?}: ‖Δw‖/‖w‖ = {far:.2e}");
            }
            if case.precision == Precision::Bf16 {
                continue; // operands are rounded, and what is near a bound may fall to either side
            }
            let far = distance(&run.weights, &reference.weights);
            assert!(far <= 1e-6, "{model}, {ranks} ranks, {case:?}: ‖Δw‖/‖w‖ = {far:.2e}");
            let apart = |k: usize| (run.told[k] - reference.told[k]).abs() / reference.told[k];
            (0..run.told.len()).for_each(|k| assert!(apart(k) < 1e-4, "{model}, {ranks} ranks, {case:?}: {:?}", run.told));
            furthest = furthest.max(far);
        }
    }
    println!("{agreeing} runs agree; ‖Δw‖/‖w‖ is at most {furthest:.2e}");
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(|i| f(i).powi(2)).sum::<f64>().sqrt();
    sum(&|i| f64::from(a[i]) - f64::from(b[i])) / sum(&|i| f64::from(b[i]))
}
