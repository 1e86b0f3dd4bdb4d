//! The driver's calls, each with its return code looked at: a GPU, its streams and events, memory on both sides.
//!
//! ```text
//! Gpu        one device and its primary context, current on every thread that has called `bind`
//! Stream     work in order                 Event   a place in a stream: another stream, or the host, waits for it
//! Memory     on the GPU                    Pinned  on the host, at addresses that the GPU reads by itself
//! ```
//! A call that fails once a run has begun is a broken invariant or broken hardware: it panics, naming call and code, and the
//! panic ends the job. What may fail by the user's doing is a `Result`.
use super::library::{Library, Needed};
use crate::error::Result;
use crate::failed;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use std::ffi::{CStr, c_void};
use std::sync::Arc;
use std::time::Duration;

/// The oldest driver whose version of CUDA the libraries of ours that it serves may have.
const OLDEST_DRIVER: i32 = 12000;
/// Ampere: what the kernels' instructions need (bf16 products, asynchronous copies).
const OLDEST_GPU: (i32, i32) = (8, 0);

/// A GPU that a process works with.
pub struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub name: String,
    /// Major and minor number of its architecture.
    pub capability: (i32, i32),
    /// Where it sits: the same in all processes that see it, whatever number they know it by.
    pub bus: String,
    /// Bytes of its memory.
    pub memory: usize,
    pub processors: usize,
    elapsed: Elapsed,
}

/// `cuEventElapsedTime`, which drivers for CUDA 12 and 13 have alike; cudarc names the younger one of 13 alone.
type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> CUresult;

// SAFETY: handles that any thread may use once the context is current on it.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// Number of GPUs that this process sees.
///
/// Errors: `Failed`, saying which library or what of the driver is missing.
pub fn count() -> Result<usize> {
    Needed::Driver.check()?;
    let (mut version, mut count) = (0, 0);
    // SAFETY: the library is there, and both places are variables here.
    unsafe {
        let code = sys::cuInit(0);
        if code == CUresult::CUDA_ERROR_NO_DEVICE {
            return Ok(0);
        }
        check(code, "cuInit")?;
        check(sys::cuDriverGetVersion(&mut version), "cuDriverGetVersion")?;
        check(sys::cuDeviceGetCount(&mut count), "cuDeviceGetCount")?;
    }
    if version < OLDEST_DRIVER {
        let of = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
        failed!("NVIDIA's driver: expected one for CUDA {} or later, found one for CUDA {}", of(OLDEST_DRIVER), of(version));
    }
    Ok(count as usize)
}

impl Gpu {
    /// The GPU of a rank: by its number among those of its node, and the only one where it sees only one.
    ///
    /// Errors: `Failed`, naming what is missing or too old.
    pub fn of(local_rank: usize) -> Result<Arc<Gpu>> {
        let count = count()?;
        if count == 0 {
            failed!("NVIDIA's driver sees no GPU: expected at least one (CUDA_VISIBLE_DEVICES hides them where it is empty)");
        }
        let mut gpu = Gpu::open(local_rank % count)?;
        if gpu.capability < OLDEST_GPU {
            let ((major, minor), (at_least, _)) = (gpu.capability, OLDEST_GPU);
            failed!("{}: expected compute capability {at_least}.0 or later, found {major}.{minor}", gpu.name);
        }
        gpu.name = gpu.name.trim().to_string();
        Ok(Arc::new(gpu))
    }

    fn open(ordinal: usize) -> Result<Gpu> {
        let (mut device, mut context, mut memory) = (0, std::ptr::null_mut(), 0);
        let (mut name, mut bus) = ([0 as std::ffi::c_char; 256], [0 as std::ffi::c_char; 64]);
        // SAFETY: the driver is up, every place is a variable here and as long as said.
        unsafe {
            check(sys::cuDeviceGet(&mut device, ordinal as i32), "cuDeviceGet")?;
            check(sys::cuDeviceGetName(name.as_mut_ptr(), 256, device), "cuDeviceGetName")?;
            check(sys::cuDeviceGetPCIBusId(bus.as_mut_ptr(), 64, device), "cuDeviceGetPCIBusId")?;
            check(sys::cuDeviceTotalMem_v2(&mut memory, device), "cuDeviceTotalMem")?;
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "cuDevicePrimaryCtxRetain")?;
            check(sys::cuCtxSetCurrent(context), "cuCtxSetCurrent")?;
        }
        let attribute = |which| -> Result<i32> {
            let mut value = 0;
            // SAFETY: as above.
            check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) }, "cuDeviceGetAttribute")?;
            Ok(value)
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let elapsed = Library::open(&["libcuda.so.1"])?.function(c"cuEventElapsedTime")?;
        // SAFETY: the driver's own function of that name, as its header has it.
        let elapsed = unsafe { std::mem::transmute::<*mut c_void, Elapsed>(elapsed) };
        Ok(Gpu { device, context, name: text(&name), capability: (major, minor), bus: text(&bus), memory, processors, elapsed })
    }

    /// What kernels are compiled for: from Hopper on with the instructions of this architecture alone.
    pub fn architecture(&self) -> String {
        let (major, minor) = self.capability;
        format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" })
    }

    /// Makes the GPU the one that calls of this thread mean.
    pub fn bind(&self) {
        // SAFETY: the context lives as long as `self`.
        must(unsafe { sys::cuCtxSetCurrent(self.context) }, "cuCtxSetCurrent");
    }

    /// Bytes of memory that nobody has taken.
    pub fn free(&self) -> usize {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are variables here.
        must(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "cuMemGetInfo");
        free
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: retained in `open`. Its code no longer matters to anyone.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Work that the GPU does in order, beside that of other streams.
pub struct Stream {
    pub(super) handle: sys::CUstream,
    gpu: Arc<Gpu>,
}

// SAFETY: a handle that any thread may use once the context is current on it.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Stream> {
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current.
        check(unsafe { sys::cuStreamCreate(&mut handle, flags) }, "cuStreamCreate")?;
        Ok(Stream { handle, gpu: gpu.clone() })
    }
    /// For libraries that are handed one.
    pub fn raw(&self) -> *mut c_void {
        self.handle.cast()
    }
    /// What lies before this place in the stream.
    pub fn record(&self) -> Event {
        let event = Event::new(&self.gpu);
        event.record(self);
        event
    }
    /// Later work here waits until the event has come; the host does not.
    pub fn wait(&self, event: &Event) {
        // SAFETY: both handles are alive.
        must(unsafe { sys::cuStreamWaitEvent(self.handle, event.handle, 0) }, "cuStreamWaitEvent");
    }
    /// The host waits for all work so far.
    pub fn synchronize(&self) {
        // SAFETY: the handle is alive.
        must(unsafe { sys::cuStreamSynchronize(self.handle) }, "cuStreamSynchronize");
    }
    /// Every byte of `bytes` at `to` becomes `value`.
    ///
    /// # Safety
    /// They are device memory, and no other stream uses them meanwhile.
    pub unsafe fn fill(&self, to: u64, value: u8, bytes: usize) {
        // SAFETY: the caller's promise.
        must(unsafe { sys::cuMemsetD8Async(to, value, bytes, self.handle) }, "cuMemsetD8Async");
    }
    /// # Safety
    /// Both are device memory of so many bytes, and no other stream uses them meanwhile.
    pub unsafe fn copy(&self, to: u64, from: u64, bytes: usize) {
        // SAFETY: the caller's promise.
        must(unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.handle) }, "cuMemcpyDtoDAsync");
    }
    /// # Safety
    /// `to` is device memory, `from` host memory of so many bytes, which stays as it is until the copy has run where it is
    /// pinned.
    pub unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize) {
        // SAFETY: the caller's promise.
        must(unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, self.handle) }, "cuMemcpyHtoDAsync");
    }
    /// # Safety
    /// `from` is device memory, `to` host memory of so many bytes, which nobody touches until the copy has run.
    pub unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize) {
        // SAFETY: the caller's promise.
        must(unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, self.handle) }, "cuMemcpyDtoHAsync");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.gpu.bind();
        // SAFETY: made in `new`; the driver finishes what is in it.
        unsafe { sys::cuStreamDestroy_v2(self.handle) };
    }
}

/// A place in a stream.
pub struct Event {
    handle: sys::CUevent,
    gpu: Arc<Gpu>,
}

// SAFETY: a handle that any thread may use once the context is current on it.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Without a clock, which would cost time.
    pub fn new(gpu: &Arc<Gpu>) -> Event {
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the context is current.
        must(unsafe { sys::cuEventCreate(&mut handle, flags) }, "cuEventCreate");
        Event { handle, gpu: gpu.clone() }
    }
    /// With one: the GPU writes down when it has come.
    pub fn timed(gpu: &Arc<Gpu>) -> Event {
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: the context is current.
        must(unsafe { sys::cuEventCreate(&mut handle, flags) }, "cuEventCreate");
        Event { handle, gpu: gpu.clone() }
    }
    /// The time that the GPU took from this to `later`. Both are timed, and have come.
    pub fn until(&self, later: &Event) -> Duration {
        let mut milliseconds = 0f32;
        // SAFETY: both handles are alive, the place is a variable here.
        must(unsafe { (self.gpu.elapsed)(&mut milliseconds, self.handle, later.handle) }, "cuEventElapsedTime");
        Duration::from_secs_f64(f64::from(milliseconds).max(0.0) / 1e3)
    }
    pub fn record(&self, stream: &Stream) {
        // SAFETY: both handles are alive.
        must(unsafe { sys::cuEventRecord(self.handle, stream.handle) }, "cuEventRecord");
    }
    /// Whether it has come.
    pub fn has_come(&self) -> bool {
        // SAFETY: the handle is alive.
        match unsafe { sys::cuEventQuery(self.handle) } {
            CUresult::CUDA_ERROR_NOT_READY => false,
            code => {
                must(code, "cuEventQuery");
                true
            }
        }
    }
    /// The host waits until it has come. At once where it was never recorded.
    pub fn synchronize(&self) {
        // SAFETY: the handle is alive.
        must(unsafe { sys::cuEventSynchronize(self.handle) }, "cuEventSynchronize");
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.gpu.bind();
        // SAFETY: made in `new`; waits that are under way keep what they need.
        unsafe { sys::cuEventDestroy_v2(self.handle) };
    }
}

/// Memory of the GPU, uninitialised.
pub struct Memory {
    pub at: u64,
    pub bytes: usize,
    gpu: Arc<Gpu>,
}

impl Memory {
    /// `None` where the GPU has not so much left.
    pub fn take(gpu: &Arc<Gpu>, bytes: usize) -> Option<Memory> {
        let (mut at, bytes) = (0, bytes.max(256));
        // SAFETY: the context is current.
        match unsafe { sys::cuMemAlloc_v2(&mut at, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => return None,
            code => must(code, "cuMemAlloc"),
        }
        Some(Memory { at, bytes, gpu: gpu.clone() })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.gpu.bind();
        // SAFETY: taken in `take`; the driver waits for work that uses it.
        unsafe { sys::cuMemFree_v2(self.at) };
    }
}

/// Host memory that stays where it is, so that copies to and from it run beside everything else.
pub struct Pinned {
    pub at: *mut u8,
    pub bytes: usize,
    gpu: Arc<Gpu>,
}

// SAFETY: plain memory; whoever holds the `Pinned` decides who reads and writes it.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub fn take(gpu: &Arc<Gpu>, bytes: usize) -> Pinned {
        let (mut at, bytes) = (std::ptr::null_mut(), bytes.max(64));
        // SAFETY: the context is current. Portable: to every context of the process alike.
        let code = unsafe { sys::cuMemHostAlloc(&mut at, bytes, sys::CU_MEMHOSTALLOC_PORTABLE) };
        must(code, "cuMemHostAlloc (pinned host memory)");
        Pinned { at: at.cast(), bytes, gpu: gpu.clone() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.gpu.bind();
        // SAFETY: taken in `take`; the driver waits for copies that use it.
        unsafe { sys::cuMemFreeHost(self.at.cast()) };
    }
}

fn text(bytes: &[std::ffi::c_char]) -> String {
    // SAFETY: the driver ends what it writes with a zero, within the length that it was told.
    unsafe { CStr::from_ptr(bytes.as_ptr()) }.to_string_lossy().into_owned()
}

/// The driver's own name of a code.
fn word(code: CUresult) -> String {
    format!("{code:?}")
}

pub(super) fn check(code: CUresult, call: &str) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    failed!("NVIDIA's driver: {call} failed with {}", word(code))
}

/// For calls in the middle of a step.
#[track_caller]
pub(super) fn must(code: CUresult, call: &str) {
    assert!(code == CUresult::CUDA_SUCCESS, "NVIDIA's driver: {call} failed with {}", word(code));
}
