//! Builds the kernels for the CPU, and launches them: [`Simulator`]; memory that kernels are given: [`Buffer`]. With a GPU
//! the same two speak to it instead (`gpu.rs`).
use crate::gpu;
use half::bf16;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

/// What the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Real {
    Bf16,
    Float,
}

/// Orders of threads: rising, falling, and two by chance.
const ORDERS: i32 = 4;

/// The environment of a child process: which planted fault it runs with.
pub const MUTANT: &str = "HOSTSIM_MUTANT";
/// The environment of a child process that has AddressSanitizer loaded.
pub const SANITIZED: &str = "HOSTSIM_SANITIZED";

/// Whether this process runs with a planted fault: few shapes are enough.
pub fn mutated() -> bool {
    std::env::var_os(MUTANT).is_some()
}

pub fn sanitized() -> bool {
    std::env::var_os(SANITIZED).is_some()
}

/// Runs `test` on the kernels for bf16 and on those for float.
pub fn each_real(test: impl Fn(&Simulator)) {
    let only = std::env::var(gpu::ONLY).unwrap_or(if mutated() { "bf16".into() } else { "both".into() });
    let both = [(Real::Bf16, "bf16"), (Real::Float, "float")].into_iter();
    let asked: Vec<Real> = both.filter(|(_, name)| [*name, "both"].contains(&only.as_str())).map(|(real, _)| real).collect();
    if !gpu::chosen() {
        // side by side, where they are not built yet
        std::thread::scope(|s| asked.iter().for_each(|real| drop(s.spawn(|| Library::built(*real)))));
    }
    for real in asked {
        test(&Simulator::new(real));
    }
}

/// One library of kernels with memory and schedule of its own.
pub struct Simulator {
    pub real: Real,
    on: On,
}

enum On {
    Cpu(Library),
    Gpu(gpu::Module),
}

/// The library of kernels that hostsim.h runs.
struct Library {
    launch: Launch,
    signature: Signature,
    order: unsafe extern "C" fn(c_int),
    conflicts: unsafe extern "C" fn() -> u32,
}

type Launch = unsafe extern "C" fn(*const c_char, *const u32, *const u32, usize, *mut *mut c_void) -> c_int;
type Signature = unsafe extern "C" fn(*const c_char, *mut Parameter, c_int) -> c_int;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Parameter {
    size: u32,
    kind: u8,
}

impl Simulator {
    pub fn new(real: Real) -> Simulator {
        Simulator { real, on: if gpu::chosen() { On::Gpu(gpu::Module::new(real)) } else { On::Cpu(Library::new(real)) } }
    }

    /// Runs a kernel to its end. Panics where it fails.
    pub fn launch(&self, kernel: &str, grid: impl Into<Dim>, block: impl Into<Dim>, shared: usize, arguments: &[Argument]) {
        let (grid, block) = (grid.into().0, block.into().0);
        match &self.on {
            On::Cpu(library) => library.launch(kernel, grid, block, shared, arguments),
            On::Gpu(module) => module.launch(kernel, grid, block, shared, arguments),
        }
    }

    /// Runs `f` in every order of threads, on a GPU as often; what it returns must be the same, to the last bit.
    pub fn in_every_order(&self, f: impl Fn() -> Vec<Buffer>) -> Vec<Buffer> {
        let mut all = (0..ORDERS).map(|order| {
            if let On::Cpu(library) = &self.on {
                // SAFETY: sets an integer.
                unsafe { (library.order)(order) };
            }
            f()
        });
        let first = all.next().unwrap();
        for (order, other) in all.enumerate() {
            for (i, (a, b)) in first.iter().zip(&other).enumerate() {
                assert!(a.bytes() == b.bytes(), "output {i} depends on the order of threads: {} is not 0", order + 1);
            }
        }
        first
    }

    /// Looks at what `f` returns in every order of threads; it need not be the same bits.
    pub fn in_any_order(&self, f: impl Fn() -> Vec<Buffer>, look: impl Fn(&[Buffer])) {
        for order in 0..ORDERS {
            if let On::Cpu(library) = &self.on {
                // SAFETY: sets an integer.
                unsafe { (library.order)(order) };
            }
            look(&f());
        }
    }

    /// Bank conflicts of ldmatrix so far.
    pub fn conflicts(&self) -> u32 {
        match &self.on {
            // SAFETY: reads an integer.
            On::Cpu(library) => unsafe { (library.conflicts)() },
            On::Gpu(_) => 0,
        }
    }

    /// Activations, rounded to what the kernels are compiled for.
    pub fn real(&self, values: &[f32]) -> Buffer {
        match self.real {
            Real::Bf16 => Buffer::of(&values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>()),
            Real::Float => Buffer::of(values),
        }
    }
    /// Room for activations, holding NaN.
    pub fn room(&self, len: usize) -> Buffer {
        Buffer::fresh(len * if self.real == Real::Bf16 { 2 } else { 4 })
    }
    pub fn floats(&self, b: &Buffer) -> Vec<f32> {
        match self.real {
            Real::Bf16 => b.to_vec::<bf16>().into_iter().map(bf16::to_f32).collect(),
            Real::Float => b.to_vec(),
        }
    }
    pub fn rounded(&self, values: &[f32]) -> Vec<f32> {
        values.iter().map(|v| if self.real == Real::Bf16 { bf16::from_f32(*v).to_f32() } else { *v }).collect()
    }
}

impl Library {
    fn built(real: Real) -> PathBuf {
        let mut flags = if real == Real::Float { vec!["-DREAL=float"] } else { vec![] };
        if sanitized() {
            flags.extend([
                "-fsanitize=address",
                "-fsanitize-sections=hostsim_shared",
                "--param=asan-instrumentation-with-call-threshold=0",
            ]);
        }
        build(&if mutated() { super::mutants::sources() } else { ops() }, &flags)
    }

    fn new(real: Real) -> Library {
        // A copy for each simulator: the library's statics are its shared memory and its threads.
        let own = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(Library::built(real), own.path()).unwrap();
        let path = CString::new(own.path().to_str().unwrap()).unwrap();
        // SAFETY: the library's constructors only fill its own table; the functions have the types that hostsim.h declares.
        unsafe {
            let lib = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            assert!(!lib.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
            let find = |name: &CStr| {
                let found = libc::dlsym(lib, name.as_ptr());
                assert!(!found.is_null(), "{name:?} is not in the library of kernels");
                found
            };
            if !sanitized() {
                // which has a report of its own
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(find(c"hostsim_report_faults"))();
            }
            Library {
                launch: std::mem::transmute::<*mut c_void, Launch>(find(c"hostsim_launch")),
                signature: std::mem::transmute::<*mut c_void, Signature>(find(c"hostsim_signature")),
                order: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int)>(find(c"hostsim_order")),
                conflicts: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> u32>(find(c"hostsim_conflicts")),
            }
        }
    }

    /// Panics where the simulator reports a fault, or the arguments are not the kernel's.
    fn launch(&self, kernel: &str, grid: [u32; 3], block: [u32; 3], shared: usize, arguments: &[Argument]) {
        let name = CString::new(kernel).unwrap();
        let mut parameters = [Parameter::default(); 24];
        // SAFETY: at most 24 parameters are written.
        let count = unsafe { (self.signature)(name.as_ptr(), parameters.as_mut_ptr(), 24) };
        assert!(count >= 0, "no kernel {kernel}");
        assert_eq!(count as usize, arguments.len(), "{kernel}: arguments");
        let mut words: Vec<[u8; 8]> = arguments.iter().map(|a| a.bytes()).collect();
        for (i, (argument, parameter)) in arguments.iter().zip(parameters).enumerate() {
            assert_eq!(argument.size(), parameter.size as usize, "{kernel}: size of argument {i}");
            assert_eq!(matches!(argument, Argument::Pointer(_)), parameter.kind != b'v', "{kernel}: kind of argument {i}");
        }
        let mut places: Vec<*mut c_void> = words.iter_mut().map(|w| w.as_mut_ptr().cast()).collect();
        // SAFETY: the arguments have the kernel's types (above); what it touches beyond its buffers is what is tested.
        let done = unsafe { (self.launch)(name.as_ptr(), grid.as_ptr(), block.as_ptr(), shared, places.as_mut_ptr()) };
        assert_eq!(done, 0, "{kernel} failed with grid {grid:?}, block {block:?}");
    }
}

pub struct Dim([u32; 3]);
impl From<usize> for Dim {
    fn from(x: usize) -> Dim {
        Dim([x as u32, 1, 1])
    }
}
impl From<[usize; 2]> for Dim {
    fn from([x, y]: [usize; 2]) -> Dim {
        Dim([x as u32, y as u32, 1])
    }
}
impl From<[usize; 3]> for Dim {
    fn from(d: [usize; 3]) -> Dim {
        Dim(d.map(|d| d as u32))
    }
}

/// What a kernel takes.
pub enum Argument {
    Pointer(*mut u8),
    Word(u32),
    Long(u64),
    Double(f64),
}
pub const NULL: Argument = Argument::Pointer(std::ptr::null_mut());

impl Argument {
    pub fn bytes(&self) -> [u8; 8] {
        match self {
            Argument::Pointer(p) => (*p as u64).to_ne_bytes(),
            Argument::Word(x) => u64::from(*x).to_ne_bytes(),
            Argument::Long(x) => x.to_ne_bytes(),
            Argument::Double(x) => x.to_ne_bytes(),
        }
    }
    fn size(&self) -> usize {
        if matches!(self, Argument::Word(_)) { 4 } else { 8 }
    }
}
impl From<&Buffer> for Argument {
    fn from(b: &Buffer) -> Argument {
        Argument::Pointer(b.at)
    }
}
impl From<Option<&Buffer>> for Argument {
    fn from(b: Option<&Buffer>) -> Argument {
        b.map_or(NULL, Argument::from)
    }
}
impl From<i32> for Argument {
    fn from(x: i32) -> Argument {
        Argument::Word(x as u32)
    }
}
impl From<usize> for Argument {
    /// An `int` of the kernel.
    fn from(x: usize) -> Argument {
        Argument::Word(x as u32)
    }
}
impl From<u64> for Argument {
    fn from(x: u64) -> Argument {
        Argument::Long(x)
    }
}
impl From<f32> for Argument {
    fn from(x: f32) -> Argument {
        Argument::Word(x.to_bits())
    }
}
impl From<f64> for Argument {
    fn from(x: f64) -> Argument {
        Argument::Double(x)
    }
}

#[macro_export]
macro_rules! arguments {
    ($($x:expr),* $(,)?) => { &[$($crate::simulator::Argument::from($x)),*] };
}

/// Memory for a kernel: it starts on 16 bytes, and a page that cannot be touched follows its end at the next 16. Those few
/// bytes between hold a pattern, and AddressSanitizer forbids them. Fresh memory is NaN.
pub struct Buffer {
    at: *mut u8,
    len: usize,
    map: *mut u8,
    body: usize,
}

const PAGE: usize = 4096;
const FRESH: u8 = 0xff;

impl Buffer {
    pub fn fresh(len: usize) -> Buffer {
        if gpu::chosen() {
            let body = (len + 2 * PAGE).next_multiple_of(PAGE);
            let map = gpu::allocate(body);
            // SAFETY: within what was allocated.
            unsafe { map.write_bytes(FRESH, body) };
            return Buffer { at: map.wrapping_add(PAGE), len, map, body };
        }
        let room = len.next_multiple_of(16);
        let body = room.next_multiple_of(PAGE).max(PAGE);
        // SAFETY: a fresh mapping, whose last page is closed; `at` lies within it.
        unsafe {
            let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let map = libc::mmap(std::ptr::null_mut(), body + PAGE, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1, 0);
            assert!(map != libc::MAP_FAILED, "no memory");
            let map: *mut u8 = map.cast();
            map.write_bytes(FRESH, body);
            assert_eq!(libc::mprotect(map.add(body).cast(), PAGE, libc::PROT_NONE), 0);
            let b = Buffer { at: map.add(body - room), len, map, body };
            b.forbid_slack(true);
            b
        }
    }
    pub fn of<T: Copy>(values: &[T]) -> Buffer {
        let b = Buffer::fresh(size_of_val(values));
        // SAFETY: as long as the values.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast(), b.at, b.len) };
        b
    }
    /// What begins `skipped` bytes further on.
    pub fn after(&self, skipped: usize) -> Argument {
        assert!(skipped <= self.len);
        // SAFETY: within the buffer.
        Argument::Pointer(unsafe { self.at.add(skipped) })
    }
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: alive and initialised; no kernel runs while the tests look.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
    pub fn to_vec<T: Copy>(&self) -> Vec<T> {
        assert!(self.len.is_multiple_of(size_of::<T>()));
        // SAFETY: any bits are a T of those used here; the start is aligned to 16.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.len / size_of::<T>()) }.to_vec()
    }
    fn forbid_slack(&self, forbid: bool) {
        let name = if forbid { c"__asan_poison_memory_region" } else { c"__asan_unpoison_memory_region" };
        // SAFETY: the sanitizer's own interface, where it is loaded; both ranges lie in the mapping.
        unsafe {
            let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
            if sanitized() && !found.is_null() {
                let set = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const u8, usize)>(found);
                set(self.map, self.at as usize - self.map as usize);
                set(self.at.add(self.len), self.len.next_multiple_of(16) - self.len);
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.forbid_slack(false);
        // SAFETY: the mapping is alive until the end of this.
        let whole = unsafe { std::slice::from_raw_parts(self.map, self.body) };
        let start = self.at as usize - self.map as usize;
        let intact = whole[..start].iter().chain(&whole[start + self.len..]).all(|b| *b == FRESH);
        if gpu::chosen() {
            gpu::free(self.map);
        } else {
            // SAFETY: mapped by `fresh`, not used after.
            unsafe { libc::munmap(self.map.cast(), self.body + PAGE) };
        }
        assert!(intact || std::thread::panicking(), "a kernel wrote outside its memory");
    }
}

pub fn ops() -> PathBuf {
    root().join("src/ops")
}

/// What holds `src/ops` and `tests/cuda`: the repository, or a bundle (`scripts/gpu-check.sh`).
pub fn root() -> PathBuf {
    std::env::var_os("LLM_TRAIN_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The library of the kernels in a folder, from the cache of this very text and these flags, or built: once, whoever asks.
pub fn build(sources: &Path, flags: &[&str]) -> PathBuf {
    static BUILT: Mutex<BTreeMap<u64, Arc<OnceLock<PathBuf>>>> = Mutex::new(BTreeMap::new());
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda");
    let mut hasher = DefaultHasher::new();
    flags.hash(&mut hasher);
    for folder in [sources, &sources.join("attention"), &tests] {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| ["cu", "h", "sh"].contains(&e.to_str().unwrap()))) {
            std::fs::read(file).unwrap().hash(&mut hasher);
        }
    }
    let key = hasher.finish();
    let built = BUILT.lock().unwrap_or_else(|e| e.into_inner()).entry(key).or_default().clone();
    let path = || {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{key:016x}.so"));
        if !path.exists() {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let fresh = folder.path().join("kernels.so");
            let done = Command::new(tests.join("kernels.sh")).arg(sources).arg(&fresh).args(flags).output();
            let done = done.expect("bash, to build the kernels for the CPU");
            assert!(done.status.success(), "kernels.sh (it needs g++ 12 or newer): {}", String::from_utf8_lossy(&done.stderr));
            std::fs::rename(&fresh, &path).unwrap();
        }
        path
    };
    built.get_or_init(path).clone()
}
