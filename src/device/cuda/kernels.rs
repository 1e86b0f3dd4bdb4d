//! The kernels, `ops/*.cu`, from their text to functions that can be launched.
//!
//! ```text
//! text (in the program) ── NVRTC, or the cache ──> binary of one architecture      on one rank: a thousand must not compile
//! binary ── MPI_Bcast ──> every rank ──> module of the GPU ──> function by name
//! ```
//! The cache is `$XDG_CACHE_HOME/llm-train/kernels-ARCHITECTURE-HASH.cubin` (`~/.cache` without the variable); the hash is
//! that of the text, the options and NVRTC's version. An entry says what it is and how many bytes, with their sum: one that
//! is not whole is made again. What cannot be read or written is done without.
//!
//! `scripts/install.sh --embed-cubin` has the program compile its own text for the architectures of supercomputers, and builds
//! it again with the binaries in it: where one fits the GPU, NVRTC and the cache are not asked.
use super::Grid;
use super::driver::{Gpu, Stream, check};
use super::library::Needed;
use crate::device::Precision;
use crate::error::Result;
use crate::failed;
use cudarc::driver::sys::{self, CUfunction};
use cudarc::nvrtc::sys as nvrtc;
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// In the order in which they make one text: what all stand on comes first.
const FILES: &[&str] = &[
    include_str!("../../ops/prelude.cu"),
    include_str!("../../ops/attention/tiles.cu"),
    include_str!("../../ops/activation.cu"),
    include_str!("../../ops/adamw.cu"),
    include_str!("../../ops/attention/backward.cu"),
    include_str!("../../ops/attention/decode.cu"),
    include_str!("../../ops/attention/forward.cu"),
    include_str!("../../ops/attention/plain.cu"),
    include_str!("../../ops/elementwise.cu"),
    include_str!("../../ops/embedding.cu"),
    include_str!("../../ops/loss.cu"),
    include_str!("../../ops/norm.cu"),
    include_str!("../../ops/norm_wide.cu"),
    include_str!("../../ops/qk_norm.cu"),
    include_str!("../../ops/rope.cu"),
    include_str!("../../ops/rows.cu"),
    include_str!("../../ops/sample.cu"),
    include_str!("../../ops/verdict.cu"),
];

/// File name and content of the binaries that the program was built with, each for one architecture and number type.
const EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/cubins.rs"));
/// What `--embed-cubin` compiles for: A100, H100 and GH200, B200 and GB200.
const EMBEDDABLE: [&str; 3] = ["sm_80", "sm_90a", "sm_100a"];

/// An embedded binary's file name. The sum in it is that of text and options: what was compiled from another text does not count.
fn embedded_name(architecture: &str, precision: Precision) -> String {
    let all = [FILES.concat().as_bytes(), options(architecture, precision).join(" ").as_bytes()].concat();
    format!("kernels-{architecture}-{:016x}.cubin", hash(&all))
}

/// Architectures whose kernels the program holds, in both number types.
pub fn embedded() -> Vec<&'static str> {
    let holds = |name: String| EMBEDDED.iter().any(|(n, _)| *n == name);
    let both = |architecture: &str| [Precision::Fp32, Precision::Bf16].into_iter().all(|p| holds(embedded_name(architecture, p)));
    EMBEDDABLE.into_iter().filter(|architecture| both(architecture)).collect()
}

/// Compiles the kernels for [`EMBEDDABLE`] into files of a folder, for `build.rs` to put into the next program. Their names.
///
/// Errors: `Failed`: NVRTC is missing or too old for one of them, or a file cannot be written.
pub fn compile_embeddable(folder: &Path) -> Result<Vec<String>> {
    Needed::Compiler.check()?;
    let mut names = vec![];
    for architecture in EMBEDDABLE {
        for precision in [Precision::Fp32, Precision::Bf16] {
            let binary = compile(&FILES.concat(), &options(architecture, precision))?;
            let name = embedded_name(architecture, precision);
            let file = folder.join(&name);
            if let Err(e) = std::fs::write(&file, &binary) {
                failed!("{}: cannot be written: {e}", file.display());
            }
            names.push(name);
        }
    }
    Ok(names)
}

/// The compiled kernels of one architecture and one number type.
///
/// Errors: `Failed`: NVRTC is neither there nor needed no more, or does not understand the architecture.
pub fn binary(gpu: &Gpu, precision: Precision) -> Result<Vec<u8>> {
    let architecture = gpu.architecture();
    let name = embedded_name(&architecture, precision);
    if let Some((_, binary)) = EMBEDDED.iter().find(|(n, _)| *n == name) {
        log::debug!("kernels for {architecture} from the program itself");
        return Ok(binary.to_vec());
    }
    let options = options(&architecture, precision);
    let text = FILES.concat();
    let version = Needed::Compiler.check().and_then(|()| version());
    let key = |version: &str| {
        let all = [text.as_bytes(), options.join(" ").as_bytes(), version.as_bytes()].concat();
        format!("kernels-{architecture}-{:016x}.cubin", hash(&all))
    };
    let file = cache().zip(version.as_ref().ok()).map(|(folder, version)| folder.join(key(version)));
    if let Some(kept) = file.as_ref().and_then(|file| read(file)) {
        log::debug!("kernels for {architecture} from {}", file.as_ref().map_or(String::new(), |f| f.display().to_string()));
        return Ok(kept);
    }
    version?;
    let began = std::time::Instant::now();
    let binary = compile(&text, &options)?;
    log::debug!("kernels for {architecture}: {} bytes, compiled in {:.1} s", binary.len(), began.elapsed().as_secs_f64());
    if let Some(file) = file {
        write(&file, &binary);
    }
    Ok(binary)
}

fn options(architecture: &str, precision: Precision) -> Vec<String> {
    let real = if precision == Precision::Bf16 { "bf16" } else { "float" };
    vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into(), format!("-DREAL={real}")]
}

fn version() -> Result<String> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, both places are variables here.
    said(unsafe { nvrtc::nvrtcVersion(&mut major, &mut minor) }, "nvrtcVersion")?;
    Ok(format!("{major}.{minor}"))
}

fn compile(text: &str, options: &[String]) -> Result<Vec<u8>> {
    let text = CString::new(text).expect("sources hold no zero");
    let options: Vec<CString> = options.iter().map(|o| CString::new(o.as_str()).expect("options hold no zero")).collect();
    let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    let mut program = std::ptr::null_mut();
    let (none, mut bytes) = (std::ptr::null(), 0);
    // SAFETY: the library is there; texts end in zeros and outlive the program; buffers are as long as NVRTC says.
    unsafe {
        let created = nvrtc::nvrtcCreateProgram(&mut program, text.as_ptr(), c"kernels.cu".as_ptr(), 0, none, none);
        said(created, "nvrtcCreateProgram")?;
        if nvrtc::nvrtcCompileProgram(program, pointers.len() as i32, pointers.as_ptr()) != nvrtc::nvrtcResult::NVRTC_SUCCESS {
            said(nvrtc::nvrtcGetProgramLogSize(program, &mut bytes), "nvrtcGetProgramLogSize")?;
            let mut log = vec![0u8; bytes];
            said(nvrtc::nvrtcGetProgramLog(program, log.as_mut_ptr().cast()), "nvrtcGetProgramLog")?;
            let (log, options) = (String::from_utf8_lossy(&log), options.iter().map(|o| o.to_string_lossy()).collect::<Vec<_>>());
            failed!("NVRTC does not compile the kernels with {}: {}", options.join(" "), log.trim_end_matches('\0').trim());
        }
        said(nvrtc::nvrtcGetCUBINSize(program, &mut bytes), "nvrtcGetCUBINSize")?;
        let mut binary = vec![0u8; bytes];
        said(nvrtc::nvrtcGetCUBIN(program, binary.as_mut_ptr().cast()), "nvrtcGetCUBIN")?;
        said(nvrtc::nvrtcDestroyProgram(&mut program), "nvrtcDestroyProgram")?;
        Ok(binary)
    }
}

fn said(code: nvrtc::nvrtcResult, call: &str) -> Result<()> {
    if code == nvrtc::nvrtcResult::NVRTC_SUCCESS {
        return Ok(());
    }
    failed!("NVRTC: {call} failed with {code:?}")
}

/// The folder of what is kept between runs.
pub(super) fn cache() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home)?;
    Some(cache.join("llm-train"))
}

/// FNV-1a.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn header(content: &[u8]) -> String {
    format!("llm-train {} bytes, sum {:016x}\n", content.len(), hash(content))
}

/// What a file of the cache holds, where it is whole.
pub(super) fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let end = bytes.iter().position(|b| *b == b'\n')? + 1;
    let content = &bytes[end..];
    if bytes[..end] == *header(content).as_bytes() {
        return Some(content.to_vec());
    }
    log::warn!("{} is not whole: it is made again", file.display());
    None
}

/// Puts a file in place at once: another job may be reading.
pub(super) fn write(file: &Path, content: &[u8]) {
    let new = file.with_extension(std::process::id().to_string());
    let written = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = written.and_then(|()| std::fs::write(&new, [header(content).as_bytes(), content].concat()));
    if written.and_then(|()| std::fs::rename(&new, file)).is_err() {
        let _ = std::fs::remove_file(&new);
    }
}

/// Kernels that the GPU has in its memory.
pub struct Kernels {
    module: sys::CUmodule,
    /// With the most dynamic shared memory that each has been allowed so far.
    functions: Mutex<HashMap<&'static str, (Function, u32)>>,
    _gpu: Arc<Gpu>,
}

#[derive(Clone, Copy)]
struct Function(CUfunction);

// SAFETY: handles that any thread may use once the context is current on it.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

/// Structural: a launch may have so much dynamic shared memory without being allowed more.
const SHARED: u32 = 48 << 10;

impl Kernels {
    /// Errors: `Failed`: the binary is not for this GPU.
    pub fn load(gpu: &Arc<Gpu>, binary: &[u8]) -> Result<Kernels> {
        let mut module = std::ptr::null_mut();
        // SAFETY: the context is current; the driver reads a binary's length in the binary.
        check(unsafe { sys::cuModuleLoadData(&mut module, binary.as_ptr().cast()) }, "cuModuleLoadData of the kernels")?;
        Ok(Kernels { module, functions: Mutex::default(), _gpu: gpu.clone() })
    }

    /// The function, allowed `shared` bytes of dynamic shared memory. Panics where there is none of this name.
    fn function(&self, name: &'static str, shared: u32) -> CUfunction {
        let mut functions = self.functions.lock().expect("kernels");
        let (function, allowed) = functions.entry(name).or_insert_with(|| {
            let (mut function, text) = (std::ptr::null_mut(), CString::new(name).expect("a kernel's name"));
            // SAFETY: the module is loaded.
            let code = unsafe { sys::cuModuleGetFunction(&mut function, self.module, text.as_ptr()) };
            super::driver::must(code, &format!("cuModuleGetFunction of {name}"));
            (Function(function), SHARED)
        });
        if shared > *allowed {
            let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is the module's.
            let code = unsafe { sys::cuFuncSetAttribute(function.0, most, shared as i32) };
            super::driver::must(code, &format!("cuFuncSetAttribute of {name} to {shared} bytes of shared memory"));
            *allowed = shared;
        }
        function.0
    }

    /// Launches a kernel. What it reaches is the GPU's memory, of which Rust knows nothing: the arguments must be those that its
    /// comment lists.
    pub(super) fn launch(&self, name: &'static str, grid: Grid, arguments: &[u64], stream: &Stream) {
        let Grid { grid: g, block: b, shared } = grid;
        let function = self.function(name, shared as u32);
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(|a| std::ptr::from_ref(a).cast_mut().cast()).collect();
        let [g, b] = [g, b].map(|sizes| sizes.map(|n| u32::try_from(n).expect("a launch's size")));
        // SAFETY: a place for each parameter, at least as long as it is; the driver copies them before it returns.
        let code = unsafe {
            let (stream, extra) = (stream.handle, std::ptr::null_mut());
            sys::cuLaunchKernel(function, g[0], g[1], g[2], b[0], b[1], b[2], shared as u32, stream, pointers.as_mut_ptr(), extra)
        };
        super::driver::must(code, &format!("cuLaunchKernel of {name}, grid {g:?}, block {b:?}"));
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        self._gpu.bind();
        // SAFETY: loaded in `load`.
        unsafe { sys::cuModuleUnload(self.module) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_cache_counts_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep").join("kernels-sm_90a-1.cubin");
        assert_eq!(read(&file), None);
        write(&file, b"a binary\nof some lines");
        assert_eq!(read(&file).unwrap(), b"a binary\nof some lines");
        let whole = std::fs::read(&file).unwrap();
        for broken in [&whole[..whole.len() - 1], &whole[1..], b"", b"\n"] {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(read(&file), None);
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&file, flipped).unwrap();
        assert_eq!(read(&file), None);
    }
}
