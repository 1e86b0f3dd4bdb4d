//! Checkpoints from outside: N ranks write, M read; a save that is cut off, a disk that fills up, files that are wrong.
//!
//! The ranks are threads, each with a device of its own; the model is a toy with everything that can go wrong in it:
//! padded vocabulary rows, views of one packed matrix, a transposed tensor, vectors, groups shorter than their padding.
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

const C: usize = 8;
const VOCAB: usize = 37;

/// One rank's model: where everything lies when `ranks` share the groups.
struct Toy {
    dev: Device,
    parameters: Vec<Parameter>,
    groups: Vec<Group>,
    moments: Vec<Moments>,
}

impl Toy {
    fn new(rank: usize, ranks: usize, zero: bool) -> Toy {
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
        Toy { dev: Device::cpu(&p, 1, Precision::Fp32).unwrap(), parameters, groups, moments }
    }

    /// Gives every weight and every moment a value of its own.
    fn fill(&self) {
        for p in &self.parameters {
            self.dev.write(p.weights, &self.expected(p, 'w'));
        }
        for own in &self.moments {
            self.dev.write(own.m, &self.expected_moments(own, 'm'));
            self.dev.write(own.v, &self.expected_moments(own, 'v'));
        }
    }
    fn expected(&self, p: &Parameter, kind: char) -> Vec<f32> {
        let mark = p.name.bytes().fold(kind as u32, |h, b| h.wrapping_mul(31).wrapping_add(b as u32)) % 1000;
        (0..p.weights.len()).map(|i| mark as f32 + i as f32 / 1024.0).collect()
    }
    /// The moments of what is owned; padding has none.
    fn expected_moments(&self, own: &Moments, kind: char) -> Vec<f32> {
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
    fn assert_filled(&self, what: &str) {
        for p in &self.parameters {
            assert_eq!(self.dev.read(p.weights), self.expected(p, 'w'), "{what}: {}", p.name);
        }
        for own in &self.moments {
            assert_eq!(self.dev.read(own.m), self.expected_moments(own, 'm'), "{what}: m of {:?}", own.owned);
            assert_eq!(self.dev.read(own.v), self.expected_moments(own, 'v'), "{what}: v of {:?}", own.owned);
        }
    }
}

fn progress(step: u64, ranks: usize) -> Progress {
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
    }
}

fn config() -> Value {
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
struct How<'a> {
    keep: Keep,
    shard_limit: u64,
    tokenizer: Option<&'a Path>,
    /// Where the ranks after the first write.
    others: Option<&'a Path>,
}

const PLAIN: How<'static> =
    How { keep: Keep { newest: 100, every: None }, shard_limit: SHARD_LIMIT, tokenizer: None, others: None };

/// Saves the toy from `ranks` threads.
fn save_on(out: &Path, step: u64, ranks: usize, zero: bool, how: &How) -> Vec<Result<PathBuf>> {
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

fn saved(out: &Path, step: u64) -> PathBuf {
    save_on(out, step, 1, false, &PLAIN).remove(0).unwrap()
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn sentence<T>(r: Result<T>) -> String {
    match r {
        Err(e) => e.to_string(),
        Ok(_) => panic!("expected an error"),
    }
}

#[test]
fn any_number_of_ranks_reads_what_another_number_wrote() {
    for (writers, zero) in [(4, true), (4, false), (3, true), (1, false), (7, true)] {
        let out = tempfile::tempdir().unwrap();
        let dirs = save_on(out.path(), 5, writers, zero, &How { shard_limit: 1300, ..PLAIN });
        let dir = dirs[0].clone().unwrap();
        assert!(dirs.iter().all(|d| d.as_ref().unwrap() == &dir));
        check_complete(&dir).unwrap();
        assert_eq!(read_progress(&dir).unwrap(), progress(5, writers));
        let written: u64 =
            listing(&dir).iter().filter(|f| f.starts_with("optimizer")).map(|f| fs::metadata(dir.join(f)).unwrap().len()).sum();
        let weights: u64 = Toy::new(0, 1, false).parameters.iter().map(|p| p.weights.len() as u64).sum();
        assert!(written < 8 * weights + 2000 * writers as u64, "{written} bytes of moments for {weights} weights");
        for (readers, zero) in [(1, false), (2, false), (2, true), (3, true), (4, true), (11, true)] {
            for rank in 0..readers {
                let toy = Toy::new(rank, readers, zero);
                load_weights(&dir, &toy.dev, &toy.parameters).unwrap();
                load_optimizer(&dir, &toy.dev, &toy.parameters, &toy.moments).unwrap();
                toy.assert_filled(&format!("{writers} wrote, rank {rank} of {readers} reads"));
            }
        }
    }
}

#[test]
fn shards_and_index_are_those_of_hugging_face() {
    let out = tempfile::tempdir().unwrap();
    let dir = save_on(out.path(), 1, 2, false, &How { shard_limit: 3000, ..PLAIN }).remove(0).unwrap();
    let index: Value = serde_json::from_slice(&fs::read(dir.join("model.safetensors.index.json")).unwrap()).unwrap();
    let parameters = Toy::new(0, 1, false).parameters;
    let total: usize = parameters.iter().map(|p| p.weights.len()).sum();
    assert_eq!(index["metadata"], json!({ "total_parameters": total, "total_size": 4 * total }));
    let files: Vec<_> = listing(&dir).into_iter().filter(|f| f.starts_with("model-")).collect();
    assert_eq!(
        files,
        ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"]
    );
    for p in &parameters {
        let source = Source::open(&dir.join(index["weight_map"][&p.name].as_str().unwrap())).unwrap();
        assert_eq!(source.info(&p.name).unwrap().shape, p.shape);
        assert_eq!(source.metadata("format"), Some("pt"));
    }
}

#[test]
fn a_save_that_was_cut_off_is_never_read_and_is_swept_away() {
    let out = tempfile::tempdir().unwrap();
    assert_eq!(newest(out.path()).unwrap(), None);
    let first = saved(out.path(), 10);
    let left = out.path().join("checkpoints/step-00000020.partial");
    fs::create_dir(&left).unwrap();
    fs::copy(first.join("model.safetensors"), left.join("model.safetensors")).unwrap();
    assert_eq!(newest(out.path()).unwrap(), Some(first.clone()));
    // Killed between list and rename: even with the list it does not bear the name.
    fs::copy(first.join("complete"), left.join("complete")).unwrap();
    assert_eq!(newest(out.path()).unwrap(), Some(first));
    let next = saved(out.path(), 15);
    assert_eq!(listing(&out.path().join("checkpoints")), ["latest", "step-00000010", "step-00000015"]);
    assert_eq!(newest(out.path()).unwrap(), Some(next));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_named() {
    let out = tempfile::tempdir().unwrap();
    let (first, second) = (saved(out.path(), 1), saved(out.path(), 2));
    let file = second.join("optimizer-00001-of-00001.safetensors");
    let length = fs::metadata(&file).unwrap().len();
    fs::File::options().write(true).open(&file).unwrap().set_len(length - 1).unwrap();
    assert_eq!(newest(out.path()).unwrap(), Some(first.clone()));
    let said = sentence(check_complete(&second));
    assert_eq!(said, format!("{}: expected {length} bytes, found {}", file.display(), length - 1));
    fs::remove_file(first.join("complete")).unwrap();
    assert_eq!(newest(out.path()).unwrap(), None);
}

#[test]
fn old_ones_go_only_as_asked() {
    let out = tempfile::tempdir().unwrap();
    let keep = Keep { newest: 2, every: Some(30) };
    for step in [10, 20, 30, 40, 50, 60, 70] {
        save_on(out.path(), step, 2, true, &How { keep, ..PLAIN }).remove(0).unwrap();
        let root = out.path().join("checkpoints");
        assert_eq!(fs::read_link(root.join("latest")).unwrap(), PathBuf::from(format!("step-{step:08}")));
    }
    let names = ["latest", "step-00000030", "step-00000060", "step-00000070"];
    assert_eq!(listing(&out.path().join("checkpoints")), names);
    // A run that went back writes a step again, and one below those that are there: what was just written stays.
    save_on(out.path(), 60, 1, false, &How { keep, ..PLAIN }).remove(0).unwrap();
    let back = save_on(out.path(), 45, 1, false, &How { keep: Keep { newest: 1, every: None }, ..PLAIN }).remove(0).unwrap();
    assert_eq!(listing(&out.path().join("checkpoints")), ["latest", "step-00000045", "step-00000070"]);
    check_complete(&back).unwrap();
}

#[test]
fn one_ranks_failure_is_everyones() {
    let out = tempfile::tempdir().unwrap();
    let first = saved(out.path(), 1);
    let nowhere = out.path().join("nowhere.json");
    for result in save_on(out.path(), 2, 3, true, &How { tokenizer: Some(&nowhere), ..PLAIN }) {
        let Err(Error::Failed(said)) = result else { panic!("{result:?}") };
        assert!(said.contains("nowhere.json: expected the tokenizer to copy"), "{said}");
        assert!(said.contains("step 2") && said.contains("earlier checkpoints are whole"), "{said}");
    }
    assert_eq!(listing(&out.path().join("checkpoints")), ["latest", "step-00000001"]);
    assert_eq!(newest(out.path()).unwrap(), Some(first));
}

/// A rank that writes to a disk of its own: its files are missing where rank 0 looks.
#[test]
fn a_folder_that_is_not_shared_is_noticed() {
    let (out, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let private = elsewhere.path().to_owned();
    fs::create_dir_all(private.join("checkpoints/step-00000003.partial")).unwrap();
    let results = save_on(out.path(), 3, 2, true, &How { others: Some(elsewhere.path()), ..PLAIN });
    let said = sentence(results[1].clone());
    assert!(said.contains("optimizer-00002-of-00002.safetensors: expected a file that a rank has written"), "{said}");
    assert!(said.contains("do all ranks share --out?"), "{said}");
}

/// Fills a small file system, in a child that has one of its own; where the system gives none, a limit on the length of
/// files stands in.
#[test]
fn a_full_disk_leaves_the_previous_checkpoint_whole() {
    const MARK: &str = "LLM_TRAIN_TEST_SMALL_DISK";
    if let Ok(out) = std::env::var(MARK) {
        let out = Path::new(&out);
        let first = newest(out).unwrap().unwrap_or_else(|| saved(out, 1));
        let filler = fs::write(out.join("filler"), vec![1; 24_000]);
        for step in [2, 3] {
            // The second time with the folder of the first swept away or not: nothing may pile up.
            let Err(Error::Failed(said)) = save_on(out, step, 2, true, &PLAIN).remove(0) else { panic!("it fitted") };
            println!("{said} (filler: {filler:?})");
            assert!(said.contains(" bytes written, then: "), "{said}");
            assert_eq!(newest(out).unwrap(), Some(first.clone()));
            assert_eq!(listing(&out.join("checkpoints")), ["latest", "step-00000001"]);
        }
        let toy = Toy::new(0, 1, false);
        load_weights(&first, &toy.dev, &toy.parameters).unwrap();
        load_optimizer(&first, &toy.dev, &toy.parameters, &toy.moments).unwrap();
        return toy.assert_filled("after the disk was full");
    }
    let out = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let child = |shell: &[&str], script: &str| {
        let test = "a_full_disk_leaves_the_previous_checkpoint_whole";
        let mut command = std::process::Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", script, "sh"]).arg(&me).args(["--exact", test, "--nocapture"]);
        command.env(MARK, out.path()).output()
    };
    let tmpfs = "mount -t tmpfs -o size=80k none \"$LLM_TRAIN_TEST_SMALL_DISK\" || exit 77; exec \"$@\"";
    let own = child(&["unshare", "-rm", "sh"], tmpfs);
    let run = match own {
        Ok(run) if run.status.code() != Some(77) && !String::from_utf8_lossy(&run.stderr).contains("unshare") => run,
        // 2 or 4 KiB by the shell's blocks: too little for the first checkpoint, which is therefore made here.
        _ => {
            saved(out.path(), 1);
            child(&["sh"], "trap '' XFSZ; ulimit -f 4; exec \"$@\"").unwrap()
        }
    };
    let text = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
}
