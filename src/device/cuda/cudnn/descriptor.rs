//! cuDNN's backend descriptors: made, filled with attributes, finished, asked.
//!
//! ```text
//! Descriptor::new(kind)?.with(name, &[values])?.of(name, &[other descriptors])?.done()?
//! ```
use crate::error::Result;
use crate::failed;
use cudarc::cudnn::sys::{self, cudnnBackendAttributeType_t as Type, cudnnStatus_t as Status};
pub use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Heuristic,
    cudnnBackendNumericalNote_t as Note, cudnnDataType_t as Data, cudnnHandle_t as Handle, cudnnPointwiseMode_t as Pointwise,
    cudnnReduceTensorOp_t as Reduction,
};
use std::ffi::{CStr, c_char, c_void};

/// What attributes are made of, and how cuDNN calls it.
///
/// # Safety
/// The library reads and writes values of `TYPE` as values of this type.
pub unsafe trait Value: Copy {
    const TYPE: Type;
}

macro_rules! values {
    ($($t:ty => $name:ident),*) => { $(
        // SAFETY: as the library's header has them.
        unsafe impl Value for $t {
            const TYPE: Type = Type::$name;
        }
    )* };
}
values! {
    i64 => CUDNN_TYPE_INT64, bool => CUDNN_TYPE_BOOLEAN, u8 => CUDNN_TYPE_CHAR, *mut c_void => CUDNN_TYPE_VOID_PTR,
    Handle => CUDNN_TYPE_HANDLE, Data => CUDNN_TYPE_DATA_TYPE, Pointwise => CUDNN_TYPE_POINTWISE_MODE,
    Reduction => CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, Heuristic => CUDNN_TYPE_HEUR_MODE
}

pub struct Descriptor(sys::cudnnBackendDescriptor_t);

// SAFETY: a handle that one thread at a time uses; `Sdpa` sees to it.
unsafe impl Send for Descriptor {}

impl Descriptor {
    pub fn new(kind: Kind) -> Result<Descriptor> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library is there, the place is a variable here.
        check(unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut handle) }, &format!("{kind:?}"))?;
        Ok(Descriptor(handle))
    }

    pub fn with<T: Value>(self, name: Name, values: &[T]) -> Result<Descriptor> {
        self.set(name, T::TYPE, values)?;
        Ok(self)
    }
    pub fn of(self, name: Name, parts: &[&Descriptor]) -> Result<Descriptor> {
        let handles: Vec<_> = parts.iter().map(|part| part.0).collect();
        self.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &handles)?;
        Ok(self)
    }
    fn set<T>(&self, name: Name, kind: Type, values: &[T]) -> Result<()> {
        // SAFETY: so many values of the type that is named.
        let code = unsafe { sys::cudnnBackendSetAttribute(self.0, name, kind, values.len() as i64, values.as_ptr().cast()) };
        check(code, &format!("{name:?}"))
    }

    pub fn done(self) -> Result<Descriptor> {
        // SAFETY: alive.
        check(unsafe { sys::cudnnBackendFinalize(self.0) }, "cudnnBackendFinalize")?;
        Ok(self)
    }

    pub fn number(&self, name: Name) -> Result<i64> {
        let (mut value, to) = (0i64, 1);
        self.get(name, Type::CUDNN_TYPE_INT64, to, (&raw mut value).cast())?;
        Ok(value)
    }
    pub fn text(&self, name: Name) -> Result<Vec<u8>> {
        let mut text = vec![0; self.get(name, Type::CUDNN_TYPE_CHAR, 0, std::ptr::null_mut())?];
        self.get(name, Type::CUDNN_TYPE_CHAR, text.len(), text.as_mut_ptr().cast())?;
        Ok(text)
    }
    pub fn notes(&self, name: Name) -> Result<Vec<u32>> {
        let mut notes = [0u32; Note::CUDNN_NUMERICAL_NOTE_TYPE_COUNT as usize + 8]; // a newer library may know more
        let n = self.get(name, Type::CUDNN_TYPE_NUMERICAL_NOTE, notes.len(), notes.as_mut_ptr().cast())?;
        Ok(notes[..n].to_vec())
    }
    /// The first of at most `most` descriptors of a kind, as many as there are.
    pub fn parts(&self, name: Name, kind: Kind, most: usize) -> Result<Vec<Descriptor>> {
        let mut parts = (0..most).map(|_| Descriptor::new(kind)).collect::<Result<Vec<_>>>()?;
        let mut handles: Vec<_> = parts.iter().map(|part| part.0).collect();
        let n = self.get(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, most, handles.as_mut_ptr().cast())?;
        parts.truncate(n);
        Ok(parts)
    }
    /// How many elements there are; of them, at most `room` are written to `to`.
    fn get(&self, name: Name, kind: Type, room: usize, to: *mut c_void) -> Result<usize> {
        let mut n = 0i64;
        // SAFETY: room for so many elements of the type, as every caller above has it.
        let code = unsafe { sys::cudnnBackendGetAttribute(self.0, name, kind, room as i64, &mut n, to) };
        check(code, &format!("{name:?}"))?;
        Ok(n as usize)
    }

    /// Runs the plan that this is, with the operands of `pack`.
    ///
    /// # Safety
    /// The operands are device memory of the plan's sizes, which no other stream uses meanwhile.
    pub unsafe fn execute(&self, handle: Handle, pack: &Descriptor) -> Result<()> {
        // SAFETY: the caller's promise; all three are alive.
        check(unsafe { sys::cudnnBackendExecute(handle, self.0, pack.0) }, "cudnnBackendExecute")
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made in `new`. Its code no longer matters to anyone.
        unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

/// Errors: `Failed`, with cuDNN's own words.
pub fn check(code: Status, what: &str) -> Result<()> {
    if code == Status::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut words = [0 as c_char; 1024];
    // SAFETY: room for so many characters; the library ends them with a zero.
    let words = unsafe {
        sys::cudnnGetLastErrorString(words.as_mut_ptr(), words.len());
        CStr::from_ptr(words.as_ptr())
    };
    failed!("cuDNN: {what} failed with {code:?} {}", words.to_string_lossy().trim())
}
