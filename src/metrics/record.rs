//! The rows of `metrics.h5`, and what each column means: the long names here are what a reader of the file sees.
use super::table::Column;
use super::table::Value::{Integer, Line, Real, Text};

/// One optimizer step. Times are wall-clock seconds on rank 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepRecord {
    /// Steps completed, this one included.
    pub step: u64,
    /// Tokens consumed by all ranks since the run's first step, this step's included.
    pub tokens: u64,
    /// Mean over the global batch's targets, before the update, in nats per token.
    pub loss: f64,
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    pub step_time: f64,
    pub data_time: f64,
    pub forward_time: f64,
    pub backward_time: f64,
    pub comm_exposed_time: f64,
    pub optimizer_time: f64,
    /// Of all ranks together; see [`StepRecord::with_rates`].
    pub tokens_per_second: f64,
    /// Per device, attention counted full; see [`StepRecord::with_rates`].
    pub tflops: f64,
    /// Bytes, rank 0: the highest RssAnon + RssShmem seen since the program started.
    pub memory: u64,
    /// Joules of what `/starts/energy_of` names, of all ranks together; `None` where counters cannot be read.
    pub energy: Option<f64>,
    pub gpu: GpuReading,
}

/// Rank 0's GPU, as it was looked at last; `None`: there is none, or it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuReading {
    /// Watts.
    pub power: Option<f64>,
    /// MHz.
    pub clock: Option<f64>,
    /// Bytes in use by anyone, the most that was seen.
    pub memory: Option<f64>,
}

impl StepRecord {
    /// Fills in the two rates from this step's time:
    ///
    /// ```text
    /// tokens_per_second = step_tokens / step_time
    /// tflops            = flops_per_token · tokens_per_second / devices / 10¹²
    /// ```
    pub fn with_rates(mut self, step_tokens: u64, flops_per_token: f64, devices: usize) -> StepRecord {
        self.tokens_per_second = step_tokens as f64 / self.step_time;
        self.tflops = flops_per_token * self.tokens_per_second / devices as f64 / 1e12;
        self
    }
}

/// `/train`.
pub(super) const STEP: &[Column<StepRecord>] = &[
    Column {
        name: "step",
        units: "1",
        long_name: "optimizer steps completed, this one included (1 for the first)",
        value: Integer(|r| r.step as i64, |r, v| r.step = v as u64),
    },
    Column {
        name: "tokens",
        units: "token",
        long_name: "tokens consumed by all ranks together since the run's first step, this step's included",
        value: Integer(|r| r.tokens as i64, |r, v| r.tokens = v as u64),
    },
    Column {
        name: "loss",
        units: "nat/token",
        long_name: "training loss: cross entropy, mean over all targets of the global batch, with the weights before this step's update",
        value: Real(|r| r.loss, |r, v| r.loss = v),
    },
    Column {
        name: "lr",
        units: "1",
        long_name: "learning rate that this step's update used",
        value: Real(|r| r.lr, |r, v| r.lr = v),
    },
    Column {
        name: "grad_norm",
        units: "1",
        long_name: "L2 norm of the gradient over all parameters, averaged over the global batch, before clipping",
        value: Real(|r| r.grad_norm, |r, v| r.grad_norm = v),
    },
    Column {
        name: "step_time",
        units: "s",
        long_name: "wall-clock time of the step on rank 0: from asking for its first batch to the end of its update; evaluation and checkpoints are not in it",
        value: Real(|r| r.step_time, |r, v| r.step_time = v),
    },
    Column {
        name: "data_time",
        units: "s",
        long_name: "part of step_time in which rank 0 waited for batches",
        value: Real(|r| r.data_time, |r, v| r.data_time = v),
    },
    Column {
        name: "forward_time",
        units: "s",
        long_name: "part of step_time in forward passes on rank 0, summed over the micro-batches",
        value: Real(|r| r.forward_time, |r, v| r.forward_time = v),
    },
    Column {
        name: "backward_time",
        units: "s",
        long_name: "part of step_time in backward passes on rank 0 (recomputation included), summed over the micro-batches",
        value: Real(|r| r.backward_time, |r, v| r.backward_time = v),
    },
    Column {
        name: "comm_exposed_time",
        units: "s",
        long_name: "part of step_time in which rank 0 did nothing but wait for communication: what computation did not hide",
        value: Real(|r| r.comm_exposed_time, |r, v| r.comm_exposed_time = v),
    },
    Column {
        name: "optimizer_time",
        units: "s",
        long_name: "part of step_time in clipping and the update of the weights on rank 0",
        value: Real(|r| r.optimizer_time, |r, v| r.optimizer_time = v),
    },
    Column {
        name: "tokens_per_second",
        units: "token/s",
        long_name: "tokens of this step over all ranks (the difference of /train/tokens) divided by step_time",
        value: Real(|r| r.tokens_per_second, |r, v| r.tokens_per_second = v),
    },
    Column {
        name: "tflops",
        units: "TFLOP/s",
        long_name: "model FLOP/s per device, attention counted full: /starts/flops_per_token_full * tokens_per_second / /starts/ranks / 1e12; recomputation is not counted",
        value: Real(|r| r.tflops, |r, v| r.tflops = v),
    },
    Column {
        name: "memory",
        units: "byte",
        long_name: "host memory of rank 0: highest RssAnon + RssShmem of /proc/self/status seen since the program started (sampled; mapped files are not in it)",
        value: Integer(|r| r.memory as i64, |r, v| r.memory = v as u64),
    },
    Column {
        name: "energy",
        units: "J",
        long_name: "energy of all that /starts/energy_of names, of all ranks together, from where the step before was settled to where this one was; NaN where a counter cannot be read",
        value: Real(|r| r.energy.unwrap_or(f64::NAN), |r, v| r.energy = known(v)),
    },
    Column {
        name: "gpu_power",
        units: "W",
        long_name: "power of rank 0's GPU by NVML, looked at once a second at most; NaN where unknown",
        value: Real(|r| r.gpu.power.unwrap_or(f64::NAN), |r, v| r.gpu.power = known(v)),
    },
    Column {
        name: "gpu_clock",
        units: "MHz",
        long_name: "clock of the multiprocessors of rank 0's GPU by NVML, looked at once a second at most; NaN where unknown",
        value: Real(|r| r.gpu.clock.unwrap_or(f64::NAN), |r, v| r.gpu.clock = known(v)),
    },
    Column {
        name: "gpu_memory",
        units: "byte",
        long_name: "memory of rank 0's GPU that is in use, by whoever, by its driver: the most seen since this start, looked at once a second at most; NaN without a GPU",
        value: Real(|r| r.gpu.memory.unwrap_or(f64::NAN), |r, v| r.gpu.memory = known(v)),
    },
];

/// One evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EvalPoint {
    pub step: u64,
    /// Mean over the evaluated targets, in nats per token.
    pub loss: f64,
    /// Mean bytes of text behind the tokens that were evaluated, where they are known: bits per byte = loss / ln 2 / this.
    pub bytes_per_token: Option<f64>,
}

/// `/eval/<name>`.
pub(super) const EVAL: &[Column<EvalPoint>] = &[
    Column {
        name: "step",
        units: "1",
        long_name: "optimizer steps completed when this evaluation ran",
        value: Integer(|r| r.step as i64, |r, v| r.step = v as u64),
    },
    Column {
        name: "loss",
        units: "nat/token",
        long_name: "held-out loss: cross entropy, mean over all evaluated targets, with the weights after that step's update",
        value: Real(|r| r.loss, |r, v| r.loss = v),
    },
    Column {
        name: "bytes_per_token",
        units: "byte/token",
        long_name: "mean bytes of text behind the tokens of this evaluation: bits per byte = loss / ln 2 / this; NaN where it is not known",
        value: Real(|r| r.bytes_per_token.unwrap_or(f64::NAN), |r, v| r.bytes_per_token = known(v)),
    },
];

/// Something that happened besides steps and evaluations: a signal, a checkpoint, a skipped update.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Seconds since 1970-01-01 UTC.
    pub time: f64,
    pub step: u64,
    pub text: String,
}

/// `/events`.
pub(super) const EVENT: &[Column<Event>] = &[
    Column {
        name: "time",
        units: "s since 1970-01-01T00:00:00Z",
        long_name: "when it happened, by rank 0's clock",
        value: Real(|r| r.time, |r, v| r.time = v),
    },
    Column {
        name: "step",
        units: "1",
        long_name: "optimizer steps completed when it happened",
        value: Integer(|r| r.step as i64, |r, v| r.step = v as u64),
    },
    Column { name: "text", units: "text", long_name: "what happened", value: Line(|r| &r.text, |r, v| r.text = v) },
];

/// Where one rank runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rank {
    pub rank: u64,
    pub host: String,
    /// `cpu`, or the GPU's name.
    pub device: String,
    /// Cores that the rank may use, as a list (`0-3,8`).
    pub cores: String,
    pub threads: u64,
    pub pid: u64,
}

/// `/ranks`.
pub(super) const RANK: &[Column<Rank>] = &[
    Column {
        name: "rank",
        units: "1",
        long_name: "rank in MPI_COMM_WORLD",
        value: Integer(|r| r.rank as i64, |r, v| r.rank = v as u64),
    },
    Column { name: "host", units: "text", long_name: "name of its host", value: Text(|r| &r.host, |r, v| r.host = v) },
    Column {
        name: "device",
        units: "text",
        long_name: "the device it computes on",
        value: Text(|r| &r.device, |r, v| r.device = v),
    },
    Column {
        name: "cores",
        units: "text",
        long_name: "cores that its affinity mask allows",
        value: Text(|r| &r.cores, |r, v| r.cores = v),
    },
    Column {
        name: "threads",
        units: "1",
        long_name: "threads it computes with",
        value: Integer(|r| r.threads as i64, |r, v| r.threads = v as u64),
    },
    Column {
        name: "pid",
        units: "1",
        long_name: "process id on its host",
        value: Integer(|r| r.pid as i64, |r, v| r.pid = v as u64),
    },
];

/// One start of the program: what ran, where, and how long it took to get going.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// Seconds since 1970-01-01 UTC; 0 lets [`super::MetricsFile::open`] fill in the present.
    pub time: f64,
    /// Steps that a checkpoint had completed before; 0 for a run that begins. Filled in by [`super::MetricsFile::open`].
    pub resumed_step: u64,
    /// Of the whole run, from its first step to its last; 0 where nobody said.
    pub steps: u64,
    /// The whole resolved configuration, in TOML: can be fed back as `--config`.
    pub configuration: String,
    pub version: String,
    /// Git revision of the source, or empty.
    pub revision: String,
    pub command_line: String,
    /// Names of the hosts, separated by commas.
    pub hosts: String,
    /// The MPI library's own version line.
    pub mpi: String,
    /// Slurm's job id, or empty.
    pub slurm_job: String,
    /// Ranks, which is devices. Filled in by [`super::MetricsFile::open`].
    pub ranks: u64,
    pub parameters: u64,
    /// Of forward and backward, with attention as if every token saw the whole sequence.
    pub flops_per_token_full: f64,
    /// The same with attention at the half that a causal mask leaves.
    pub flops_per_token_causal: f64,
    /// Peak of one device, where it is known.
    pub peak_tflops: Option<f64>,
    /// What the run's numbers are made of, in words.
    pub numerics: String,
    /// What `/train/energy` is of; empty where it is not known.
    pub energy_of: String,
    /// From the job's start, as Slurm tells it, to this program's.
    pub launch: Option<f64>,
    pub mpi_init: f64,
    pub corpus: f64,
    pub model: f64,
    /// From the program's start to the end of its first step; see [`super::MetricsFile::first_step`].
    pub first_step: Option<f64>,
}

/// Numbers that may be unknown are NaN in the file.
fn known(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}

/// `/starts`.
pub(super) const START: &[Column<Start>] = &[
    Column {
        name: "time",
        units: "s since 1970-01-01T00:00:00Z",
        long_name: "when this start of the program opened the file, by rank 0's clock",
        value: Real(|r| r.time, |r, v| r.time = v),
    },
    Column {
        name: "resumed_step",
        units: "1",
        long_name: "steps completed by the checkpoint that this start went on from (0: it began anew); its own steps are those after, up to the next start's",
        value: Integer(|r| r.resumed_step as i64, |r, v| r.resumed_step = v as u64),
    },
    Column {
        name: "steps",
        units: "1",
        long_name: "optimizer steps of the whole run, from its first to its last, as this start was told; 0 where unknown",
        value: Integer(|r| r.steps as i64, |r, v| r.steps = v as u64),
    },
    Column {
        name: "configuration",
        units: "text",
        long_name: "the whole resolved configuration in TOML; can be fed back as --config",
        value: Text(|r| &r.configuration, |r, v| r.configuration = v),
    },
    Column {
        name: "version",
        units: "text",
        long_name: "version of llm-train",
        value: Text(|r| &r.version, |r, v| r.version = v),
    },
    Column {
        name: "revision",
        units: "text",
        long_name: "git revision of the source it was built from; empty where unknown",
        value: Text(|r| &r.revision, |r, v| r.revision = v),
    },
    Column {
        name: "command_line",
        units: "text",
        long_name: "command line of rank 0",
        value: Text(|r| &r.command_line, |r, v| r.command_line = v),
    },
    Column {
        name: "hosts",
        units: "text",
        long_name: "names of the hosts, separated by commas",
        value: Text(|r| &r.hosts, |r, v| r.hosts = v),
    },
    Column {
        name: "mpi",
        units: "text",
        long_name: "the MPI library, by its own version line",
        value: Text(|r| &r.mpi, |r, v| r.mpi = v),
    },
    Column {
        name: "slurm_job",
        units: "text",
        long_name: "Slurm's job id; empty outside Slurm",
        value: Text(|r| &r.slurm_job, |r, v| r.slurm_job = v),
    },
    Column {
        name: "ranks",
        units: "1",
        long_name: "number of ranks, each with one device",
        value: Integer(|r| r.ranks as i64, |r, v| r.ranks = v as u64),
    },
    Column {
        name: "parameters",
        units: "1",
        long_name: "parameters of the model, a tied head counted once",
        value: Integer(|r| r.parameters as i64, |r, v| r.parameters = v as u64),
    },
    Column {
        name: "flops_per_token_full",
        units: "FLOP/token",
        long_name: "forward and backward, attention counted full (every token sees the whole sequence); recomputation is not counted",
        value: Real(|r| r.flops_per_token_full, |r, v| r.flops_per_token_full = v),
    },
    Column {
        name: "flops_per_token_causal",
        units: "FLOP/token",
        long_name: "forward and backward, attention counted causal (half of full); recomputation is not counted",
        value: Real(|r| r.flops_per_token_causal, |r, v| r.flops_per_token_causal = v),
    },
    Column {
        name: "peak_tflops",
        units: "TFLOP/s",
        long_name: "peak of one device, as the configuration or the device's name tells it; NaN where unknown",
        value: Real(|r| r.peak_tflops.unwrap_or(f64::NAN), |r, v| r.peak_tflops = known(v)),
    },
    Column {
        name: "numerics",
        units: "text",
        long_name: "what the run's numbers are made of: the type of matrix products, of sums between devices, how weights are rounded, and whether sums have one order; empty where it was not noted",
        value: Text(|r| &r.numerics, |r, v| r.numerics = v),
    },
    Column {
        name: "energy_of",
        units: "text",
        long_name: "what /train/energy is the energy of, and by which counters; empty where it is not known",
        value: Text(|r| &r.energy_of, |r, v| r.energy_of = v),
    },
    Column {
        name: "launch",
        units: "s",
        long_name: "from the job's start, as Slurm tells it, to the start of this program; NaN outside Slurm",
        value: Real(|r| r.launch.unwrap_or(f64::NAN), |r, v| r.launch = known(v)),
    },
    Column {
        name: "mpi_init",
        units: "s",
        long_name: "time in MPI_Init on rank 0",
        value: Real(|r| r.mpi_init, |r, v| r.mpi_init = v),
    },
    Column {
        name: "corpus",
        units: "s",
        long_name: "time to open and check the corpora on rank 0",
        value: Real(|r| r.corpus, |r, v| r.corpus = v),
    },
    Column {
        name: "model",
        units: "s",
        long_name: "time to allocate the model and to fill it (initial weights, or a checkpoint) on rank 0",
        value: Real(|r| r.model, |r, v| r.model = v),
    },
    Column {
        name: "first_step",
        units: "s",
        long_name: "from the start of the program on rank 0 to the end of its first optimizer step; NaN until then",
        value: Real(|r| r.first_step.unwrap_or(f64::NAN), |r, v| r.first_step = known(v)),
    },
];
