//! What a GPU uses and how fast it runs, by NVIDIA's management library (NVML), which comes with the driver. Found at run time; where
//! it is missing, or a GPU does not tell something, that is unknown.
//!
//! ```text
//! joules   nvmlDeviceGetTotalEnergyConsumption   millijoules since the driver was loaded
//! watts    nvmlDeviceGetPowerUsage               milliwatts, averaged by the GPU over about a second
//! clock    nvmlDeviceGetClockInfo                of the multiprocessors, MHz
//! ```
//! Six functions do not pay for a wrapper's crate; `cudarc` has no part for NVML.
use super::driver::Gpu;
use super::library::Library;
use crate::error::Result;
use crate::failed;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};

const SUCCESS: c_int = 0;
const CLOCK_OF_MULTIPROCESSORS: c_uint = 1;

type Handle = *mut c_void;

/// A GPU, as the library knows it.
pub struct Management {
    handle: Handle,
    energy: unsafe extern "C" fn(Handle, *mut c_ulonglong) -> c_int,
    power: unsafe extern "C" fn(Handle, *mut c_uint) -> c_int,
    clock: unsafe extern "C" fn(Handle, c_uint, *mut c_uint) -> c_int,
}

// SAFETY: a handle of a library whose functions any thread may call.
unsafe impl Send for Management {}

impl Management {
    /// Errors: `Failed`: the library is missing, or does not know the GPU.
    pub fn of(gpu: &Gpu) -> Result<Management> {
        let library = Library::open(&["libnvidia-ml.so.1", "libnvidia-ml.so"])?;
        let bus = CString::new(gpu.bus.as_str()).expect("a bus id");
        let mut handle = std::ptr::null_mut();
        // SAFETY: the types are those of nvml.h; the places are variables here. The library is never unloaded.
        unsafe {
            use std::mem::transmute;
            let init = transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(library.function(c"nvmlInit_v2")?);
            let find = library.function(c"nvmlDeviceGetHandleByPciBusId_v2")?;
            let find = transmute::<*mut c_void, unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int>(find);
            for (call, code) in [("nvmlInit", init()), ("nvmlDeviceGetHandleByPciBusId", find(bus.as_ptr(), &mut handle))] {
                if code != SUCCESS {
                    failed!("NVML: {call} failed for the GPU {}: {}", gpu.bus, text(&library, code));
                }
            }
            let energy = library.function(c"nvmlDeviceGetTotalEnergyConsumption")?;
            let clock = library.function(c"nvmlDeviceGetClockInfo")?;
            Ok(Management {
                handle,
                energy: transmute::<*mut c_void, unsafe extern "C" fn(Handle, *mut c_ulonglong) -> c_int>(energy),
                power: transmute::<*mut c_void, unsafe extern "C" fn(Handle, *mut c_uint) -> c_int>(
                    library.function(c"nvmlDeviceGetPowerUsage")?,
                ),
                clock: transmute::<*mut c_void, unsafe extern "C" fn(Handle, c_uint, *mut c_uint) -> c_int>(clock),
            })
        }
    }

    /// Used since the driver was loaded.
    pub fn joules(&self) -> Option<f64> {
        let mut millijoules = 0;
        // SAFETY: the handle is the library's own, the place a variable here.
        let code = unsafe { (self.energy)(self.handle, &mut millijoules) };
        (code == SUCCESS).then_some(1e-3 * millijoules as f64)
    }
    pub fn watts(&self) -> Option<f64> {
        let mut milliwatts = 0;
        // SAFETY: as above.
        let code = unsafe { (self.power)(self.handle, &mut milliwatts) };
        (code == SUCCESS).then_some(1e-3 * f64::from(milliwatts))
    }
    /// Of its multiprocessors, in MHz.
    pub fn clock(&self) -> Option<f64> {
        let mut clock = 0;
        // SAFETY: as above.
        let code = unsafe { (self.clock)(self.handle, CLOCK_OF_MULTIPROCESSORS, &mut clock) };
        (code == SUCCESS).then_some(f64::from(clock))
    }
}

/// The library's own words for a code.
fn text(library: &Library, code: c_int) -> String {
    let Ok(function) = library.function(c"nvmlErrorString") else { return code.to_string() };
    // SAFETY: the type is that of nvml.h; the answer is a constant text of the library.
    unsafe {
        let say = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> *const c_char>(function);
        format!("{} ({code})", CStr::from_ptr(say(code)).to_string_lossy())
    }
}
