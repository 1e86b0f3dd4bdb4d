//! The losses of a small training, by the very loop that trains, against those of the same training in f64.
//!
//! ```text
//! run.toml        model, seed, steps: the run of record         data/verify.txt    its corpus, a token a byte
//! reference.tsv   its losses on the reference device: naive loops in f64, from the same first weights
//!
//! |loss − reference| ≤ ALLOWED · reference        every step
//! ```
//! Both files and the corpus are part of the program.
use crate::commands::scratch::Scratch;
use crate::commands::session::Session;
use crate::commands::train::{self, End};
use crate::config::{self, Corpus, Purpose, Run, Settings, Source};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::metrics::units::significant;
use crate::metrics::{History, MetricsFile};
use crate::ops::gemm::kernels;
use crate::{bad_input, failed};
use serde_json::{Value, json};
use std::path::Path;

const RUN: &str = include_str!("run.toml");
const CORPUS: &[u8] = include_bytes!("../../../data/verify.txt");
const REFERENCE: &str = include_str!("reference.tsv");
/// Steps of the run of record.
pub const STEPS: usize = 50;

/// How far a loss may lie from the reference, relative to it. Measured, 2026-11-26, kernels portable, avx2 and avx512: 1.5e-7 in
/// fp32, which differs from kernel to kernel and with the number of ranks; 4.0e-3, 5.9e-3, 7.5e-3, 8.3e-3, 8.5e-3 and 1.04e-2 in bf16, at
/// step 28 or 31, each in another order of sums: a few roundings that fall the other way grow while the loss falls fastest. A kernel
/// that adds 0.01 to one number in 64 is off by more than 1e-4 within eight steps.
fn allowed(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 1e-5,
        Precision::Bf16 => 2e-2,
        Precision::Tf32 => unreachable!("verify follows it not"),
    }
}

/// The run whose losses are known. Its corpus is that which [`write_corpus`] writes.
pub fn run_of_record() -> Run {
    let mut settings = Settings::defaults();
    let resolved = settings.read_text(RUN, "run.toml").and_then(|()| config::resolve(settings, Purpose::Train));
    resolved.unwrap_or_else(|e| panic!("the run of record: {e}"))
}

/// The corpus as nanoGPT keeps one: 16 bits a token.
pub fn write_corpus(file: &Path) -> Result<()> {
    let tokens: Vec<u8> = CORPUS.iter().flat_map(|byte| u16::from(*byte).to_le_bytes()).collect();
    let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = made.and_then(|()| std::fs::write(file, tokens));
    written.map_err(|e| Error::Failed(format!("{}: the corpus, 64 KB, cannot be written: {e}", file.display())))
}

/// The losses to compare with: those built in, or those of an earlier `--json` in fp32.
pub(super) fn reference(file: Option<&Path>) -> Result<Vec<f64>> {
    let Some(file) = file else { return Ok(REFERENCE.split_whitespace().filter_map(|loss| loss.parse().ok()).collect()) };
    let name = file.display();
    let text = std::fs::read(file).map_err(|e| Error::Input(format!("--reference {name}: cannot be read: {e}")))?;
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let losses = value.pointer("/curves/0/losses").and_then(Value::as_array);
    let losses: Vec<f64> = losses.into_iter().flatten().filter_map(Value::as_f64).collect();
    if losses.len() != STEPS {
        bad_input!("--reference {name}: expected a --json of llm-train verify with {STEPS} losses, found {}", losses.len());
    }
    Ok(losses)
}

/// A training of the run of record, on rank 0; the others know only whether it passed.
pub(super) struct Curve {
    precision: Precision,
    device: String,
    losses: Vec<f64>,
    /// The largest relative distance from the reference, and its step.
    worst: (f64, usize),
}

impl Curve {
    pub fn passes(&self) -> bool {
        self.worst.0 <= allowed(self.precision)
    }
    pub fn line(&self) -> String {
        let ((worst, step), allowed) = (self.worst, allowed(self.precision));
        let (share, last) = (significant(worst / allowed, 3), self.losses.last().copied().unwrap_or(f64::NAN));
        format!(
            "loss curve {}: {share}    farthest from the reference over what is allowed ({allowed}), at step {step} of {STEPS}; \
             last loss {}, by {}\n",
            self.precision.name(),
            significant(last, 5),
            self.device
        )
    }
    pub fn complaint(&self) -> String {
        let ((worst, step), precision) = (self.worst, self.precision.name());
        format!("the loss of step {step} in {precision} is off by {worst:.1e}, where {} is allowed", allowed(self.precision))
    }
    pub fn json(&self) -> Value {
        json!({ "precision": self.precision.name(), "by": self.device, "losses": self.losses,
                "worst": self.worst.0, "worst_step": self.worst.1, "allowed": allowed(self.precision) })
    }
}

/// Trains the run of record on all ranks together.
///
/// Errors: more ranks than sequences a step; whatever training says.
pub(super) fn follow(precision: Precision, reference: &[f64], launch: &Launch) -> Result<Curve> {
    let mut run = run_of_record();
    let most = run.batch.global_batch.unwrap_or(1);
    if launch.size() > most {
        bad_input!("verify: expected at most {most} ranks, one for each sequence of a step, found {}", launch.size());
    }
    let scratch = Scratch::new("verify");
    let corpus = scratch.0.join("corpus.bin");
    launch.agree(write_corpus(&corpus))?;
    run.data.source = Source::Corpora(vec![Corpus { path: corpus, weight: None }]);
    run.train.out = scratch.0.clone();
    run.system.precision = precision;

    let (session, mut output) = Session::open(&mut run, launch)?;
    let (end, _) = session.dev.install(|| train::steps(&run, launch, &session, &mut output))?;
    if end != End::Done {
        failed!("verify: the time limit came before the last step");
    }
    let device = match &session.dev {
        Device::Cpu(_) => format!("the kernel {}", kernels::chosen(precision).name),
        _ => "the GPU".into(),
    };
    let read = || -> Result<Vec<f64>> {
        output.metrics.map_or(Ok(()), MetricsFile::close)?;
        Ok(History::read(&run.train.out.join("metrics.h5"))?.steps.iter().map(|s| s.loss).collect())
    };
    let losses = launch.agree(if launch.leads() { read() } else { Ok(vec![]) })?;
    // Others hear what rank 0 found: all leave with one exit code.
    let worst = if launch.leads() { farthest(&losses, reference) } else { (0.0, 0) };
    let worst = &launch.comm().exchange(&[worst.0, worst.1 as f64])[0];
    Ok(Curve { precision, device, losses, worst: (worst[0], worst[1] as usize) })
}

/// The largest relative distance, and its step, from 1; infinite where the curves differ in length or are no numbers.
fn farthest(losses: &[f64], reference: &[f64]) -> (f64, usize) {
    if losses.len() != reference.len() {
        return (f64::INFINITY, losses.len());
    }
    let off = losses.iter().zip(reference).map(|(loss, exact)| ((loss - exact) / exact).abs());
    let off = off.map(|off| if off.is_nan() { f64::INFINITY } else { off });
    off.zip(1..).fold((0.0, 1), |worst, here| if here.0 > worst.0 { here } else { worst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_is_found() {
        assert_eq!(farthest(&[2.0, 1.1, 1.0], &[2.0, 1.0, 1.0]).1, 2);
        assert_eq!(farthest(&[2.0, f64::NAN], &[2.0, 1.0]), (f64::INFINITY, 2));
        assert_eq!(farthest(&[2.0], &[2.0, 1.0]), (f64::INFINITY, 1));
        assert_eq!(farthest(&[2.0, 1.0], &[2.0, 1.0]), (0.0, 1));
    }

    #[test]
    fn the_reference_has_a_loss_for_each_step() {
        let losses = reference(None).unwrap();
        assert_eq!((losses.len(), run_of_record().train.length), (STEPS, config::Length::Steps(STEPS as u64)));
        assert!(losses[STEPS - 1] < 0.75 * losses[0], "{losses:?}");
    }
}
