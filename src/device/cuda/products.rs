//! Matrix products by cuBLASLt.
//!
//! ```text
//! y (m, n) = finish(op(a) op(b) (+ c))        op: as it is stored, or transposed; finish: a bias, GELU, … ([`Finish`])
//!
//! cuBLASLt counts by columns, where our row-major y is yᵀ: it is asked for yᵀ = op(b)ᵀ op(a)ᵀ, and nothing is moved
//! ```
//! What finishes a product costs no pass over memory of its own (the library's epilogues). The library need not have an
//! algorithm for each: who asks for more than a bias asks [`Products::prefers`] first, and has kernels of ours for the rest.
//! "None" is an answer that is kept and shared like an algorithm, so that all ranks go the same way; it stands for "slower than apart" too.
//!
//! The first product of a shape asks the library's heuristic, and its description and algorithm are kept. While [`Products::tune`]
//! is on, what the heuristic offers is timed instead. The choices can be taken out and put in as bytes, so that all ranks, and
//! a run that goes on from a checkpoint, use the same algorithms and get the same bits. They are kept for the next run in
//! `$XDG_CACHE_HOME/llm-train/products-HASH`; the hash is that of the GPU's name, the library's version and how the choice is made.
use super::driver::{Gpu, Memory, Stream};
use super::kernels::{cache, hash, read, write};
use super::library::Needed;
use crate::device::Precision;
use crate::error::Result;
use crate::failed;
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Desc, cublasLtMatmulPreferenceAttributes_t as Pref};
use cudarc::cublaslt::sys::{
    cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulHeuristicResult_t as Found, cublasStatus_t as Status,
};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::{from_ref, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A row-major matrix as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    pub at: u64,
    pub rows: usize,
    pub cols: usize,
    pub bf16: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub y: Operand,
    pub a: Operand,
    pub b: Operand,
    /// Whether a, and b, enter transposed.
    pub transposed: [bool; 2],
    /// What is added, of y's shape and type: y itself, or another matrix.
    pub add: Option<u64>,
    pub finish: Finish,
}

/// What becomes of a sum before it is stored. Addresses are of vectors and matrices of y's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    Nothing,
    /// y = sum + bias, of n, to every row.
    Bias(u64),
    /// inner = sum (+ bias), kept in y's shape and type; y = GELU(sum + bias), the tanh form, of the sum that is not rounded.
    Gelu {
        inner: u64,
        bias: Option<u64>,
    },
    /// y = sum · GELU′(inner)
    GeluSlope {
        inner: u64,
    },
    /// to (m) = Σ of the rows of a, where a enters transposed: the sum goes over k. What was there is overwritten.
    SumsOfA {
        to: u64,
    },
}

/// The rows of the matrix that GELU keeps must be a multiple of so many elements (cuBLASLt, `EPILOGUE_AUX_LD`).
const INNER_COLUMNS: usize = 8;

impl Finish {
    fn epilogue(self) -> sys::cublasLtEpilogue_t {
        use sys::cublasLtEpilogue_t::*;
        match self {
            Finish::Nothing => CUBLASLT_EPILOGUE_DEFAULT,
            Finish::Bias(_) => CUBLASLT_EPILOGUE_BIAS,
            Finish::Gelu { bias: None, .. } => CUBLASLT_EPILOGUE_GELU_AUX,
            Finish::Gelu { bias: Some(_), .. } => CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Finish::GeluSlope { .. } => CUBLASLT_EPILOGUE_DGELU,
            // our first operand is the library's second
            Finish::SumsOfA { .. } => CUBLASLT_EPILOGUE_BGRADB,
        }
    }
    /// A vector, of a bias or for sums.
    fn vector(self) -> Option<u64> {
        match self {
            Finish::Bias(at) | Finish::SumsOfA { to: at } => Some(at),
            Finish::Gelu { bias, .. } => bias,
            Finish::Nothing | Finish::GeluSlope { .. } => None,
        }
    }
    fn inner(self) -> Option<u64> {
        match self {
            Finish::Gelu { inner, .. } | Finish::GeluSlope { inner } => Some(inner),
            Finish::Nothing | Finish::Bias(_) | Finish::SumsOfA { .. } => None,
        }
    }
}

pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
    /// `None`: the library has no algorithm.
    plans: Mutex<BTreeMap<Key, Option<Plan>>>,
    /// Algorithms from elsewhere, not yet used.
    known: Mutex<BTreeMap<Key, [u64; 8]>>,
    tuning: AtomicBool,
    /// Operands in f32 are rounded to tf32, for tensor cores.
    tf32: bool,
    gpu: Arc<Gpu>,
}

// SAFETY: cuBLASLt's handles may be used from any thread; the plans are behind a lock.
unsafe impl Send for Products {}
// SAFETY: as above.
unsafe impl Sync for Products {}

/// What tells products apart whose algorithms may differ: m, n, k, kinds, how the product is finished, the alignment of a, b, c
/// and y, of the finish's vector and its inner matrix, and 0 (where files of an older form have none).
type Key = [u32; 8];
/// How choices are made; those of another program's are made again.
const FORM: &str = "ends timed";
/// In place of an algorithm where the library has none.
const NONE: [u64; 8] = [0; 8];

struct Plan {
    desc: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
    algorithm: Algorithm,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the handles are ours, and used no more.
        unsafe {
            sys::cublasLtMatmulDescDestroy(self.desc);
            for layout in [self.a, self.b, self.y] {
                sys::cublasLtMatrixLayoutDestroy(layout);
            }
        }
    }
}

/// Algorithms that are timed against each other, and how often.
const OFFERED: usize = 8;
const REPEATS: usize = 5;
/// By what part two launches must be faster than one.
const MARGIN: f64 = 0.02;

impl Products {
    pub fn new(gpu: &Arc<Gpu>, workspace: Memory, precision: Precision) -> Result<Products> {
        Needed::Products.check()?;
        let mut handle = null_mut();
        // SAFETY: the library is there, the GPU is bound, the place is a variable here.
        let code = unsafe { sys::cublasLtCreate(&mut handle) };
        if code != Status::CUBLAS_STATUS_SUCCESS {
            failed!("cuBLASLt: cublasLtCreate failed with {code:?}");
        }
        let (plans, known, tuning) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let tf32 = precision == Precision::Tf32;
        Ok(Products { handle, workspace, plans, known, tuning, tf32, gpu: gpu.clone() })
    }

    /// Multiplies behind all earlier work of the stream, which must always be the same one: the workspace is.
    pub fn multiply(&self, p: &Product, stream: &Stream) {
        let mut plans = self.plans.lock().expect("plans of products");
        let plan = plans.entry(self.key(p)).or_insert_with(|| self.plan(p, stream));
        let plan = plan.as_ref().unwrap_or_else(|| panic!("cuBLASLt has no algorithm for {p:?}"));
        self.run(p, plan, &plan.algorithm, stream);
    }

    /// Whether `ended`, a product that something ends, is to be made, or `plain` and `rest`, which come to the same: the library may have
    /// no algorithm for the one, or be slower at it. Asks or times both the first time.
    pub fn prefers(&self, ended: &Product, plain: &Product, rest: impl Fn(), stream: &Stream) -> bool {
        if ended.finish.inner().is_some() && !ended.y.cols.is_multiple_of(INNER_COLUMNS) {
            return false;
        }
        let key = self.key(ended);
        if let Some(plan) = self.plans.lock().expect("plans of products").get(&key) {
            return plan.is_some();
        }
        let decided = self.known.lock().expect("known algorithms").contains_key(&key);
        let mut plan = self.plan(ended, stream);
        if let Some(at_once) = plan.as_ref().filter(|_| self.tuning.load(Ordering::Relaxed) && !decided) {
            self.multiply(plain, stream);
            let at_once = timed(stream, || self.run(ended, at_once, &at_once.algorithm, stream));
            let apart = timed(stream, || {
                self.multiply(plain, stream);
                rest();
            });
            if apart.mul_f64(1.0 + MARGIN) < at_once {
                plan = None;
            }
        }
        self.plans.lock().expect("plans of products").entry(key).or_insert(plan).is_some()
    }

    /// From now on, or no longer, the first product of a shape times what it is offered.
    pub fn tune(&self, on: bool) {
        self.tuning.store(on, Ordering::Relaxed);
    }

    /// Where choices for this GPU are kept between runs.
    fn file(&self) -> Option<PathBuf> {
        Some(cache()?.join(format!("products-{:016x}", hash(format!("{}, {FORM}", self.of()).as_bytes()))))
    }
    /// What choices hold for: the GPU and the library's version.
    pub fn of(&self) -> String {
        // SAFETY: the library is there.
        format!("{}, cuBLASLt {}", self.gpu.name, unsafe { sys::cublasLtGetVersion() })
    }
    /// Uses what an earlier run has kept.
    pub fn recall(&self) {
        if let Some(kept) = self.file().and_then(|file| read(&file)) {
            self.choose(&kept);
        }
    }
    /// Keeps the choices for later runs.
    pub fn keep(&self) {
        if let Some(file) = self.file() {
            write(&file, &self.choices());
        }
    }

    /// The choices so far, as bytes.
    pub fn choices(&self) -> Vec<u8> {
        let plans = self.plans.lock().expect("plans of products");
        let mut known = self.known.lock().expect("known algorithms").clone();
        known.extend(plans.iter().map(|(key, plan)| (*key, plan.as_ref().map_or(NONE, |plan| plan.algorithm.data))));
        let line = |(key, data): (&Key, &[u64; 8])| {
            let key = key.iter().flat_map(|n| n.to_le_bytes());
            key.chain(data.iter().flat_map(|n| n.to_le_bytes())).collect::<Vec<u8>>()
        };
        known.iter().flat_map(line).collect()
    }

    /// Products that have not been made yet use these choices. Bytes that are none are left alone.
    pub fn choose(&self, choices: &[u8]) {
        let mut known = self.known.lock().expect("known algorithms");
        for line in choices.as_chunks::<{ size_of::<Key>() + 64 }>().0 {
            let (key, data) = line.split_at(size_of::<Key>());
            let mut all = (Key::default(), [0u64; 8]);
            all.0.iter_mut().zip(key.as_chunks::<4>().0).for_each(|(n, b)| *n = u32::from_le_bytes(*b));
            all.1.iter_mut().zip(data.as_chunks::<8>().0).for_each(|(n, b)| *n = u64::from_le_bytes(*b));
            known.insert(all.0, all.1);
        }
    }

    fn key(&self, p: &Product) -> Key {
        let k = if p.transposed[0] { p.a.rows } else { p.a.cols };
        let [m, n, k] = [p.y.rows, p.y.cols, k].map(|n| n as u32);
        let kinds = [p.transposed[0], p.transposed[1], p.a.bf16, p.y.bf16, p.add.is_some(), p.add == Some(p.y.at), self.tf32];
        let kinds = kinds.iter().enumerate().fold(0, |all, (i, is)| all | u32::from(*is) << i);
        let aligned = |all: &[u64]| all.iter().fold(0, |word, at| word << 8 | alignment(*at).ilog2());
        let operands = aligned(&[p.a.at, p.b.at, p.add.unwrap_or(p.y.at), p.y.at]);
        let finish = aligned(&[p.finish.vector().unwrap_or(1), p.finish.inner().unwrap_or(1)]);
        [m, n, k, kinds, p.finish.epilogue() as u32, operands, finish, 0]
    }

    fn plan(&self, p: &Product, stream: &Stream) -> Option<Plan> {
        let kind = |bf16: bool| if bf16 { sys::cudaDataType_t::CUDA_R_16BF } else { sys::cudaDataType_t::CUDA_R_32F };
        let layout = |m: &Operand| {
            let mut layout = null_mut();
            // SAFETY: the place is a variable here.
            let code = unsafe {
                sys::cublasLtMatrixLayoutCreate(&mut layout, kind(m.bf16), m.cols as u64, m.rows as u64, m.cols as i64)
            };
            must(code, "cublasLtMatrixLayoutCreate", p);
            layout
        };
        let mut desc = null_mut();
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        let compute = if self.tf32 { CUBLAS_COMPUTE_32F_FAST_TF32 } else { CUBLAS_COMPUTE_32F };
        let scale = kind(false);
        // SAFETY: as above.
        must(unsafe { sys::cublasLtMatmulDescCreate(&mut desc, compute, scale) }, "cublasLtMatmulDescCreate", p);
        // The library's first operand is our second.
        let [second, first] = p.transposed.map(i32::from);
        set(p, desc, Desc::CUBLASLT_MATMUL_DESC_TRANSA, &first);
        set(p, desc, Desc::CUBLASLT_MATMUL_DESC_TRANSB, &second);
        set(p, desc, Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, &p.finish.epilogue());
        if p.finish.inner().is_some() {
            set(p, desc, Desc::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(p.y.cols as i64));
        }
        // The search looks at these addresses too, for how they are aligned.
        point(p, desc);
        let mut plan = Plan { desc, a: layout(&p.b), b: layout(&p.a), y: layout(&p.y), algorithm: Algorithm { data: NONE } };
        let known = self.known.lock().expect("known algorithms").get(&self.key(p)).copied();
        plan.algorithm.data = known.or_else(|| self.search(p, &plan, stream).map(|found| found.data)).unwrap_or(NONE);
        (plan.algorithm.data != NONE).then_some(plan)
    }

    /// The heuristic's first, or the fastest of what it offers; `None` where that is nothing.
    fn search(&self, p: &Product, plan: &Plan, stream: &Stream) -> Option<Algorithm> {
        let (mut preference, mut count) = (null_mut(), 0);
        // SAFETY: all bits zero is a value of it.
        let mut found: [Found; OFFERED] = unsafe { std::mem::zeroed() };
        let tuning = self.tuning.load(Ordering::Relaxed);
        let wanted = if tuning { OFFERED } else { 1 };
        let aligned = [p.b.at, p.a.at, p.add.unwrap_or(p.y.at), p.y.at].map(alignment);
        // SAFETY: handles are the library's, values and sizes as it asks for them, room for `wanted` results.
        unsafe {
            must(sys::cublasLtMatmulPreferenceCreate(&mut preference), "cublasLtMatmulPreferenceCreate", p);
            let prefer = |which, value: *const c_void, bytes| {
                let code = sys::cublasLtMatmulPreferenceSetAttribute(preference, which, value, bytes);
                must(code, "cublasLtMatmulPreferenceSetAttribute", p);
            };
            let most = from_ref(&self.workspace.bytes).cast();
            prefer(Pref::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, most, size_of::<usize>());
            let operands = [
                Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ];
            operands.into_iter().zip(&aligned).for_each(|(which, bytes)| prefer(which, from_ref(bytes).cast(), size_of::<u32>()));
            let Plan { desc, a, b, y, .. } = *plan;
            let to = found.as_mut_ptr();
            let code =
                sys::cublasLtMatmulAlgoGetHeuristic(self.handle, desc, a, b, y, y, preference, wanted as i32, to, &mut count);
            sys::cublasLtMatmulPreferenceDestroy(preference);
            if code == Status::CUBLAS_STATUS_NOT_SUPPORTED {
                return None;
            }
            must(code, "cublasLtMatmulAlgoGetHeuristic", p);
            if count == 0 {
                return None;
            }
        }
        let time = |algorithm: &Algorithm| timed(stream, || self.run(p, plan, algorithm, stream));
        let offered = found[..count as usize].iter().map(|f| f.algo);
        let fastest = if tuning && count > 1 { offered.clone().min_by_key(time) } else { None };
        Some(fastest.unwrap_or(found[0].algo))
    }

    fn run(&self, p: &Product, plan: &Plan, algorithm: &Algorithm, stream: &Stream) {
        point(p, plan.desc);
        let (one, beta) = (1f32, if p.add.is_some() { 1f32 } else { 0f32 });
        let at = |address: u64| address as *mut c_void;
        // SAFETY: the operands are device memory of the layouts' sizes (the gate), the workspace is this stream's alone.
        let code = unsafe {
            let (alpha, beta) = (from_ref(&one).cast(), from_ref(&beta).cast());
            let (c, y) = (at(p.add.unwrap_or(p.y.at)), at(p.y.at));
            let (workspace, bytes) = (at(self.workspace.at), self.workspace.bytes);
            let Plan { desc, a, b, y: layout, .. } = *plan;
            let (first, second, on) = (at(p.b.at), at(p.a.at), stream.raw().cast());
            sys::cublasLtMatmul(
                self.handle,
                desc,
                alpha,
                first,
                a,
                second,
                b,
                beta,
                c,
                layout,
                y,
                layout,
                algorithm,
                workspace,
                bytes,
                on,
            )
        };
        must(code, "cublasLtMatmul", p);
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.gpu.bind();
        // SAFETY: the handles are ours, and used no more.
        unsafe {
            self.plans.lock().expect("plans of products").clear();
            sys::cublasLtDestroy(self.handle);
        }
    }
}

/// The least time that work took which was put into the stream.
fn timed(stream: &Stream, work: impl Fn()) -> Duration {
    let once = || {
        let began = Instant::now();
        work();
        stream.synchronize();
        began.elapsed()
    };
    once(); // the first loads the kernel
    (0..REPEATS).map(|_| once()).min().unwrap_or(Duration::MAX)
}

/// Tells a description where this product's vector and inner matrix lie.
fn point(p: &Product, desc: sys::cublasLtMatmulDesc_t) {
    if let Some(vector) = &p.finish.vector() {
        set(p, desc, Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
    }
    if let Some(inner) = &p.finish.inner() {
        set(p, desc, Desc::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, inner);
    }
}

fn set<T>(p: &Product, desc: sys::cublasLtMatmulDesc_t, which: Desc, value: &T) {
    // SAFETY: the attribute is one of this type.
    let code = unsafe { sys::cublasLtMatmulDescSetAttribute(desc, which, from_ref(value).cast(), size_of::<T>()) };
    must(code, "cublasLtMatmulDescSetAttribute", p);
}

/// Bytes that divide an address, up to what cuBLASLt asks for.
fn alignment(at: u64) -> u32 {
    1 << at.trailing_zeros().min(8)
}

#[track_caller]
fn must(code: Status, call: &str, p: &Product) {
    assert!(code == Status::CUBLAS_STATUS_SUCCESS, "cuBLASLt: {call} failed with {code:?} for {p:?}");
}
