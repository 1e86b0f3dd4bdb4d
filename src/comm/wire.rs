//! The MPI calls, each once, with its return code looked at. Nothing above this file names the library.
//!
//! ```text
//! init, finalize          on the main thread, with MPI_THREAD_MULTIPLE: an abort may come from any thread
//! everything else         on the communication thread
//! ```
//! Every message is started without blocking and its [`Requests`] are asked now and then: a thread inside a blocking call
//! could not look after the other messages.
use super::fault;
use mpi::ffi;
use std::ffi::{c_char, c_int, c_void};

/// Structural: MPI counts are C ints, so longer messages go in parts. Measured: parts of 64 MiB cost nothing.
pub(super) const LONGEST: usize = 1 << 24;

/// Brings MPI up. Gives the level of thread support that was asked for where the library has less.
pub fn init() -> Result<(), String> {
    let mut provided: c_int = 0;
    // SAFETY: called once, on the main thread, before any other MPI call; null arguments are allowed since MPI 2.
    unsafe {
        let asked = ffi::RSMPI_THREAD_MULTIPLE;
        check(ffi::MPI_Init_thread(std::ptr::null_mut(), std::ptr::null_mut(), asked, &mut provided), "MPI_Init_thread");
        // Duplicates and parts of the world inherit this: we say which rank failed at which step, then abort.
        check(ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
        if provided < asked {
            return Err(format!("expected an MPI library with MPI_THREAD_MULTIPLE ({asked}), found thread level {provided}"));
        }
    }
    Ok(())
}

/// Takes MPI down: on the thread that brought it up, after every communication thread has ended.
pub fn finalize() {
    // SAFETY: MPI is up, and this is the only thread that still calls it.
    unsafe { ffi::MPI_Finalize() };
}

/// First line of the library's own version string.
pub fn library() -> String {
    let mut text = vec![0u8; 8192];
    let mut len: c_int = 0;
    // SAFETY: the buffer is as long as the longest version string of any library (the standard's constant is below it).
    unsafe { check(ffi::MPI_Get_library_version(text.as_mut_ptr().cast::<c_char>(), &mut len), "MPI_Get_library_version") };
    let text = String::from_utf8_lossy(&text[..len.max(0) as usize]);
    text.lines().next().unwrap_or_default().trim_end_matches('\0').to_owned()
}

/// Ends all ranks. Any thread may call it.
pub(super) fn abort(code: i32) {
    // SAFETY: MPI is up with MPI_THREAD_MULTIPLE.
    unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code) };
}

/// A communicator: a set of ranks whose messages meet no others.
#[derive(Clone, Copy)]
pub(super) struct Comm(ffi::MPI_Comm);

// SAFETY: a handle that any thread may use under MPI_THREAD_MULTIPLE.
unsafe impl Send for Comm {}

impl Comm {
    pub fn world() -> Comm {
        // SAFETY: a constant of the library.
        Comm(unsafe { ffi::RSMPI_COMM_WORLD })
    }
    pub fn rank(self) -> usize {
        let mut rank: c_int = 0;
        // SAFETY: the communicator is valid.
        unsafe { check(ffi::MPI_Comm_rank(self.0, &mut rank), "MPI_Comm_rank") };
        rank as usize
    }
    pub fn size(self) -> usize {
        let mut size: c_int = 0;
        // SAFETY: the communicator is valid.
        unsafe { check(ffi::MPI_Comm_size(self.0, &mut size), "MPI_Comm_size") };
        size as usize
    }
    /// The same ranks once more.
    pub fn duplicate(self) -> Comm {
        let mut other = self.0;
        // SAFETY: the communicator is valid; all its ranks call this.
        unsafe { check(ffi::MPI_Comm_dup(self.0, &mut other), "MPI_Comm_dup") };
        Comm(other)
    }
    /// The ranks of one colour, in the order in which they were.
    pub fn split(self, color: usize) -> Comm {
        let mut part = self.0;
        // SAFETY: the communicator is valid; all its ranks call this.
        unsafe { check(ffi::MPI_Comm_split(self.0, color as c_int, self.rank() as c_int, &mut part), "MPI_Comm_split") };
        Comm(part)
    }
    /// The ranks that share memory with this one and give the same colour, in the order in which they were.
    pub fn neighbours(self, color: usize) -> Comm {
        let mut node = self.0;
        // SAFETY: the communicator is valid; all its ranks call this.
        unsafe {
            let (rank, info) = (self.rank() as c_int, ffi::RSMPI_INFO_NULL);
            check(ffi::MPI_Comm_split_type(self.0, ffi::RSMPI_COMM_TYPE_SHARED, rank, info, &mut node), "MPI_Comm_split_type");
        }
        let part = Comm(node).split(color);
        Comm(node).free();
        part
    }
    /// Nobody uses it any more. All its ranks call this.
    pub fn free(mut self) {
        // SAFETY: the communicator is valid, and one of ours.
        check(unsafe { ffi::MPI_Comm_free(&mut self.0) }, "MPI_Comm_free");
    }
    /// Everyone's number, in rank order.
    pub fn numbers(self, mine: u64) -> Vec<u64> {
        let mut all = vec![0u64; self.size()];
        // SAFETY: one number from each, and a place for each.
        let code = unsafe {
            let (from, to, number) = ((&raw const mine).cast(), all.as_mut_ptr().cast(), ffi::RSMPI_UINT64_T);
            ffi::MPI_Allgather(from, 1, number, to, 1, number, self.0)
        };
        check(code, "MPI_Allgather");
        all
    }

    /// Starts sending `len` f32 to rank `to`.
    ///
    /// # Safety
    /// They stay alive and unwritten until the requests have landed.
    pub unsafe fn send(self, data: *const f32, len: usize, to: usize, tag: i32, requests: &mut Requests) {
        for at in (0..len).step_by(LONGEST) {
            let n = LONGEST.min(len - at) as c_int;
            // SAFETY: the caller's promise.
            let code = unsafe {
                let data = data.add(at).cast::<c_void>();
                ffi::MPI_Isend(data, n, ffi::RSMPI_FLOAT, to as c_int, tag, self.0, requests.next())
            };
            check(code, "MPI_Isend");
        }
    }
    /// Starts receiving `len` f32 from rank `from`.
    ///
    /// # Safety
    /// The place stays alive and untouched until the requests have landed.
    pub unsafe fn receive(self, place: *mut f32, len: usize, from: usize, tag: i32, requests: &mut Requests) {
        for at in (0..len).step_by(LONGEST) {
            let n = LONGEST.min(len - at) as c_int;
            // SAFETY: the caller's promise.
            let code = unsafe {
                let place = place.add(at).cast::<c_void>();
                ffi::MPI_Irecv(place, n, ffi::RSMPI_FLOAT, from as c_int, tag, self.0, requests.next())
            };
            check(code, "MPI_Irecv");
        }
    }
    /// Starts bringing every rank's `mine` to all, in rank order. All are of one length; `all` holds them.
    ///
    /// # Safety
    /// Both stay alive and untouched until the requests have landed.
    pub unsafe fn all_gather(self, mine: &[u8], all: &mut [u8], requests: &mut Requests) {
        assert!(mine.len() <= 1 << 30, "{} bytes are no small word", mine.len());
        assert_eq!(all.len(), mine.len() * self.size(), "a place for every rank's bytes");
        let (n, byte) = (mine.len() as c_int, byte());
        let (from, to) = (mine.as_ptr().cast::<c_void>(), all.as_mut_ptr().cast::<c_void>());
        // SAFETY: the caller's promise, and the lengths above.
        let code = unsafe { ffi::MPI_Iallgather(from, n, byte, to, n, byte, self.0, requests.next()) };
        check(code, "MPI_Iallgather");
    }
    /// Starts a copy of rank `root`'s bytes to all.
    ///
    /// # Safety
    /// They stay alive and untouched until the requests have landed.
    pub unsafe fn broadcast(self, bytes: &mut [u8], root: usize, requests: &mut Requests) {
        for part in bytes.chunks_mut(LONGEST) {
            let data = part.as_mut_ptr().cast::<c_void>();
            // SAFETY: the caller's promise.
            let code = unsafe { ffi::MPI_Ibcast(data, part.len() as c_int, byte(), root as c_int, self.0, requests.next()) };
            check(code, "MPI_Ibcast");
        }
    }
    /// Starts a barrier.
    pub fn barrier(self, requests: &mut Requests) {
        // SAFETY: no memory of ours is involved.
        check(unsafe { ffi::MPI_Ibarrier(self.0, requests.next()) }, "MPI_Ibarrier");
    }
}

/// Memory of `bytes` bytes a rank, which all ranks of a node see.
pub(super) struct Window {
    window: ffi::MPI_Win,
    /// Where each rank's part begins, here.
    pub bases: Vec<*mut u8>,
}

// SAFETY: a handle that any thread may use under MPI_THREAD_MULTIPLE, and addresses that hold in the whole process.
unsafe impl Send for Window {}

impl Window {
    /// `None` where the library has none for us. All ranks of the communicator, which share memory, call this.
    pub fn take(node: Comm, bytes: usize) -> Option<Window> {
        // SAFETY: the communicator and the info are valid, and every place that is written to is a variable here.
        unsafe {
            let (mut info, mut window) = (ffi::RSMPI_INFO_NULL, ffi::RSMPI_WIN_NULL);
            let mut base: *mut c_void = std::ptr::null_mut();
            check(ffi::MPI_Info_create(&mut info), "MPI_Info_create");
            // Each rank's part on pages of its own, so that they lie in the memory next to its cores.
            check(ffi::MPI_Info_set(info, c"alloc_shared_noncontig".as_ptr(), c"true".as_ptr()), "MPI_Info_set");
            let code = ffi::MPI_Win_allocate_shared(bytes as ffi::MPI_Aint, 1, info, node.0, (&raw mut base).cast(), &mut window);
            check(ffi::MPI_Info_free(&mut info), "MPI_Info_free");
            // An error is an answer here: it goes by messages then. All must have the same one.
            if node.numbers(u64::from(code == ffi::MPI_SUCCESS as c_int)).contains(&0) {
                return None;
            }
            let bases = (0..node.size() as c_int).map(|rank| {
                let (mut size, mut unit, mut base) = (0, 0, std::ptr::null_mut::<c_void>());
                let code = ffi::MPI_Win_shared_query(window, rank, &mut size, &mut unit, (&raw mut base).cast());
                check(code, "MPI_Win_shared_query");
                base.cast::<u8>()
            });
            Some(Window { window, bases: bases.collect() })
        }
    }
    /// Nobody reads or writes it any more. All its ranks call this.
    pub fn free(mut self) {
        // SAFETY: it is valid, and its memory is used no more.
        check(unsafe { ffi::MPI_Win_free(&mut self.window) }, "MPI_Win_free");
    }
}

/// Messages that are asked after together.
#[derive(Default)]
pub(super) struct Requests(Vec<ffi::MPI_Request>);

impl Requests {
    fn next(&mut self) -> &mut ffi::MPI_Request {
        // SAFETY: a constant of the library.
        self.0.push(unsafe { ffi::RSMPI_REQUEST_NULL });
        self.0.last_mut().expect("one has just been pushed")
    }
    /// Whether all have arrived. Asking is what makes the library carry them.
    pub fn landed(&mut self) -> bool {
        let (mut done, n): (c_int, c_int) = (0, self.0.len() as c_int);
        // SAFETY: the requests are ours, started and not yet freed, or null.
        unsafe {
            let statuses = ffi::RSMPI_STATUSES_IGNORE;
            check(ffi::MPI_Testall(n, self.0.as_mut_ptr(), &mut done, statuses), "MPI_Testall");
        }
        done != 0
    }
}

fn byte() -> ffi::MPI_Datatype {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_UINT8_T }
}

/// A communication error is nobody's to handle: it ends the job, by name.
fn check(code: c_int, call: &str) {
    if code == ffi::MPI_SUCCESS as c_int {
        return;
    }
    let mut text = [0u8; 1024];
    let mut len: c_int = 0;
    // SAFETY: the buffer is longer than any library's longest error string.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &mut len) };
    let text = String::from_utf8_lossy(&text[..len.max(0) as usize]).into_owned();
    fault::abort(&format!("{call} failed: {text}"));
}
