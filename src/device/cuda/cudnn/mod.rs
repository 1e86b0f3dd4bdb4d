//! Attention by cuDNN's fused engines.
//!
//! ```text
//! rank 0: graph ── heuristics ──> engine ── finalize ──> plan ── as text, by MPI ──> every rank: plan, finalized anew
//!
//! graph   what is computed, as plain data        write   tells cuDNN        descriptor   cuDNN's objects
//! ```
//! A plan is for one shape (sequences, heads, rows, columns of a head) and one kind of GPU. Its kernels are compiled when it is
//! finalized (half a second), its workspace is counted with the rest of the memory. It is used for bf16, heads of 64 and 128
//! columns and one document a sequence; everything else goes to our own kernels (`ops/attention/*.cu`), which write and read the
//! same lse, so that either pass may be either's.
mod descriptor;
mod graph;
mod write;
pub use graph::Sdpa;

use super::driver::{Gpu, Memory, Stream};
use super::library::Needed;
use crate::error::Result;
use crate::failed;
use cudarc::cudnn::sys;
use descriptor::{Descriptor, Handle, Heuristic, Kind, Name, Note, check};
use graph::{Graph, Operand};
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// 9.8: the first that is told of a GPU by a descriptor of it.
const OLDEST: usize = 9_08_00;
/// Engines that the heuristic may name.
const OFFERED: usize = 8;

/// Whether cuDNN is asked for such attention. Its engines know other heads too; ours are proved for these.
pub fn serves(of: &Sdpa) -> bool {
    matches!(of.size, 64 | 128)
}

/// The GPU that plans are made for.
pub enum Target {
    /// That of this process.
    Here(Connection),
    /// One that is described, in cuDNN's own JSON.
    Described(String),
}

impl Target {
    /// The GPU that is bound.
    ///
    /// Errors: `Failed`: cuDNN is missing, too old, or does not know this GPU.
    pub fn here() -> Result<Target> {
        Ok(Target::Here(Connection::open()?))
    }
    /// Errors: `Failed`: cuDNN is missing or too old.
    pub fn described(json: &str) -> Result<Target> {
        present()?;
        Ok(Target::Described(json.to_string()))
    }
    fn descriptor(&self) -> Result<Descriptor> {
        let new = Descriptor::new(Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?;
        match self {
            Target::Here(Connection(handle)) => new.with(Name::CUDNN_ATTR_DEVICEPROP_HANDLE, &[*handle])?.done(),
            Target::Described(json) => {
                let text = [json.trim().as_bytes(), &[0]].concat();
                new.with(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, &text)?.done()
            }
        }
    }
}

fn present() -> Result<()> {
    // cuDNN ends the process where it does not find cuBLASLt.
    Needed::Products.check()?;
    Needed::Attention.check()?;
    let version = version();
    if version < OLDEST {
        failed!("cuDNN: expected 9.8 or later, found {}.{}", version / 10_000, version % 10_000 / 100);
    }
    Ok(())
}

/// The version that is there.
///
/// Errors: `Failed`: it is missing, or too old.
pub fn installed() -> Result<String> {
    present()?;
    let v = version();
    Ok(format!("{}.{}.{}", v / 10_000, v % 10_000 / 100, v % 100))
}

fn version() -> usize {
    // SAFETY: the library is there.
    unsafe { sys::cudnnGetVersion() }
}

/// cuDNN on the GPU that was bound when it was opened.
pub struct Connection(Handle);

// SAFETY: a handle that one thread at a time uses; `Attention` has it behind a lock.
unsafe impl Send for Connection {}

impl Connection {
    fn open() -> Result<Connection> {
        present()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library is there, the place is a variable here.
        check(unsafe { sys::cudnnCreate(&mut handle) }, "cudnnCreate")?;
        Ok(Connection(handle))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: opened in `open`. Its code no longer matters to anyone.
        unsafe { sys::cudnnDestroy(self.0) };
    }
}

/// The plans of both passes as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans([Vec<u8>; 2]);

impl Plans {
    /// Errors: `Failed`: cuDNN has no engine for it, in its words.
    pub fn make(of: &Sdpa, target: &Target) -> Result<Plans> {
        let device = target.descriptor()?;
        let text = |graph: Graph| plan(&graph, &device)?.text(Name::CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION);
        Ok(Plans([text(of.forward())?, text(of.backward())?]))
    }

    /// Both in cuDNN's JSON, for a checkpoint.
    pub fn texts(&self) -> [String; 2] {
        [0, 1].map(|i| String::from_utf8_lossy(&self.0[i]).into_owned())
    }
    /// What [`Plans::texts`] gave; whether cuDNN takes it is seen when it is finalized.
    pub fn from_texts(forward: &str, backward: &str) -> Plans {
        Plans([forward, backward].map(|text| text.as_bytes().to_vec()))
    }
    /// For a message: the length of the first, and both.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Plans([forward, backward]) = self;
        [&(forward.len() as u64).to_le_bytes()[..], forward, backward].concat()
    }
    /// `None` for what [`Plans::to_bytes`] has not made.
    pub fn from_bytes(bytes: &[u8]) -> Option<Plans> {
        let (length, both) = bytes.split_first_chunk::<8>()?;
        let (forward, backward) = both.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        Some(Plans([forward.to_vec(), backward.to_vec()]))
    }

    /// Finalizes both for a GPU of the kind that they were made for.
    fn finalize(&self, target: &Target) -> Result<[Descriptor; 2]> {
        let read = |text: &Vec<u8>| {
            let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
                .with(Name::CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, text)?;
            match target {
                // as NVIDIA's own front end reads a plan that is to be run
                Target::Here(Connection(handle)) => plan.with(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[*handle])?.done(),
                Target::Described(_) => plan.of(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[&target.descriptor()?])?.done(),
            }
        };
        Ok([read(&self.0[0])?, read(&self.0[1])?])
    }

    /// Bytes that a pass needs beside its operands: the larger of the two.
    pub fn workspace(&self, target: &Target) -> Result<usize> {
        workspace(&self.finalize(target)?)
    }
}

fn workspace(plans: &[Descriptor; 2]) -> Result<usize> {
    let of = |plan: &Descriptor| plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
    Ok(of(&plans[0])?.max(of(&plans[1])?) as usize)
}

/// The first engine of the heuristic's that finishes its plan and does not call itself non-deterministic.
fn plan(graph: &Graph, device: &Descriptor) -> Result<Descriptor> {
    let written = write::write(graph)?;
    let heuristic = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .of(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&written.graph])?
        .with(Name::CUDNN_ATTR_ENGINEHEUR_MODE, &[Heuristic::CUDNN_HEUR_MODE_A])?
        .of(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[device])?
        .done()?;
    let (results, configuration) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    let offered = heuristic.parts(results, configuration, OFFERED)?;
    let mut why = "cuDNN: no engine is deterministic".to_string();
    for configuration in &offered {
        let engine = configuration.parts(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
        let notes = engine.first().map(|engine| engine.notes(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE)).transpose()?;
        if notes.is_none_or(|notes| notes.contains(&(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC as u32))) {
            continue;
        }
        let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .of(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[configuration])?
            .of(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[device])?
            .done();
        match plan {
            Ok(plan) => return Ok(plan),
            Err(e) => why = e.to_string(),
        }
    }
    failed!("{why} ({} engines were offered)", offered.len())
}

/// Attention of one shape on this process's GPU, ready but for its workspace.
pub struct Attention {
    pub of: Sdpa,
    pub plans: Plans,
    /// Bytes of the workspace.
    pub workspace: usize,
    inner: Mutex<Ready>,
    gpu: Arc<Gpu>,
}

/// Plans go before the connection that they were finalized with.
struct Ready {
    forward: Descriptor,
    backward: Descriptor,
    target: Connection,
}

/// −∞ in the graphs: e^ of it is 0, and no difference of two is NaN.
const HIDDEN: f32 = f32::MIN;

impl Attention {
    /// Errors: `Failed`: this rank's cuDNN or GPU does not take the plans.
    pub fn load(of: Sdpa, plans: &Plans, gpu: &Arc<Gpu>) -> Result<Attention> {
        gpu.bind();
        let target = Target::here()?;
        let [forward, backward] = plans.finalize(&target)?;
        let both = [forward, backward];
        let workspace = workspace(&both)?;
        let ([forward, backward], Target::Here(target)) = (both, target) else { unreachable!("made above") };
        let inner = Mutex::new(Ready { forward, backward, target });
        Ok(Attention { of, plans: plans.clone(), workspace, inner, gpu: gpu.clone() })
    }

    /// What is said of it before the first step.
    pub fn words(&self) -> String {
        format!("cuDNN {}", installed().unwrap_or_default())
    }

    /// Sequences, and the workspace that so many would need: it grows with them, if at all.
    pub fn workspace_of(&self, batch: usize) -> usize {
        self.workspace.div_ceil(self.of.batch) * batch.min(self.of.batch)
    }

    pub fn is_of(&self, of: &Sdpa) -> bool {
        self.of == *of
    }

    /// y and lse of qkv, behind all earlier work of the stream.
    pub(super) fn forward(&self, [y, lse]: [u64; 2], qkv: u64, workspace: &Memory, stream: &Stream) {
        let [q, k, v] = self.of.columns().map(|column| qkv + 2 * column as u64);
        let operands = [(Operand::Q, q), (Operand::K, k), (Operand::V, v), (Operand::Y, y), (Operand::Lse, lse)];
        self.run(|ready| &ready.forward, &operands, workspace, stream);
    }

    /// dqkv; δ is room for B·T·H numbers.
    pub(super) fn backward(&self, [dqkv, delta]: [u64; 2], [dy, y, lse, qkv]: [u64; 4], workspace: &Memory, stream: &Stream) {
        let [q, k, v] = self.of.columns().map(|column| qkv + 2 * column as u64);
        let [dq, dk, dv] = self.of.columns().map(|column| dqkv + 2 * column as u64);
        let operands = [
            (Operand::Q, q),
            (Operand::K, k),
            (Operand::V, v),
            (Operand::Y, y),
            (Operand::Lse, lse),
            (Operand::Dy, dy),
            (Operand::Dq, dq),
            (Operand::Dk, dk),
            (Operand::Dv, dv),
            (Operand::Delta, delta),
        ];
        self.run(|ready| &ready.backward, &operands, workspace, stream);
    }

    fn run(&self, which: impl Fn(&Ready) -> &Descriptor, on_gpu: &[(Operand, u64)], workspace: &Memory, stream: &Stream) {
        assert!(workspace.bytes >= self.workspace, "cuDNN: {} bytes of workspace for {}", workspace.bytes, self.workspace);
        let numbers = [(Operand::Scale, 1.0 / (self.of.size as f32).sqrt()), (Operand::Hidden, HIDDEN), (Operand::One, 1.0)];
        // The forward has no use for One, and an operand that a plan does not know is refused.
        let known = |(which, _): &&(Operand, f32)| *which != Operand::One || on_gpu.iter().any(|(o, _)| *o == Operand::Delta);
        let numbers: Vec<_> = numbers.iter().filter(known).collect();
        let (mut ids, mut places): (Vec<i64>, Vec<*mut c_void>) =
            on_gpu.iter().map(|(which, at)| (*which as i64, *at as *mut c_void)).unzip();
        ids.extend(numbers.iter().map(|(which, _)| *which as i64));
        places.extend(numbers.iter().map(|(_, number)| std::ptr::from_ref(number).cast_mut().cast::<c_void>()));
        let ready = self.inner.lock().expect("cuDNN's plans");
        let run = || -> Result<()> {
            let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
                .with(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &ids)?
                .with(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &places)?
                .with(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace.at as *mut c_void])?
                .done()?;
            // SAFETY: the operands are device memory of the plan's sizes (the gate), the workspace is this stream's alone, and
            // numbers are read before the call returns.
            unsafe {
                check(sys::cudnnSetStream(ready.target.0, stream.raw().cast()), "cudnnSetStream")?;
                which(&ready).execute(ready.target.0, &pack)
            }
        };
        if let Err(e) = run() {
            panic!("attention of {:?}: {e}", self.of);
        }
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        self.gpu.bind();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_survive_a_message() {
        let plans = Plans([b"one".to_vec(), b"another".to_vec()]);
        assert_eq!(Plans::from_bytes(&plans.to_bytes()).as_ref(), Some(&plans));
        let [forward, backward] = plans.texts();
        assert_eq!(Plans::from_texts(&forward, &backward), plans);
        assert_eq!(Plans::from_bytes(b"short"), None);
        assert_eq!(Plans::from_bytes(&[9, 0, 0, 0, 0, 0, 0, 0, 1]), None);
    }
}
