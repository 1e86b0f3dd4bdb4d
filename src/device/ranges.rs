//! Named stretches of time for a profiler, by the protocol of NVTX 3, which needs neither its headers nor a library of the toolkit.
//!
//! ```text
//! profiler   sets NVTX_INJECTION64_PATH to a library of its own, then starts the program
//! program    loads it, calls InitializeInjectionNvtx2(get_export_table)
//! profiler   get_export_table(1) -> function tables; writes its own functions into the places of RangePushA, RangePop
//! ```
//! Nsight Systems and Nsight Compute do so. Where nobody listens, a range is the reading of a word. Ranges of a thread nest.
use crate::device::cuda::Library;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A stretch of time, until it is dropped.
#[must_use]
pub struct Stretch(Listener);

/// Begins one; its name is formed only where someone listens.
pub fn range(name: impl FnOnce() -> String) -> Option<Stretch> {
    let listener = (*LISTENER.get_or_init(listen))?;
    let name = CString::new(name()).expect("a name without zeros");
    // SAFETY: the profiler's function of this type; it copies the name.
    unsafe { (listener.push)(name.as_ptr()) };
    Some(Stretch(listener))
}

impl Drop for Stretch {
    fn drop(&mut self) {
        // SAFETY: the profiler's function of this type.
        unsafe { (self.0.pop)() };
    }
}

#[derive(Clone, Copy)]
struct Listener {
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
}

static LISTENER: OnceLock<Option<Listener>> = OnceLock::new();

const PUSH: usize = 9;
const POP: usize = 11;
const CORE: usize = 1;

/// Places in the tables of nvtxTypes.h, the first of which is no function's: of the modules CORE, CUDA, OPENCL, CUDART, CORE2, SYNC.
/// Only two of CORE are ever called, but a profiler may give up where a table is missing or short.
const SIZES: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];
const LONGEST: usize = 16;

/// A place for a function, or null.
type Place = AtomicPtr<c_void>;
static PLACES: [[Place; LONGEST]; 7] = [const { [const { Place::new(std::ptr::null_mut()) }; LONGEST] }; 7];

/// The addresses of the places, which is what a table is, each with a null at its end.
static TABLES: OnceLock<[[usize; LONGEST + 1]; 7]> = OnceLock::new();

fn tables() -> &'static [[usize; LONGEST + 1]; 7] {
    TABLES.get_or_init(|| {
        let address = |module: usize, id: usize| {
            let there = (1..SIZES[module]).contains(&id);
            if there { std::ptr::from_ref(&PLACES[module][id]) as usize } else { 0 }
        };
        std::array::from_fn(|module| std::array::from_fn(|id| address(module, id)))
    })
}

/// `int GetModuleFunctionTable(module, out table, out size)`; 1: there is one.
unsafe extern "C" fn function_table(module: c_uint, table: *mut *const usize, size: *mut c_uint) -> c_int {
    let Some(known) = SIZES.get(module as usize).filter(|size| **size > 0) else { return 0 };
    // SAFETY: each is null or a place of the profiler's; the tables stay until the process ends.
    unsafe {
        if !table.is_null() {
            *table = tables()[module as usize].as_ptr();
        }
        if !size.is_null() {
            *size = *known as c_uint;
        }
    }
    1
}

unsafe extern "C" fn set_version(_: u32) {}

#[repr(C)]
struct Callbacks {
    size: usize,
    function_table: unsafe extern "C" fn(c_uint, *mut *const usize, *mut c_uint) -> c_int,
}

#[repr(C)]
struct Version {
    size: usize,
    version: u32,
    reserved: u32,
    set: unsafe extern "C" fn(u32),
}

static CALLBACKS: Callbacks = Callbacks { size: size_of::<Callbacks>(), function_table };
static VERSION: Version = Version { size: size_of::<Version>(), version: 3, reserved: 0, set: set_version };

unsafe extern "C" fn export_table(id: u32) -> *const c_void {
    match id {
        1 => std::ptr::from_ref(&CALLBACKS).cast(),
        3 => std::ptr::from_ref(&VERSION).cast(),
        _ => std::ptr::null(),
    }
}

/// What a profiler has put into the tables. It may have left either out.
fn listen() -> Option<Listener> {
    let path = std::env::var("NVTX_INJECTION64_PATH").ok().filter(|path| !path.is_empty() && !path.contains('\0'))?;
    let attach = Library::open(&[&path]).and_then(|library| library.function(c"InitializeInjectionNvtx2"));
    let attach = attach.map_err(|e| log::warn!("NVTX_INJECTION64_PATH: no ranges are told: {e}")).ok()?;
    // SAFETY: the types are those of nvtxTypes.h; what was written into a place is a function of the place's type.
    unsafe {
        let attach =
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(unsafe extern "C" fn(u32) -> *const c_void) -> c_int>(attach);
        if attach(export_table) == 0 {
            log::warn!("NVTX_INJECTION64_PATH: {path} does not want to be told ranges");
            return None;
        }
        let [push, pop] = [PUSH, POP].map(|id| PLACES[CORE][id].load(Relaxed));
        (!push.is_null() && !pop.is_null()).then(|| Listener {
            push: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> c_int>(push),
            pop: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(pop),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_a_profiler_expects_them() {
        let (mut table, mut size) = (std::ptr::null(), 0);
        // SAFETY: the places are variables here.
        unsafe {
            assert_eq!(function_table(0, &mut table, &mut size), 0);
            assert_eq!(function_table(7, &mut table, &mut size), 0);
            for (module, places) in SIZES.iter().enumerate().skip(1) {
                assert_eq!(function_table(module as c_uint, &mut table, &mut size), 1);
                assert_eq!(size as usize, *places);
                let all = std::slice::from_raw_parts(table, *places + 1);
                assert!(all[0] == 0 && all[1..*places].iter().all(|place| *place != 0) && all[*places] == 0);
            }
            assert!(export_table(2).is_null() && !export_table(1).is_null() && !export_table(3).is_null());
        }
    }
}
