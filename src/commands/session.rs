//! Everything a training run needs, made once, in the order in which the user's mistakes are cheapest to find.
//!
//! ```text
//! settings, the same on all ranks -> corpora and the first batch -> the checkpoint to go on from -> the memory, counted
//! -> the memory, taken -> weights -> metrics.h5           nothing is written before the last
//! ```
use crate::checkpoint::{self, Keep, Moments, Progress};
use crate::comm::Network;
use crate::commands::attention;
use crate::commands::cli::VERSION;
use crate::commands::count;
use crate::commands::energy::Meter;
use crate::commands::eval::Evaluator;
use crate::commands::gauge::Gauge;
use crate::commands::gpu;
use crate::commands::kernels;
use crate::commands::output::Output;
use crate::commands::room;
use crate::commands::{check_file, check_json};
use crate::config::{Init, Resume, Run, Source};
use crate::data::{Data, Loader, Order, Reading, Share};
use crate::device::{Device, Memory, Rounding, cuda};
use crate::error::{Error, Result};
use crate::launch::{self, Launch, slurm};
use crate::metrics::{self, Console, EvalSet, MetricsFile, Start};
use crate::model::Decoder;
use crate::optim::{self, AdamW};
use crate::parallel::{self, Stage};
use crate::tensor::Tensor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What the loop works with.
pub struct Session {
    // Before the device, whose stream it uses.
    pub network: Option<Network>,
    pub dev: Device,
    pub model: Decoder,
    pub optim: AdamW,
    pub schedule: optim::Schedule,
    pub stage: Stage,
    pub data: Arc<Data>,
    pub share: Share,
    pub evals: Vec<Evaluator>,
    /// Steps that a checkpoint had completed, and those of the whole run.
    pub from: u64,
    pub steps: u64,
    /// Samples that the checkpoint had consumed: `from` global batches, or others if their size has changed since.
    samples: u64,
    /// A hash of the corpora.
    corpus: String,
    pub tokenizer: Option<PathBuf>,
}

/// The corpora of a run, opened and looked at.
struct Opened {
    data: Arc<Data>,
    evals: Vec<Evaluator>,
    first: Vec<EvalSet>,
    tokenizer: Option<PathBuf>,
}

impl Session {
    /// Errors: `Input`, the same on every rank: what the user gave cannot be used, or what it takes is not here.
    pub fn open(run: &mut Run, launch: &Launch) -> Result<(Session, Output)> {
        Session::make(run, launch).map_err(Error::before_work)
    }

    fn make(run: &mut Run, launch: &Launch) -> Result<(Session, Output)> {
        if run.batch.most {
            room::settle_micro_batch(run, launch)?;
        }
        launch.agree(run.validate_for(launch.size()))?;
        launch.same_everywhere("the program's version", VERSION)?;
        launch.same_everywhere("the configuration", &run.to_toml())?;
        let run = &*run;
        let writable = || {
            checkpoint::check_writable("--out", &run.train.out)?;
            check_json(run.log.json.as_ref())?;
            check_file("--mllog", run.log.mllog.as_ref())
        };
        launch.agree(if launch.leads() { writable() } else { Ok(()) })?;

        log::debug!("{} threads on cores {} of {}", launch.threads, launch::cores::list(&launch.cores), launch.host());

        launch::phase("reading the corpus");
        let clock = Instant::now();
        let share = Share {
            rank: launch.rank(),
            ranks: launch.size(),
            micro_batch: run.batch.micro_batch,
            global_batch: run.global_batch(),
        };
        let resumed = resume_from(run, launch)?;
        let from = resumed.as_ref().map_or(0, |(_, p)| p.step);
        let samples = resumed.as_ref().map_or(0, |(_, p)| p.samples);
        let Opened { data, evals, first, tokenizer } = launch.agree(open_corpora(run, launch, share, samples))?;
        let corpus = format!("{:016x}", data.fingerprint());
        launch.same_everywhere("the corpus", &corpus)?;
        if let Some((dir, progress)) = &resumed
            && progress.corpus != corpus
            && launch.leads()
        {
            log::warn!("the corpus is not the one that {} was trained on; samples are counted on in the new one", dir.display());
        }
        if run.data.check {
            let checked = launch.agree(data.scan(launch.rank(), launch.size()))?;
            let all: f64 = launch.comm().exchange(&[checked as f64]).iter().map(|n| n[0]).sum();
            if launch.leads() {
                log::info!("{} tokens were read: all are of the vocabulary", metrics::units::thousands(all as u64));
            }
        }
        let steps = launch.agree(run.steps(data.windows().unwrap_or(u64::MAX / 2)))?;
        let changed = resumed.as_ref().and_then(|(_, progress)| changed_since(run, &progress.config));
        let corpus_seconds = clock.elapsed().as_secs_f64();

        launch::phase("laying out the model");
        let clock = Instant::now();
        let gpu = gpu::choose(run, launch)?;
        let lay_out = if gpu.is_some() { count::lay_out_on_gpu } else { count::lay_out };
        let (plan, model, optim, stage) = lay_out(run, launch.rank(), launch.size());
        let had = resumed.as_ref().and_then(|(_, progress)| progress.attention.as_ref());
        let gpu = gpu.map(|gpu| gpu.with_attention(run, launch, &model, had)).transpose()?;
        if gpu.is_none() {
            room::check(run, launch, &count::memory_rows(&plan, &model, launch.size(), 1, launch.threads))?;
        }
        let front = if gpu.is_some() { None } else { shared_memory(run, launch, count::front(&plan, &model)) };
        let near = if front.is_some() { launch.local_size } else { 1 };
        let by_name = || gpu.as_ref().and_then(|gpu| cuda::peak_tflops(gpu.name(), run.system.precision));
        let peak_tflops = run.system.peak_tflops.or_else(by_name);
        let console = Console::new(from, steps, run.log.every, run.log.quiet || !launch.leads(), peak_tflops);
        let (products, rows) = match &gpu {
            None => {
                let products = launch.agree(kernels::choose(run.system.precision, Some(launch.comm())))?;
                (products, count::memory_rows(&plan, &model, launch.size(), near, launch.threads))
            }
            Some(gpu) => (gpu.words.clone(), gpu.rows(run, &plan, &model)),
        };
        let seats = gpu.as_ref().map_or(&[][..], |gpu| &gpu.seats);
        introduce(run, launch, &console, &data, &model, seats, &rows, &products, from, steps, changed.as_deref());

        let dev = match &gpu {
            None => Device::cpu_in(front, &plan, launch.threads, launch.own_cores(), run.system.precision),
            Some(gpu) => gpu.open(run, launch, &plan, &model),
        };
        let mut dev = launch.agree(dev)?;
        if run.optim.stochastic_rounding {
            dev.round_at_random(Rounding::new(run.train.seed, model.groups().iter().map(|g| &g.weights)));
        }
        let network = gpu.as_ref().map(|gpu| gpu.network(run, launch)).transpose()?.flatten();
        let stored = resumed.as_ref().map(|(_, progress)| progress);
        dev.begin_after(from);
        dev.install(|| gpu::choose_products(launch, &dev, &model, stored));
        dev.install(|| fill(run, launch, &dev, &model, &optim, stage, resumed.as_ref().map(|(dir, _)| dir)))?;
        let model_seconds = clock.elapsed().as_secs_f64();

        let device = gpu.as_ref().map_or("cpu".into(), |gpu| gpu.name().to_string());
        let meter = Meter::start(launch, &dev);
        let start = Start {
            energy_of: meter.of().into(),
            peak_tflops,
            ..start_record(run, launch, &model, steps, corpus_seconds, model_seconds)
        };
        let continues = resumed.is_some().then_some(from);
        let metrics = launch.agree(
            launch
                .leads()
                .then(|| open_metrics(run, launch, &device, seats, &start, &first, continues, changed.as_deref()))
                .transpose(),
        )?;
        let o = &run.optim;
        let schedule = optim::Schedule { curve: o.schedule, lr: o.lr, min_lr: o.min_lr, warmup: run.warmup_steps(steps), steps };
        let session =
            Session { network, dev, model, optim, schedule, stage, data, share, evals, from, steps, samples, corpus, tokenizer };
        let gauge = if launch.leads() { Gauge::of(&session.dev) } else { None };
        let memory = metrics::memory::Sampler::start(launch.comm().views());
        Ok((session, Output { console, metrics, mllog: None, memory, meter, gauge, rows }))
    }

    /// The rows of a step on this rank, read ahead from where the run stands.
    pub fn loader(&self) -> Result<Loader> {
        Loader::start(self.data.clone(), self.share, self.samples)
    }

    /// So many steps more, from where the last ones ended.
    pub fn go_on(&mut self, steps: u64) {
        self.samples = self.consumed(self.steps);
        (self.from, self.steps) = (self.steps, self.steps + steps);
    }

    /// Samples consumed when `step` steps are done.
    pub fn consumed(&self, step: u64) -> u64 {
        self.samples + (step - self.from) * self.share.global_batch as u64
    }

    /// Writes the checkpoint of `step`, by all ranks together.
    pub fn save(&self, run: &Run, launch: &Launch, step: u64) -> Result<PathBuf> {
        let samples = self.consumed(step);
        let progress = Progress {
            format: checkpoint::FORMAT,
            program: VERSION.into(),
            step,
            samples,
            tokens: samples * self.data.seq() as u64,
            seed: run.train.seed,
            ranks: launch.size(),
            corpus: self.corpus.clone(),
            config: run.to_toml(),
            products: gpu::products(&self.dev),
            products_of: gpu::products_of(&self.dev),
            attention: attention::attended(&self.dev),
        };
        let save = checkpoint::Save {
            out: &run.train.out,
            dev: &self.dev,
            parameters: self.model.parameters(),
            groups: self.model.groups(),
            moments: &moments(&self.optim),
            config: &config_json(run),
            weights_in_bf16: run.system.weights_bf16,
            generation: &run.model.config.generation_config(),
            tokenizer: self.tokenizer.as_deref(),
            progress: &progress,
            keep: Keep { newest: run.checkpoint.keep, every: run.checkpoint.keep_every },
            rank: launch.rank(),
            ranks: launch.size(),
            shard_limit: checkpoint::SHARD_LIMIT,
        };
        checkpoint::save(&save, &|result| launch.agree(result))
    }

    /// Weights and moments from the checkpoint `dir`, as a run that goes on from it reads them.
    pub fn read_back(&self, run: &Run, launch: &Launch, dir: PathBuf) -> Result<()> {
        fill(run, launch, &self.dev, &self.model, &self.optim, self.stage, Some(&dir))
    }
}

/// `config.json`, with the type in which weights are saved.
fn config_json(run: &Run) -> serde_json::Value {
    run.model.config.to_hf_in(if run.system.weights_bf16 { "bfloat16" } else { "float32" })
}

/// Adam's moments as a checkpoint wants them.
fn moments(optim: &AdamW) -> Vec<Moments> {
    optim.parts().iter().map(|p| Moments { owned: p.owned.weights.clone(), m: p.m, v: p.v }).collect()
}

/// The checkpoint to go on from: rank 0 looks, all use what it found.
fn resume_from(run: &Run, launch: &Launch) -> Result<Option<(PathBuf, Progress)>> {
    let found = || -> Result<Option<PathBuf>> {
        match &run.checkpoint.resume {
            Resume::Never => Ok(None),
            Resume::Auto => checkpoint::newest(&run.train.out),
            Resume::From(dir) => checkpoint::check_complete(dir).map(|()| Some(dir.clone())),
        }
    };
    let dir = launch.agree(if launch.leads() { found() } else { Ok(None) })?;
    let name = dir.map_or(String::new(), |d| d.display().to_string());
    let name = launch.comm().broadcast(name.into_bytes(), 0);
    let dir = String::from_utf8_lossy(&name).into_owned();
    if dir.is_empty() {
        return Ok(None);
    }
    let dir = PathBuf::from(dir);
    let read = || -> Result<Progress> {
        let in_bf16 = checkpoint::same_model(&dir, &config_json(run))?;
        let progress = checkpoint::read_progress(&dir)?;
        if progress.seed != run.train.seed {
            let (name, at) = (run.settings.named("train.seed"), dir.display());
            crate::bad_input!("{name}: expected {}, that of {at}, found {}", progress.seed, run.train.seed);
        }
        if in_bf16 != run.system.weights_bf16 && launch.leads() {
            let (was, is) = if in_bf16 { ("bf16", "f32") } else { ("f32", "bf16, rounded to nearest") };
            log::warn!("{}: its weights are {was}; this run goes on with them in {is}", dir.display());
        }
        Ok(progress)
    };
    let progress = launch.agree(read())?;
    Ok(Some((dir, progress)))
}

/// Memory for weights and gradients that the other ranks of the node can read, where that is asked for. Without it everything goes by
/// message.
fn shared_memory(run: &Run, launch: &Launch, elements: usize) -> Option<Memory> {
    if !run.system.shared_sums || launch.size() == 1 {
        return None;
    }
    let front = launch.comm().share(elements);
    let why = front.as_ref().err().filter(|_| launch.local_size > 1).map_or(String::new(), ToString::to_string);
    let all = launch.comm().gather(why.as_bytes());
    if let (true, Some(rank)) = (launch.leads(), all.iter().position(|why| !why.is_empty())) {
        let (host, why) = (&launch.ranks[rank].host, String::from_utf8_lossy(&all[rank]));
        log::warn!("the ranks on {host} send each other messages, for they cannot read each other's memory: {why}");
    }
    front.ok()
}

/// First values for weights and moments: drawn, or read. One rank reads what all hold; moments that the ranks divide are read
/// by their owners.
fn fill(
    run: &Run,
    launch: &Launch,
    dev: &Device,
    model: &Decoder,
    optim: &AdamW,
    stage: Stage,
    resumed: Option<&PathBuf>,
) -> Result<()> {
    dev.clear(model.groups().iter().map(|g| g.weights.clone()));
    dev.clear(optim.parts().iter().flat_map(|p| [p.m, p.v]).map(|t| t.at..t.end()));
    model.prepare(dev);
    let dir = match (resumed, &run.model.init) {
        (Some(dir), _) | (None, Init::Pretrained(dir)) => dir,
        (None, Init::Random) => {
            model.init(dev, run.train.seed);
            return Ok(());
        }
    };
    let first = |read: &dyn Fn() -> Result<()>| launch.agree(if launch.leads() { read() } else { Ok(()) });
    first(&|| checkpoint::load_weights(dir, dev, model.parameters()))?;
    for g in model.groups() {
        parallel::spread(dev, launch.comm(), Tensor::range(g.weights.start, g.weights.end));
    }
    let read = || checkpoint::load_optimizer(dir, dev, model.parameters(), &moments(optim));
    match stage {
        _ if resumed.is_none() => Ok(()),
        Stage::Optimizer => launch.agree(read()),
        Stage::Replicate => {
            first(&read)?;
            optim.parts().iter().flat_map(|p| [p.m, p.v]).for_each(|t| parallel::spread(dev, launch.comm(), t));
            Ok(())
        }
    }
}

/// Opens all corpora and reads the first batch, so that what is wrong with them is known before any work is spent.
fn open_corpora(run: &Run, launch: &Launch, share: Share, samples: u64) -> Result<Opened> {
    let config = &run.model.config;
    config.validate(run.batch.seq_len)?;
    let reading = Reading {
        seq: run.batch.seq_len,
        vocab: config.vocab,
        width: None,
        eos: config.eos.first().copied(),
        reset_attention: run.data.reset_attention,
    };
    let order = Order::Shuffled { seed: run.train.seed };
    let data = match &run.data.source {
        Source::Synthetic => Data::synthetic(run.train.seed, &Reading { vocab: run.data.synthetic_vocab, ..reading }),
        Source::Corpora(corpora) => Data::open(&specs(corpora, order, &reading)?, order, &reading)?,
    };
    data.batch(samples, 0, &share)?;
    let beside = || match &run.data.source {
        Source::Corpora(corpora) => corpora.iter().find_map(|c| crate::data::tokenizer_of(&c.path)),
        Source::Synthetic => None,
    };
    let tokenizer = run.data.tokenizer.clone().or_else(beside);
    if let Some(missing) = tokenizer.as_ref().filter(|t| !t.is_file()) {
        crate::bad_input!("--tokenizer (data.tokenizer): expected a tokenizer.json, found no file {}", missing.display());
    }
    let reading = Reading { reset_attention: false, ..reading };
    let eval_share = Share { global_batch: share.ranks * share.micro_batch, ..share };
    let open = |path: &PathBuf| Evaluator::open(path, &reading, tokenizer.as_deref(), eval_share, run.eval.batches);
    let mut evals = run.data.val.iter().map(open).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = evals.iter().map(|e| e.name.clone()).collect();
    for (e, path) in evals.iter_mut().zip(&run.data.val) {
        // Files of one name in several folders.
        if names.iter().filter(|name| **name == e.name).count() > 1 {
            e.name = path.display().to_string();
        }
    }
    evals.iter().try_for_each(Evaluator::check)?;
    let set = |e: &Evaluator| Ok(EvalSet { name: e.name.clone(), bytes_per_token: e.bytes_per_token()? });
    let first = if launch.leads() { evals.iter().map(set).collect::<Result<Vec<_>>>()? } else { vec![] };
    Ok(Opened { data: Arc::new(data), evals, first, tokenizer })
}

/// `path:weight` of each corpus. Without weights every window comes once an epoch, as if the corpora were one.
fn specs(corpora: &[crate::config::Corpus], order: Order, reading: &Reading) -> Result<Vec<String>> {
    let paths: Vec<String> = corpora.iter().map(|c| c.path.display().to_string()).collect();
    let mut weights: Vec<f64> = corpora.iter().filter_map(|c| c.weight).collect();
    if weights.len() < paths.len() {
        let lengths = Data::open(&paths, order, reading)?;
        weights = lengths.corpora().iter().map(|c| ((c.len() - 1) / reading.seq as u64) as f64).collect();
    }
    Ok(paths.iter().zip(weights).map(|(path, weight)| format!("{path}:{weight}")).collect())
}

/// What is not as in the run that is gone on with, in words.
fn changed_since(run: &Run, before: &str) -> Option<String> {
    let changed = run.settings.changed_since(before)?;
    (!changed.is_empty()).then(|| format!("changed since then: {}", changed.join(", ")))
}

/// What is said before the first step.
fn introduce(
    run: &Run,
    launch: &Launch,
    console: &Console,
    data: &Data,
    model: &Decoder,
    seats: &[launch::Seat],
    rows: &[(&'static str, u64)],
    products: &str,
    from: u64,
    steps: u64,
    changed: Option<&str>,
) {
    if !launch.leads() {
        return;
    }
    console.say(&format!("llm-train {VERSION}\n\n# configuration\n{}", run.describe()));
    run.model.notes.iter().for_each(|note| console.say(&format!("note: {note}")));
    console.say(&launch.table(seats));
    console.say(products);
    console.say(&format!("numerics: {}", run.numerics()));
    launch.warnings(seats).iter().for_each(|warning| log::warn!("{warning}"));
    data.describe().iter().for_each(|line| console.say(&format!("corpus {line}")));
    console.say(&format!("\n{}\n{}", count::parameter_table(model), metrics::memory::table(rows, None)));
    let going_on = if from > 0 { format!(", going on after step {from}") } else { String::new() };
    console.say(&format!("{} of {} tokens{going_on}", metrics::units::count(steps, "step"), run.tokens_per_step()));
    if let Some(changed) = changed {
        console.say(changed);
    }
}

fn start_record(run: &Run, launch: &Launch, model: &Decoder, steps: u64, corpus: f64, filled: f64) -> Start {
    let flops = run.model.config.flops_per_token(run.batch.seq_len);
    let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    Start {
        steps,
        configuration: run.to_toml(),
        version: env!("CARGO_PKG_VERSION").into(),
        revision: env!("LLM_TRAIN_BUILT_FROM").into(),
        command_line: std::env::args().collect::<Vec<_>>().join(" "),
        hosts: launch.hosts().join(","),
        mpi: launch.library.clone(),
        slurm_job: slurm::job().unwrap_or_default(),
        parameters: model.parameters().iter().map(|p| p.shape.iter().product::<usize>() as u64).sum(),
        numerics: run.numerics(),
        flops_per_token_full: flops.full,
        flops_per_token_causal: flops.causal,
        launch: slurm::start_time().map(|job| (began - launch.elapsed() - job as f64).max(0.0)),
        mpi_init: launch.init_seconds,
        corpus,
        model: filled,
        ..Start::default()
    }
}

fn open_metrics(
    run: &Run,
    launch: &Launch,
    device: &str,
    seats: &[launch::Seat],
    start: &Start,
    evals: &[EvalSet],
    resumed: Option<u64>,
    changed: Option<&str>,
) -> Result<MetricsFile> {
    let out: &Path = &run.train.out;
    std::fs::create_dir_all(out).map_err(|e| Error::Failed(format!("{}: cannot be made: {e}", out.display())))?;
    let rank = |(rank, p): (usize, &launch::Place)| metrics::Rank {
        rank: rank as u64,
        host: p.host.clone(),
        device: device.to_string(),
        cores: launch::cores::list(&p.cores),
        threads: p.threads as u64,
        pid: p.pid,
    };
    let ranks: Vec<metrics::Rank> = launch.ranks.iter().enumerate().map(rank).collect();
    let mut file = MetricsFile::open(&out.join("metrics.h5"), start, &ranks, evals, resumed)?;
    changed.map_or(Ok(()), |changed| file.event(resumed.unwrap_or(0), changed))?;
    launch.warnings(seats).iter().try_for_each(|text| file.event(resumed.unwrap_or(0), &format!("warning: {text}")))?;
    Ok(file)
}
