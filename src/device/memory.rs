//! Zeroed memory with an owner: the process's own, or what someone else lends us, such as a window that the ranks of a node
//! share.
use crate::error::Result;
use crate::failed;
use std::any::Any;

pub struct Memory {
    base: *mut u8,
    bytes: usize,
    /// Gives the memory back when it is dropped.
    _owner: Box<dyn Any + Send>,
}

// SAFETY: it is plain memory; whoever holds the `Memory` decides who reads and writes it.
unsafe impl Send for Memory {}

impl Memory {
    /// From the system, for this process alone, in huge pages where it has them. It lies on pages' bounds.
    ///
    /// Errors: the system refuses it, naming the bytes.
    pub fn private(bytes: usize) -> Result<Memory> {
        let bytes = bytes.max(1);
        // SAFETY: a new mapping, at an address of the system's choice, backed by no file.
        let base = unsafe {
            let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(std::ptr::null_mut(), bytes, read_write, private, -1, 0)
        };
        if base == libc::MAP_FAILED {
            failed!("the system has not the {bytes} bytes of memory that the plan needs");
        }
        let base = base.cast::<u8>();
        let memory = Memory { base, bytes, _owner: Box::new(Mapping { base, bytes }) };
        // SAFETY: the mapping above. It is advice: whether it is taken changes no content.
        unsafe { libc::madvise(base.cast(), bytes, libc::MADV_HUGEPAGE) };
        memory.make_real()?;
        Ok(memory)
    }

    /// Memory of another's making, which `owner` keeps until it is dropped.
    ///
    /// # Safety
    /// `bytes` bytes from `base` on stay mapped and writable until `owner` is dropped, and hold zeros. Nobody reads or
    /// writes them but through this `Memory`, or with the leave of whoever lends parts of it.
    pub unsafe fn lent(base: *mut u8, bytes: usize, owner: impl Any + Send) -> Memory {
        Memory { base, bytes, _owner: Box::new(owner) }
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base
    }
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// All of it, in units of four bytes.
    pub fn words(&mut self) -> &mut [u32] {
        // SAFETY: mapped and zeroed at first, on a page's bound, and ours alone while it is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.base.cast(), self.bytes / size_of::<u32>()) }
    }

    /// Has the system find every page now, so that what is missing is missed at the start.
    fn make_real(&self) -> Result<()> {
        // SAFETY: our own mapping, all of it, whose content stays.
        if unsafe { make_real(self.base, self.bytes) } {
            return Ok(());
        }
        failed!("the system has not the {} bytes of memory that the plan needs", self.bytes)
    }
}

/// Has the system find the pages of a mapping; whether it could. Unlike a write that finds none, this kills nobody. Systems
/// before Linux 5.14 cannot be asked: there it is as if it had succeeded.
///
/// # Safety
/// `bytes` bytes from `base` on, a page's bound, are mapped and writable.
pub unsafe fn make_real(base: *mut u8, bytes: usize) -> bool {
    // SAFETY: the caller's promise; content stays.
    let code = unsafe { libc::madvise(base.cast(), bytes, libc::MADV_POPULATE_WRITE) };
    code == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

struct Mapping {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: an address that nobody else unmaps.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `Memory::private`, which has ended.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}
