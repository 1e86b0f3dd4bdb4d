//! The ranks of a job: who they are, where they run, how they agree, how they leave.
//!
//! ```text
//! start      MPI_Init_thread, world, node-local ranks, cores by the affinity mask, threads
//! agree      any rank's error becomes everyone's: one rank says it, all leave with its exit code
//! leave      one barrier, MPI_Finalize, exit: nothing is written after it
//! ```
//! A process with no launcher is a world of one. Other ends (panic, a rank killed, a hang) are in [`crate::comm::fault`].
pub mod cores;
pub mod logging;
pub mod signals;
pub mod slurm;
mod table;

pub use crate::comm::fault::{at_step, patience, phase};
pub use cores::usable_cores;

use crate::comm::{Collective, Mpi, Solo, fault};
use crate::error::{Error, Result};
use mpi::ffi;
use std::ffi::c_int;
use std::time::Instant;

/// The job as one rank sees it.
pub struct Launch {
    comm: Box<dyn Collective>,
    host: String,
    /// Of the ranks on this host.
    pub local_rank: usize,
    pub local_size: usize,
    /// Cores that this rank may use.
    pub cores: Vec<usize>,
    /// Threads it will compute with.
    pub threads: usize,
    /// The MPI library's own version line.
    pub library: String,
    /// Seconds that MPI_Init took.
    pub init_seconds: f64,
    /// Every rank, in order.
    pub ranks: Vec<Place>,
    started: Instant,
}

/// Where one rank runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub host: String,
    pub cores: Vec<usize>,
    pub threads: usize,
    pub pid: u64,
}

impl Launch {
    /// Brings the ranks together. `threads` as asked for; else the cores the rank may use, shared with the ranks of its
    /// host that may use the same ones. `began`: when the program started.
    pub fn start(threads: Option<usize>, began: Instant) -> Launch {
        let before = Instant::now();
        let (mut provided, mut up): (c_int, c_int) = (0, 0);
        // SAFETY: called once, on the main thread, before any other MPI call; null arguments are allowed since MPI 2.
        unsafe {
            ffi::MPI_Initialized(&mut up);
            let multiple = ffi::RSMPI_THREAD_MULTIPLE;
            ffi::MPI_Init_thread(std::ptr::null_mut(), std::ptr::null_mut(), multiple, &mut provided);
            if provided < multiple {
                eprintln!(
                    "llm-train: this MPI library gives thread level {provided}, expected MPI_THREAD_MULTIPLE ({multiple}): use a \
                     build with threads"
                );
                ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, 2);
            }
        }
        let init_seconds = before.elapsed().as_secs_f64();
        let (mut rank, mut size): (c_int, c_int) = (0, 0);
        // SAFETY: MPI is up.
        unsafe {
            ffi::MPI_Comm_rank(ffi::RSMPI_COMM_WORLD, &mut rank);
            ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &mut size);
        }
        let host = hostname();
        fault::introduce(rank as usize, &host, true);
        fault::abort_on_panic();
        // SAFETY: the world communicator is valid.
        let comm: Box<dyn Collective> =
            if size > 1 { Box::new(Mpi::over(unsafe { ffi::RSMPI_COMM_WORLD })) } else { Box::new(Solo) };

        let cores = cores::affinity();
        let mine = format!("{}\t{}\t{}\t{}", node(&host), cores::list(&cores), threads.unwrap_or(0), std::process::id());
        let mut ranks: Vec<Place> = comm.gather(mine.as_bytes()).iter().map(|b| Place::read(b)).collect();
        let all = ranks.clone();
        for place in ranks.iter_mut().filter(|p| p.threads == 0) {
            let sharing = all.iter().filter(|p| p.host == place.host && p.cores == place.cores).count();
            place.threads = slurm::cpus_per_task().unwrap_or(usize::MAX).min(place.cores.len() / sharing).max(1);
        }
        let rank = rank as usize;
        let here = ranks[rank].host.clone();
        let local = |ranks: &[Place]| ranks.iter().filter(|p| p.host == here).count();
        Launch {
            host,
            local_rank: local(&ranks[..rank]),
            local_size: local(&ranks),
            cores,
            threads: ranks[rank].threads,
            library: library(),
            init_seconds,
            ranks,
            comm,
            started: began,
        }
    }

    pub fn comm(&self) -> &dyn Collective {
        &*self.comm
    }
    pub fn rank(&self) -> usize {
        self.comm.rank()
    }
    pub fn size(&self) -> usize {
        self.comm.size()
    }
    /// Rank 0, which alone speaks and writes what is not divided.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }
    pub fn host(&self) -> &str {
        &self.host
    }
    /// Seconds since the program started.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
    /// Names of the hosts, once each, in order of rank.
    pub fn hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<&str> = vec![];
        for place in &self.ranks {
            if !hosts.contains(&place.host.as_str()) {
                hosts.push(&place.host);
            }
        }
        hosts
    }

    /// Any rank's error becomes everyone's: the lowest failing rank's, with its name where it is not rank 0.
    pub fn agree<T>(&self, result: Result<T>) -> Result<T> {
        let mine = match &result {
            Ok(_) => String::new(),
            Err(e) => format!("{}{e}", e.exit_code()),
        };
        let all = if self.size() == 1 { vec![mine.into_bytes()] } else { self.comm.gather(mine.as_bytes()) };
        let Some((rank, text)) = all.iter().enumerate().find(|(_, text)| !text.is_empty()) else { return result };
        let text = String::from_utf8_lossy(text);
        let (code, text) = text.split_at(1);
        let text = if rank == 0 { text.to_string() } else { format!("rank {rank} on {}: {text}", self.ranks[rank].host) };
        Err(if code == "2" { Error::Input(text) } else { Error::Failed(text) })
    }

    /// Whether all ranks hold the same `what`.
    ///
    /// Errors: `Input` naming the first rank that differs from rank 0.
    pub fn same_everywhere(&self, what: &str, value: &str) -> Result<()> {
        let all = if self.size() == 1 { vec![] } else { self.comm.gather(value.as_bytes()) };
        match all.iter().position(|v| *v != all[0]) {
            None => Ok(()),
            Some(rank) => {
                let (theirs, ours) = (String::from_utf8_lossy(&all[rank]), String::from_utf8_lossy(&all[0]));
                let differing = theirs.lines().zip(ours.lines()).find(|(a, b)| a != b);
                let (theirs, ours) = differing.unwrap_or((&theirs, &ours));
                crate::bad_input!(
                    "{what} differs between ranks: rank {rank} on {} has `{}`, rank 0 has `{}`",
                    self.ranks[rank].host,
                    theirs.trim(),
                    ours.trim()
                )
            }
        }
    }

    /// The binding table, in one screen however many ranks there are.
    pub fn table(&self) -> String {
        table::text(&self.ranks)
    }
    /// What is wrong with the binding, each with the option that mends it.
    pub fn warnings(&self) -> Vec<String> {
        table::warnings(&self.ranks, cores::online())
    }

    /// Leaves with all others through one barrier. Nothing may be left to write.
    pub fn leave(self, code: i32) -> ! {
        self.comm.barrier();
        drop(self.comm);
        // SAFETY: the communication thread has ended; this is the thread that initialised MPI.
        unsafe { ffi::MPI_Finalize() };
        fault::introduce(0, &self.host, false);
        std::process::exit(code)
    }
}

/// The value, or the end of the whole job: for errors of one rank in the middle of a step, where the others cannot be asked.
pub fn check<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|e| fault::abort(&e.to_string()))
}

impl Place {
    fn read(line: &[u8]) -> Place {
        let text = String::from_utf8_lossy(line);
        let mut fields = text.split('\t');
        let mut next = || fields.next().unwrap_or_default().to_string();
        let (host, cores) = (next(), cores::parse(&next()));
        let number = |text: String| text.parse().unwrap_or(0);
        Place { host, cores, threads: number(next()) as usize, pid: number(next()) }
    }
}

/// Virtual nodes of one machine (several slurmd) are told apart by Slurm's name for them.
fn node(host: &str) -> String {
    std::env::var("SLURMD_NODENAME").unwrap_or_else(|_| host.to_string())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".into(), |h| h.trim().to_string())
}

fn library() -> String {
    let mut text = vec![0u8; 8192];
    let mut len: c_int = 0;
    // SAFETY: the buffer is as long as the standard's longest version string.
    unsafe { ffi::MPI_Get_library_version(text.as_mut_ptr().cast(), &mut len) };
    let text = String::from_utf8_lossy(&text[..len.max(0) as usize]);
    text.lines().next().unwrap_or_default().trim_end_matches('\0').to_string()
}
