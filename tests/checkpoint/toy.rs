//! A model with everything that can go wrong in it (padded vocabulary rows, views of one packed matrix named out of
//! order, a transposed tensor, vectors, groups shorter than their padding), and ranks that are threads.
use llm_train::checkpoint::*;
use llm_train::device::{Device, Precision};
use llm_train::error::{Error, Result};
use llm_train::model::{Group, Parameter};
use llm_train::tensor::{ALIGN, Kind, Plan, Tensor};
use serde_json::{Value, json};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Barrier, Mutex};

pub const C: usize = 8;
pub const VOCAB: usize = 37;

/// One rank's model: where everything lies when `ranks` share the groups.
pub struct Toy {
    pub dev: Device,
    pub parameters: Vec<Parameter>,
    pub groups: Vec<Group>,
    pub moments: Vec<Moments>,
}

impl Toy {
    pub fn new(rank: usize, ranks: usize, zero: bool) -> Toy {
        let mut p = Plan::default();
        let mut parameters = vec![];
        let mut groups = vec![];
        let mut add = |name: &str, group, weights: Tensor, transposed| {
            let shape = match (weights.rows, transposed) {
                (1, _) => vec![weights.cols],
                (_, true) => vec![weights.cols, weights.rows],
                _ => vec![weights.rows, weights.cols],
            };
            parameters.push(Parameter { name: name.into(), group, weights, grads: Tensor::range(0, 0), shape, transposed });
        };
        p.vector(Kind::Activations, 100 * rank + 3); // the arena need not begin with the weights
        for group in 0..4 {
            p.pad_to(Kind::Parameters, ranks * ALIGN);
            let start = p.mark();
            let mut place = |rows, cols| p.matrix(Kind::Parameters, rows, cols);
            match group {
                0 => add("transformer.wte.weight", 0, place(VOCAB + 3, C).rows(0, VOCAB), false),
                3 => add("transformer.ln_f.weight", 3, place(1, C), false),
                _ => {
                    let h = format!("transformer.h.{}", group - 1);
                    let (qkv, bias) = (place(3 * C, C), place(1, 3 * C));
                    // Named out of memory's order, as files may be.
                    add(&format!("{h}.v.weight"), group, qkv.rows(2 * C, C), false);
                    add(&format!("{h}.q.weight"), group, qkv.rows(0, C), false);
                    add(&format!("{h}.k.weight"), group, qkv.rows(C, C), false);
                    add(&format!("{h}.qkv.bias"), group, bias, false);
                    add(&format!("{h}.c_fc.weight"), group, place(5 * C, C), true);
                }
            }
            p.pad_to(Kind::Parameters, ranks * ALIGN);
            groups.push(Group { weights: start..p.mark(), grads: 0..0, decayed: 0 });
        }
        let owned = |g: &Group| -> Range<usize> {
            let part = g.weights.len() / ranks;
            if zero { g.weights.start + rank * part..g.weights.start + (rank + 1) * part } else { g.weights.clone() }
        };
        let moments = groups.iter().map(owned).map(|owned| {
            let (m, v) = (p.vector(Kind::Optimizer, owned.len()), p.vector(Kind::Optimizer, owned.len()));
            Moments { owned, m, v }
        });
        let moments = moments.collect();
        Toy { dev: Device::cpu(&p, 1, &[], Precision::Fp32).unwrap(), parameters, groups, moments }
    }

    /// Gives every weight and every moment a value of its own.
    pub fn fill(&self) {
        for p in &self.parameters {
            self.dev.write(p.weights, &self.expected(p, 'w'));
        }
        for own in &self.moments {
            self.dev.write(own.m, &self.expected_moments(own, 'm'));
            self.dev.write(own.v, &self.expected_moments(own, 'v'));
        }
    }
    pub fn expected(&self, p: &Parameter, kind: char) -> Vec<f32> {
        let mark = p.name.bytes().fold(kind as u32, |h, b| h.wrapping_mul(31).wrapping_add(b as u32)) % 1000;
        (0..p.weights.len()).map(|i| mark as f32 + i as f32 / 1024.0).collect()
    }
    /// The moments of what is owned; padding has none.
    pub fn expected_moments(&self, own: &Moments, kind: char) -> Vec<f32> {
        let mut values = vec![0.0; own.owned.len()];
        for p in &self.parameters {
            for (at, v) in (p.weights.at..).zip(self.expected(p, kind)) {
                if own.owned.contains(&at) {
                    values[at - own.owned.start] = v;
                }
            }
        }
        values
    }
    pub fn assert_filled(&self, what: &str) {
        for p in &self.parameters {
            assert_eq!(self.dev.read(p.weights), self.expected(p, 'w'), "{what}: {}", p.name);
        }
        for own in &self.moments {
            assert_eq!(self.dev.read(own.m), self.expected_moments(own, 'm'), "{what}: m of {:?}", own.owned);
            assert_eq!(self.dev.read(own.v), self.expected_moments(own, 'v'), "{what}: v of {:?}", own.owned);
        }
    }
}

pub fn progress(step: u64, ranks: usize) -> Progress {
    Progress {
        format: FORMAT,
        program: "0.1.0".into(),
        step,
        samples: 10 * step,
        tokens: 640 * step,
        seed: 7,
        ranks,
        corpus: "c0ffee".into(),
        config: "[optim]\nlr = 1e-3\n".into(),
        products: String::new(),
        products_of: String::new(),
        attention: None,
    }
}

pub fn config() -> Value {
    json!({ "model_type": "gpt2", "n_embd": C, "n_layer": 2, "transformers_version": "5.23.0" })
}

/// What the ranks agree on: one error is everyone's.
struct Ranks {
    barrier: Barrier,
    error: Mutex<Option<Error>>,
}

impl Ranks {
    fn new(n: usize) -> Ranks {
        Ranks { barrier: Barrier::new(n), error: Mutex::new(None) }
    }
    fn agree(&self, mine: Result<()>) -> Result<()> {
        if let Err(e) = mine {
            *self.error.lock().unwrap() = Some(e);
        }
        self.barrier.wait();
        let all = self.error.lock().unwrap().clone();
        self.barrier.wait();
        all.map_or(Ok(()), Err)
    }
}

/// How one test's save differs from another's.
pub struct How<'a> {
    pub keep: Keep,
    pub shard_limit: u64,
    pub tokenizer: Option<&'a Path>,
    /// Where the ranks after the first write.
    pub others: Option<&'a Path>,
}

pub const PLAIN: How<'static> =
    How { keep: Keep { newest: 100, every: None }, shard_limit: SHARD_LIMIT, tokenizer: None, others: None };

/// Saves the toy from `ranks` threads.
pub fn save_on(out: &Path, step: u64, ranks: usize, zero: bool, how: &How) -> Vec<Result<PathBuf>> {
    let all = &Ranks::new(ranks);
    let one = |rank| {
        let toy = Toy::new(rank, ranks, zero);
        toy.fill();
        let s = Save {
            out: how.others.filter(|_| rank > 0).unwrap_or(out),
            dev: &toy.dev,
            parameters: &toy.parameters,
            groups: &toy.groups,
            moments: &toy.moments,
            config: &config(),
            generation: &json!({ "use_cache": true }),
            weights_in_bf16: false,
            tokenizer: how.tokenizer,
            progress: &progress(step, ranks),
            keep: how.keep,
            rank,
            ranks,
            shard_limit: how.shard_limit,
        };
        save(&s, &|r| all.agree(r))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || one(rank))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

pub fn saved(out: &Path, step: u64) -> PathBuf {
    save_on(out, step, 1, false, &PLAIN).remove(0).unwrap()
}

pub fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn sentence<T>(r: Result<T>) -> String {
    match r {
        Err(e) => e.to_string(),
        Ok(_) => panic!("expected an error"),
    }
}
