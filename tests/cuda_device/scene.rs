//! The stub libraries, built once, and the program started with them in its library path.
use crate::place::{kept, on_gpu, program, root};
use crate::program::Job;
use llm_train::metrics::History;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What the kernels and the run compute in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Precision {
    Fp32,
    Bf16,
    /// Weights too are bf16 alone.
    Bf16True,
    Tf32,
}

impl Precision {
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
            Precision::Bf16True => "bf16-true",
            Precision::Tf32 => "tf32",
        }
    }
    /// tf32 is only how cuBLASLt multiplies: the kernels are those of fp32.
    fn kernels(self) -> String {
        format!("libkernels-{}.so", if self.in_bf16() { "bf16" } else { "fp32" })
    }
    /// Whether activations are.
    fn in_bf16(self) -> bool {
        matches!(self, Precision::Bf16 | Precision::Bf16True)
    }
}

/// The folder of the stubs and that of the real compiler. `None`, once said, where the compiler cannot be installed; in CI
/// that is a failure.
pub fn stubs() -> Option<&'static (PathBuf, PathBuf)> {
    static BUILT: OnceLock<Option<(PathBuf, PathBuf)>> = OnceLock::new();
    BUILT.get_or_init(build).as_ref()
}

fn build() -> Option<(PathBuf, PathBuf)> {
    assert!(!on_gpu(), "on a GPU nothing is built: this test is the stub's");
    let root = root();
    let wheels = Command::new(root.join("scripts/cuda-wheels.sh")).output().unwrap();
    if !wheels.status.success() {
        let why = String::from_utf8_lossy(&wheels.stderr);
        assert!(std::env::var_os("CI").is_none(), "the CUDA path is not tested: {why}");
        eprintln!("NOT TESTED: NVRTC cannot be installed here: {why}");
        return None;
    }
    let compiler = PathBuf::from(String::from_utf8(wheels.stdout).unwrap().trim());
    let stubs = kept().join("cuda-stub");
    std::fs::create_dir_all(&stubs).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| made(Command::new(root.join("tests/cuda/stub/build.sh")).arg(&stubs)));
        for precision in [Precision::Fp32, Precision::Bf16] {
            let library = stubs.join(precision.kernels());
            s.spawn(move || kernels(&library, precision, &[]));
        }
    });
    Some((stubs, compiler))
}

fn kernels(library: &Path, precision: Precision, flags: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let real = if precision.in_bf16() { "bf16" } else { "float" };
    let mut script = Command::new(root.join("tests/cuda/kernels.sh"));
    made(script.arg(root.join("src/ops")).arg(library).arg(format!("-DREAL={real}")).arg("-O2").args(flags));
}

/// Kernels that tell which bytes they touch: slower, and built where a race is looked for.
fn telling(precision: Precision) -> &'static Path {
    static BUILT: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
    BUILT[usize::from(precision.in_bf16())].get_or_init(|| {
        let library = stubs().expect("they have been built").0.join(format!("telling-{}", precision.kernels()));
        kernels(&library, precision, &["-DTOUCHED"]);
        library
    })
}

fn made(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A run into a folder of its own.
pub struct Run {
    pub out: tempfile::TempDir,
    arguments: Vec<String>,
    ranks: usize,
    precision: Precision,
    environment: Vec<(String, String)>,
    libraries: Option<PathBuf>,
}

impl Run {
    /// On the GPU, or on the stub. `None` where that cannot be.
    pub fn cuda(arguments: &str) -> Option<Run> {
        let mut run = Run::cpu(&format!("--device cuda {arguments}"));
        if on_gpu() {
            return Some(run);
        }
        let (stubs, compiler) = stubs()?;
        run.libraries = Some(PathBuf::from(format!("{}:{}", stubs.display(), compiler.display())));
        Some(run)
    }
    pub fn cpu(arguments: &str) -> Run {
        let arguments = arguments.split_whitespace().map(String::from).collect();
        let out = tempfile::tempdir().unwrap();
        Run { out, arguments, ranks: 1, precision: Precision::Fp32, environment: vec![], libraries: None }
    }
    pub fn and(mut self, arguments: &str) -> Run {
        self.arguments.extend(arguments.split_whitespace().map(String::from));
        self
    }
    pub fn ranks(mut self, n: usize) -> Run {
        self.ranks = n;
        self
    }
    pub fn precision(mut self, precision: Precision) -> Run {
        self.precision = precision;
        self
    }
    /// What the stubs are told.
    pub fn with(mut self, name: &str, value: &str) -> Run {
        self.environment.push((name.into(), value.into()));
        self
    }
    /// Only these libraries are found.
    pub fn libraries(mut self, folder: &Path) -> Run {
        self.libraries = Some(folder.into());
        self
    }

    pub fn job(&self) -> Job {
        let mut command = match self.ranks {
            1 => Command::new(program()),
            n => {
                let mut command = Command::new("mpirun");
                command.args(["-n", &n.to_string(), "--bind-to", "none"]).arg(program());
                command
            }
        };
        command.args(&self.arguments).args(["--precision", self.precision.name(), "--no-save-at-end", "--threads", "1", "--out"]);
        command.arg(self.out.path().join("run"));
        command.current_dir(root());
        let mut job = Job::new(command);
        job.0.env("XDG_CACHE_HOME", kept().join("cache"));
        if let Some(libraries) = &self.libraries {
            let (stubs, _) = stubs().expect("they have been built");
            job.0.env("LD_LIBRARY_PATH", libraries);
            let looks = self.environment.iter().any(|(name, _)| name == "STUB_RACES");
            let kernels = if looks { telling(self.precision).into() } else { stubs.join(self.precision.kernels()) };
            job.0.env("STUB_KERNELS", kernels);
            // a GPU a rank, unless told otherwise
            job.0.env("STUB_DEVICES", self.ranks.to_string());
        }
        job.0.envs(self.environment.iter().cloned());
        job
    }

    /// The same with options that may be said once only.
    pub fn job_with(&self, options: &str) -> Job {
        let mut job = self.job();
        job.0.args(options.split_whitespace());
        job
    }

    /// Loss and gradient norm of each step, to the last bit.
    pub fn steps(&self) -> Vec<[f64; 2]> {
        self.job().done();
        self.left()
    }
    /// What the run that has ended left.
    pub fn left(&self) -> Vec<[f64; 2]> {
        let history = History::read(&self.out.path().join("run/metrics.h5")).unwrap();
        history.steps.iter().map(|s| [s.loss, s.grad_norm]).collect()
    }
}

/// A side job on the GPU, or on the stub; the options name the precision. `None` where that cannot be.
pub fn side(arguments: &str) -> Option<Job> {
    let mut job = host(arguments);
    job.0.args(["--device", "cuda"]);
    if !on_gpu() {
        let (stubs, compiler) = stubs()?;
        job.0.env("LD_LIBRARY_PATH", format!("{}:{}", stubs.display(), compiler.display()));
        job.0.env("STUB_KERNELS", stubs.join("libkernels-%p.so"));
    }
    Some(job)
}

/// The same without a word about where.
pub fn host(arguments: &str) -> Job {
    let mut command = Command::new(program());
    command.args(arguments.split_whitespace()).current_dir(root());
    let mut job = Job::new(command);
    job.0.env("XDG_CACHE_HOME", kept().join("cache"));
    job
}

/// The options of the goldens' runs: ten steps on one batch of 3 sequences of 48 tokens.
pub fn golden(family: &str) -> String {
    let folder = format!("tests/golden/{family}");
    format!(
        "--model {folder} --init pretrained --data {folder}/tokens.bin --seq-len 48 --lr 1e-3 --min-lr 1e-3 --schedule constant \
         --warmup-steps 0 --beta2 0.95 --weight-decay 0.1 --clip 1 --global-batch 3 --micro-batch 3 --steps 10"
    )
}

/// Two blocks, 4 sequences of 16 tokens a step, made up.
pub fn tiny() -> &'static str {
    "--model nano --layers 2 --width 32 --heads 2 --vocab 200 --seq-len 16 --global-batch 4 --micro-batch 1 --synthetic-data \
     --lr 1e-2 --seed 3 --steps 3"
}

/// The widest difference of losses, and of norms relative to their size.
pub fn off(a: &[[f64; 2]], b: &[[f64; 2]]) -> [f64; 2] {
    assert!(!a.is_empty() && a.len() == b.len(), "{a:?} {b:?}");
    let widest = |k: usize, d: &dyn Fn(f64, f64) -> f64| {
        // a NaN must not be lost
        a.iter().zip(b).map(|(a, b)| d(a[k], b[k])).fold(0.0, |m, x| if x > m || x.is_nan() { x } else { m })
    };
    [widest(0, &|a, b| (a - b).abs()), widest(1, &|a, b| (a - b).abs() / b.abs())]
}
