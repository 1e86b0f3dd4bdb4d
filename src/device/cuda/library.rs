//! CUDA's shared libraries, found at run time: none of them is needed to build or to train without a GPU.
//!
//! ```text
//! libcuda       the driver: comes with it           libnvrtc      compiles kernels: CUDA toolkit, or the cache of kernels
//! libcublasLt   matrix products: CUDA toolkit       libnccl       between GPUs: NCCL, or `--comm mpi` without it
//! libcudnn      attention: cuDNN, or our own kernels without it
//! ```
//! cudarc panics where a library is missing, so each is asked for first, and what is missing is a sentence that names it.
use crate::error::Result;
use crate::failed;
use cudarc::{cublaslt, cudnn, driver, nvrtc};
use std::ffi::{CStr, CString, c_void};

/// A library that cudarc loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    Driver,
    Compiler,
    Products,
    Attention,
}

impl Needed {
    /// Errors: `Failed`, naming the library, where the loader does not find it.
    pub fn check(self) -> Result<()> {
        // SAFETY: each opens a library of NVIDIA's and closes it again.
        let (name, from, there) = unsafe {
            match self {
                Needed::Driver => ("libcuda.so.1", "NVIDIA's driver", driver::sys::is_culib_present()),
                Needed::Compiler => ("libnvrtc.so.12 or .13", "the CUDA toolkit", nvrtc::sys::is_culib_present()),
                Needed::Products => ("libcublasLt.so.12 or .13", "the CUDA toolkit", cublaslt::sys::is_culib_present()),
                Needed::Attention => ("libcudnn.so.9", "cuDNN", cudnn::sys::is_culib_present()),
            }
        };
        if there {
            return Ok(());
        }
        failed!("{name}, of {from}, was not found by the system's loader: expected it in a folder of LD_LIBRARY_PATH")
    }
}

/// A library whose functions we name ourselves: NCCL, NVML, a profiler.
pub struct Library {
    name: String,
    handle: *mut c_void,
}

// SAFETY: a handle of the loader, which any thread may use.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// The first of `names` that the loader finds. It stays loaded until the process ends.
    ///
    /// Errors: `Failed`, naming the first, where none is found.
    pub fn open(names: &[&str]) -> Result<Library> {
        for name in names {
            let path = CString::new(*name).expect("a library's name");
            // SAFETY: the library's own start-up code runs, as it would had we been linked with it.
            let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            if !handle.is_null() {
                return Ok(Library { name: name.to_string(), handle });
            }
        }
        failed!("{} was not found by the system's loader: expected it in a folder of LD_LIBRARY_PATH", names[0])
    }

    /// The address of a function.
    ///
    /// Errors: `Failed`, naming library and function, where it has none of this name.
    pub fn function(&self, name: &CStr) -> Result<*mut c_void> {
        // SAFETY: the handle is open.
        let at = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        if at.is_null() {
            failed!("{} has no function {}: expected a newer version of it", self.name, name.to_string_lossy());
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let text = Library::open(&["libnothing.so.7", "libnothing.so"]).err().unwrap().to_string();
        assert!(text.contains("libnothing.so.7"), "{text}");
        let text = Library::open(&["libc.so.6"]).unwrap().function(c"no_such_function").unwrap_err().to_string();
        assert!(text.contains("libc.so.6") && text.contains("no_such_function"), "{text}");
    }
}
