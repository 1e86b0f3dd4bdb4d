//! Which versions of NVIDIA's libraries the system's loader finds, and where. No GPU is woken: the driver is not initialised, and
//! a library that is missing, or has not the function asked for, is told as a row like any other.
//!
//! ```text
//! dlopen -> the library's own version function -> "12.4", and the file that the function lies in
//! ```
use super::library::Library;
use crate::error::Result;
use crate::failed;
use std::ffi::{CStr, c_int, c_void};

/// How a library tells its version.
#[derive(Clone, Copy)]
enum Tells {
    /// `int f(int* version)`, 0 for success
    Into(fn(i32) -> String),
    /// `int f(int* major, int* minor)`, 0 for success
    IntoTwo,
    /// `size_t f()`
    Returns(fn(i32) -> String),
}

struct Known {
    name: &'static str,
    /// As cudarc calls it, which then decides what is loaded: a `libX.so` anywhere before a `libX.so.9`.
    loaded: Option<&'static str>,
    files: &'static [&'static str],
    function: &'static CStr,
    tells: Tells,
}

/// CUDA's libraries of version 12 and 13 serve; an older one is shown too, so that one sees why it does not.
const KNOWN: [Known; 5] = [
    Known { name: "CUDA driver", loaded: Some("cuda"), files: &[], function: c"cuDriverGetVersion", tells: Tells::Into(of_cuda) },
    Known {
        name: "NVRTC",
        loaded: Some("nvrtc"),
        files: &["libnvrtc.so.11.2"],
        function: c"nvrtcVersion",
        tells: Tells::IntoTwo,
    },
    Known {
        name: "cuBLASLt",
        loaded: Some("cublasLt"),
        files: &[],
        function: c"cublasLtGetVersion",
        tells: Tells::Returns(of_libraries),
    },
    Known {
        name: "NCCL",
        loaded: None,
        files: &["libnccl.so.2", "libnccl.so"],
        function: c"ncclGetVersion",
        tells: Tells::Into(of_libraries),
    },
    Known {
        name: "cuDNN",
        loaded: Some("cudnn"),
        files: &["libcudnn.so.8"],
        function: c"cudnnGetVersion",
        tells: Tells::Returns(of_libraries),
    },
];

/// Name of each library, and its version and file, or that it was not found.
pub fn versions() -> Vec<(&'static str, String)> {
    let seen = |known: &Known| match found(known) {
        Err(_) => "not found".to_string(),
        Ok(library) => version(&library, known).unwrap_or_else(|e| e.to_string()),
    };
    KNOWN.iter().map(|known| (known.name, seen(known))).collect()
}

/// The library that a run will load, if it is one that serves.
fn found(known: &Known) -> Result<Library> {
    let loaded = known.loaded.map_or(vec![], cudarc::get_lib_name_candidates);
    let names: Vec<&str> = loaded.iter().map(String::as_str).chain(known.files.iter().copied()).collect();
    Library::open(&names)
}

fn version(library: &Library, known: &Known) -> Result<String> {
    let function = library.function(known.function)?;
    let (mut first, mut second) = (0, 0);
    // SAFETY: the types are those of the library's header; the places are variables here.
    let (code, text) = unsafe {
        use std::mem::transmute;
        match known.tells {
            Tells::Into(read) => {
                let ask = transmute::<*mut c_void, unsafe extern "C" fn(*mut c_int) -> c_int>(function);
                (ask(&mut first), read(first))
            }
            Tells::IntoTwo => {
                let ask = transmute::<*mut c_void, unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(function);
                (ask(&mut first, &mut second), format!("{first}.{second}"))
            }
            Tells::Returns(read) => {
                let ask = transmute::<*mut c_void, unsafe extern "C" fn() -> usize>(function);
                (0, read(ask() as i32))
            }
        }
    };
    if code != 0 {
        failed!("{} failed with {code}", known.function.to_string_lossy());
    }
    Ok(format!("{text} ({})", file(function)))
}

/// The file that a function was loaded from.
fn file(function: *mut c_void) -> String {
    // SAFETY: an empty answer is all zeros; the loader fills it, and its text lives as long as the library is loaded.
    unsafe {
        let mut about: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(function, &mut about) == 0 || about.dli_fname.is_null() {
            return "of an unknown file".into();
        }
        CStr::from_ptr(about.dli_fname).to_string_lossy().into_owned()
    }
}

/// 12040 is CUDA 12.4.
fn of_cuda(version: i32) -> String {
    format!("for CUDA {}.{}", version / 1000, version % 1000 / 10)
}

/// 120304 is 12.3.4, of cuDNN before its ninth 8907 is 8.9.7.
fn of_libraries(version: i32) -> String {
    let thousands = if version < 10_000 { 1000 } else { 10_000 };
    format!("{}.{}.{}", version / thousands, version % thousands / 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_each_library_means_them() {
        assert_eq!((of_cuda(12040), of_cuda(13000)), ("for CUDA 12.4".into(), "for CUDA 13.0".into()));
        assert_eq!([of_libraries(120_304), of_libraries(21_803), of_libraries(91_300)], ["12.3.4", "2.18.3", "9.13.0"]);
        assert_eq!(of_libraries(8907), "8.9.7");
    }

    #[test]
    fn what_is_missing_or_has_no_version_is_a_row() {
        let of = |files| Known { name: "nothing", loaded: None, files, function: c"no_such_function", tells: Tells::IntoTwo };
        assert!(found(&of(&["libnothing.so.7"])).is_err());
        let here = of(&["libc.so.6"]);
        assert!(version(&found(&here).unwrap(), &here).unwrap_err().to_string().contains("no_such_function"));
        assert_eq!(versions().len(), KNOWN.len());
    }
}
