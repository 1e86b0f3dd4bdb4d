//! The same tests on a GPU: `KERNELS_ON=gpu cargo test --release --test cuda_kernels`, where there is one.
//!
//! The kernels come from NVRTC. A buffer is host memory that the GPU reads and writes by itself, so a launch copies nothing:
//! right for a few thousand numbers, whatever it costs. Each test runs as often as there would be orders of threads, and must
//! repeat itself to the last bit. The emulated instructions are held to the real ones there.
//!
//! Here, the stub driver of `tests/cuda/stub` stands for the GPU: it shows that this file works, no more.
use crate::simulator::{Argument, Real, build, mutated, ops, root, sanitized};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction, CUfunction_attribute, CUmodule, CUresult};
use cudarc::nvrtc::sys as nvrtc;
use std::ffi::{CStr, CString, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the kernels run: `gpu`, or on the CPU.
const WHERE: &str = "KERNELS_ON";
/// One kind of activations only: the stub knows the kernels of one.
pub const ONLY: &str = "KERNELS_REAL";

pub fn chosen() -> bool {
    std::env::var_os(WHERE).is_some_and(|on| on == "gpu")
}

fn check(code: CUresult, call: &str) {
    assert_eq!(code, CUresult::CUDA_SUCCESS, "{call}");
}

/// Makes the first GPU's context current on this thread. Returns its architecture.
pub fn bind() -> String {
    static FIRST: OnceLock<(usize, String)> = OnceLock::new();
    let (context, architecture) = FIRST.get_or_init(|| {
        let (mut device, mut context, mut major, mut minor) = (0, std::ptr::null_mut(), 0, 0);
        // SAFETY: all places are variables here.
        unsafe {
            check(sys::cuInit(0), "cuInit");
            check(sys::cuDeviceGet(&mut device, 0), "cuDeviceGet");
            let [first, second] = [
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            ];
            check(sys::cuDeviceGetAttribute(&mut major, first, device), "cuDeviceGetAttribute");
            check(sys::cuDeviceGetAttribute(&mut minor, second, device), "cuDeviceGetAttribute");
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "cuDevicePrimaryCtxRetain");
        }
        (context as usize, format!("sm_{major}{minor}"))
    });
    // SAFETY: the context is kept until the process ends.
    check(unsafe { sys::cuCtxSetCurrent(*context as sys::CUcontext) }, "cuCtxSetCurrent");
    architecture.clone()
}

/// Memory that both sides address alike.
pub fn allocate(bytes: usize) -> *mut u8 {
    bind();
    let mut at = std::ptr::null_mut();
    let shared = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
    // SAFETY: the place is a variable here.
    check(unsafe { sys::cuMemHostAlloc(&mut at, bytes, shared) }, "cuMemHostAlloc");
    at.cast()
}

pub fn free(at: *mut u8) {
    bind();
    // SAFETY: from `allocate`; launches have ended.
    check(unsafe { sys::cuMemFreeHost(at.cast()) }, "cuMemFreeHost");
}

/// The kernels, loaded.
pub struct Module(CUmodule);

impl Module {
    pub fn new(real: Real) -> Module {
        static BINARIES: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
        let architecture = bind();
        let binary = BINARIES[usize::from(real == Real::Float)].get_or_init(|| compile(real, &architecture));
        let mut module = std::ptr::null_mut();
        // SAFETY: the binary outlives the call.
        check(unsafe { sys::cuModuleLoadData(&mut module, binary.as_ptr().cast()) }, "cuModuleLoadData");
        Module(module)
    }

    /// Runs a kernel to its end.
    pub fn launch(&self, kernel: &str, [x, y, z]: [u32; 3], block: [u32; 3], shared: usize, arguments: &[Argument]) {
        bind();
        let name = CString::new(kernel).unwrap();
        let mut words: Vec<[u8; 8]> = arguments.iter().map(|a| a.bytes()).collect();
        let mut places: Vec<*mut c_void> = words.iter_mut().map(|w| w.as_mut_ptr().cast()).collect();
        let mut function: CUfunction = std::ptr::null_mut();
        let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: arguments of the kernel's types (the simulator, launched alike, has checked them) that outlive the launch.
        unsafe {
            check(sys::cuModuleGetFunction(&mut function, self.0, name.as_ptr()), kernel);
            check(sys::cuFuncSetAttribute(function, most, shared as i32), kernel);
            let (none, extra) = (std::ptr::null_mut(), std::ptr::null_mut());
            let [bx, by, bz] = block;
            let code = sys::cuLaunchKernel(function, x, y, z, bx, by, bz, shared as u32, none, places.as_mut_ptr(), extra);
            check(code, kernel);
            check(sys::cuStreamSynchronize(none), kernel);
        }
    }
}

/// All files as one text, as the program has them. The binary is kept where the program keeps its own: `gpu-check` runs these tests
/// several times.
fn compile(real: Real, architecture: &str) -> Vec<u8> {
    let first = ["prelude.cu", "attention/tiles.cu"].map(|f| ops().join(f));
    let mut files = vec![root().join("tests/cuda/probes.cu")];
    for folder in [ops(), ops().join("attention")] {
        let all = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
        files.extend(all.filter(|f| f.extension().is_some_and(|e| e == "cu") && !first.contains(f)));
    }
    files.sort();
    let text: String = first.iter().chain(&files).map(|f| std::fs::read_to_string(f).unwrap()).collect();
    let text = CString::new(text).unwrap();
    let number = if real == Real::Float { "float" } else { "bf16" };
    let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".into(), format!("-DREAL={number}")];
    let options = options.map(|o| CString::new(o).unwrap());
    let mut version = [0; 2];
    // SAFETY: both places are variables here.
    unsafe { nvrtc::nvrtcVersion(&mut version[0], &mut version[1]) };
    let mut key = DefaultHasher::new();
    (&text, &options, version).hash(&mut key);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let file = cache.map(|cache| cache.join(format!("tests-{:016x}.cubin", key.finish())));
    if let Some(binary) = file.as_ref().and_then(|file| std::fs::read(file).ok()) {
        return binary;
    }
    let binary = by_nvrtc(&text, &options, architecture);
    if let Some(file) = file {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let fresh = tempfile::NamedTempFile::new_in(file.parent().unwrap()).unwrap();
        std::fs::write(fresh.path(), &binary).unwrap();
        fresh.persist(file).unwrap();
    }
    binary
}

fn by_nvrtc(text: &CStr, options: &[CString; 3], architecture: &str) -> Vec<u8> {
    let pointers = options.each_ref().map(|o| o.as_ptr());
    let (mut program, none, mut bytes) = (std::ptr::null_mut(), std::ptr::null(), 0);
    let done = nvrtc::nvrtcResult::NVRTC_SUCCESS;
    // SAFETY: texts end in zeros; the buffer is as long as NVRTC says.
    unsafe {
        assert_eq!(nvrtc::nvrtcCreateProgram(&mut program, text.as_ptr(), c"kernels.cu".as_ptr(), 0, none, none), done);
        assert_eq!(nvrtc::nvrtcCompileProgram(program, 3, pointers.as_ptr()), done, "the kernels for {architecture}");
        assert_eq!(nvrtc::nvrtcGetCUBINSize(program, &mut bytes), done);
        let mut binary = vec![0u8; bytes];
        assert_eq!(nvrtc::nvrtcGetCUBIN(program, binary.as_mut_ptr().cast()), done);
        binary
    }
}

/// The file above, where there is no GPU: on the stub, these tests pass. (They all do, in a minute.)
#[test]
fn on_a_stub_driver() {
    if chosen() || mutated() || sanitized() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let wheels = Command::new(root.join("scripts/cuda-wheels.sh")).output().unwrap();
    if !wheels.status.success() {
        let why = String::from_utf8_lossy(&wheels.stderr);
        assert!(std::env::var_os("CI").is_none(), "not tested: {why}");
        return eprintln!("NOT TESTED: NVRTC cannot be installed here: {why}");
    }
    let compiler = String::from_utf8(wheels.stdout).unwrap();
    let stubs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-stub");
    let built = Command::new(root.join("tests/cuda/stub/build.sh")).arg(&stubs).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--test-threads=1", "norm::norm", "instructions", "adamw", "attention::decode", "attention::a_nan"])
        .envs([(WHERE, "gpu"), (ONLY, "bf16")])
        .env("STUB_KERNELS", build(&ops(), &[]))
        .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
        .env("LD_LIBRARY_PATH", format!("{}:{}", stubs.display(), compiler.trim()))
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("test norm::norm ... ok"), "{said}\n{errors}");
}
