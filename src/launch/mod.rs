//! The ranks of a job: who they are, where they run, how they agree, how they leave.
//!
//! ```text
//! start      MPI_Init_thread, world, node-local ranks, cores by the affinity mask, threads: one gather tells all of all
//! agree      any rank's error becomes everyone's: one rank says it, all leave with its exit code
//! leave      one barrier, MPI_Finalize, exit: nothing is written after it
//! ```
//! A process with no launcher is a world of one. Other ends (panic, a rank killed, a hang) are in [`crate::comm::fault`].
pub mod cores;
pub mod deadline;
pub mod logging;
pub mod machine;
pub mod memory;
pub mod signals;
pub mod slurm;
mod table;

pub use crate::comm::fault::{at_step, patience, phase};
pub use cores::usable_cores;
pub use table::Seat;

use crate::comm::{self, Collective, Mpi, Solo, fault};
use crate::error::{Error, Result};
use machine::{Domain, Machine, Nic};
use std::time::Instant;

/// The job as one rank sees it.
pub struct Launch {
    comm: Box<dyn Collective>,
    host: String,
    /// Of the ranks on this host.
    pub local_rank: usize,
    pub local_size: usize,
    /// Cores that this rank may use, of each physical core one hardware thread first.
    pub cores: Vec<usize>,
    /// Threads it will compute with.
    pub threads: usize,
    /// The MPI library's own version line.
    pub library: String,
    /// Seconds that MPI_Init took.
    pub init_seconds: f64,
    /// Every rank, in order.
    pub ranks: Vec<Place>,
    /// The NUMA nodes of this machine.
    domains: Vec<Domain>,
    started: Instant,
}

/// Where one rank runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub host: String,
    /// The lowest rank that shares memory with it.
    pub node: usize,
    /// Cores in its affinity mask, hardware threads each as one.
    pub cores: Vec<usize>,
    /// How many physical cores they are.
    pub whole: usize,
    /// The NUMA nodes that they lie in; none where the system does not tell.
    pub near: Vec<usize>,
    /// The network cards of its host.
    pub nics: Vec<Nic>,
    /// How many of them a limit of its control group leaves it and the other ranks of its node.
    pub room: usize,
    /// Cores that the launcher itself may use there.
    pub open: usize,
    /// Threads it computes with.
    pub threads: usize,
    pub pid: u64,
}

impl Launch {
    /// Brings the ranks together. `threads` as asked for; else the physical cores the rank may use, shared with the ranks of its
    /// host that may use the same ones. `began`: when the program started.
    pub fn start(threads: Option<usize>, began: Instant) -> Launch {
        let host = hostname();
        let expected = slurm::expected_rank().unwrap_or(0) as usize;
        fault::introduce(expected, &host, false);
        fault::abort_on_panic();
        fault::phase("MPI_Init");
        let before = Instant::now();
        if let Err(what) = fault::within("MPI_Init", comm::init) {
            refuse(expected, &what);
        }
        let (init_seconds, library) = (before.elapsed().as_secs_f64(), comm::library());
        let (comm, node): (Box<dyn Collective>, usize) = match Mpi::world() {
            Some(mpi) => {
                fault::introduce(mpi.rank(), &host, true);
                fault::phase("finding the other ranks");
                let node = mpi.node();
                (Box::new(mpi), node)
            }
            None => {
                fault::introduce(0, &host, true);
                if let Some(what) = slurm::lonely(&|name| std::env::var(name).ok()) {
                    refuse(expected, &format!("{what} ({library})"));
                }
                (Box::new(Solo), 0)
            }
        };
        let (machine, cores) = (Machine::here(), cores::affinity());
        let (domains, (order, whole)) = (machine.domains(), machine.whole_first(&cores));
        let mine = Place {
            host: slurm::node().unwrap_or_else(|| host.clone()),
            node,
            near: touched(&domains, &cores),
            nics: machine.nics(),
            cores,
            whole,
            room: cores::room(),
            open: cores::open(),
            threads: threads.unwrap_or(0),
            pid: u64::from(std::process::id()),
        };
        let ranks = comm.gather(mine.write().as_bytes());
        let ranks = share(ranks.iter().map(|line| Place::read(line)).collect(), slurm::cpus_per_task());
        let rank = comm.rank();
        let local = |ranks: &[Place]| ranks.iter().filter(|p| p.node == node).count();
        fault::phase("the start");
        Launch {
            host,
            local_rank: local(&ranks[..rank]),
            local_size: local(&ranks),
            cores: order,
            threads: ranks[rank].threads,
            library,
            init_seconds,
            ranks,
            domains,
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
    /// A core for each thread, where the launcher gave this rank cores that no other may use, and not simply all: there
    /// threads may stay where they are. Elsewhere none, since other jobs may be on the same cores.
    pub fn own_cores(&self) -> &[usize] {
        let mine = &self.ranks[self.rank()];
        let others = self.ranks.iter().enumerate().filter(|(r, p)| *r != self.rank() && p.node == mine.node);
        let alone = others.flat_map(|(_, p)| &p.cores).all(|core| !self.cores.contains(core));
        if alone && self.cores.len() < mine.open && self.threads <= self.cores.len() { &self.cores } else { &[] }
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

    /// The binding table, in one screen however many ranks there are. `seats`: the GPU of each rank, or none at all.
    pub fn table(&self, seats: &[Seat]) -> String {
        table::text(&self.ranks, seats)
    }
    /// What is wrong with the binding, each with the option that mends it.
    pub fn warnings(&self, seats: &[Seat]) -> Vec<String> {
        table::warnings(&self.ranks, &self.domains, seats)
    }
    /// Every rank's GPU, of which each gives its own bus id.
    pub fn seats(&self, bus: &str) -> Vec<Seat> {
        let numa = Machine::here().numa_of(bus).map_or(String::new(), |node| node.to_string());
        let all = self.comm.gather(format!("{bus}\t{numa}").as_bytes());
        let read = |line: &Vec<u8>| {
            let text = String::from_utf8_lossy(line);
            let (bus, numa) = text.split_once('\t').unwrap_or((&text, ""));
            Seat { bus: bus.to_owned(), numa: numa.parse().ok() }
        };
        all.iter().map(read).collect()
    }
    /// Whether each rank has a GPU of its own.
    pub fn alone(&self, seats: &[Seat]) -> bool {
        table::sharing(&self.ranks, seats).is_empty()
    }

    /// Leaves with all others through one barrier. Nothing may be left to write.
    pub fn leave(self, code: i32) -> ! {
        fault::phase("the end");
        signals::leave();
        self.comm.barrier();
        drop(self.comm); // ends the communication thread
        fault::within("MPI_Finalize", comm::finalize);
        std::process::exit(code)
    }
}

/// The value, or the end of the whole job: for errors of one rank in the middle of a step, where the others cannot be asked.
pub fn check<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|e| fault::abort(&e.to_string()))
}

/// Threads for those who did not ask for a number: the physical cores a rank may use, shared with the ranks of its node that may
/// use the same ones, no more than Slurm was asked for. Hardware threads of a core share what multiplies.
fn share(mut ranks: Vec<Place>, cpus_per_task: Option<usize>) -> Vec<Place> {
    let all = ranks.clone();
    for place in ranks.iter_mut().filter(|p| p.threads == 0) {
        let neighbours = all.iter().filter(|p| p.node == place.node);
        let sharing = neighbours.clone().filter(|p| p.cores == place.cores).count();
        let fair = (place.whole / sharing).min(place.room / neighbours.count());
        place.threads = cpus_per_task.unwrap_or(usize::MAX).min(fair).max(1);
    }
    ranks
}

/// The numbers of those NUMA nodes that some of these cores lie in.
fn touched(domains: &[Domain], cores: &[usize]) -> Vec<usize> {
    domains.iter().filter(|domain| cores.iter().any(|core| domain.cores.contains(core))).map(|domain| domain.number).collect()
}

/// Not a job: MPI itself is not as it should be. One rank says so, all leave.
fn refuse(rank: usize, what: &str) -> ! {
    if rank == 0 {
        eprintln!("llm-train: {what}");
    }
    comm::finalize();
    std::process::exit(2)
}

impl Place {
    fn write(&self) -> String {
        let Place { host, node, cores, whole, near, nics, room, open, threads, pid } = self;
        let (cores, near) = (cores::list(cores), cores::list(near));
        let nic = |nic: &Nic| format!("{}@{}", nic.name, nic.numa.map_or(String::new(), |node| node.to_string()));
        let nics = nics.iter().map(nic).collect::<Vec<_>>().join(" ");
        format!("{host}\t{cores}\t{near}\t{nics}\t{node}\t{whole}\t{room}\t{open}\t{threads}\t{pid}")
    }
    fn read(line: &[u8]) -> Place {
        let text = String::from_utf8_lossy(line);
        let mut fields = text.split('\t');
        let mut next = || fields.next().unwrap_or_default();
        let (host, cores, near) = (next().to_owned(), cores::parse(next()), cores::parse(next()));
        let nic = |word: &str| {
            let (name, node) = word.rsplit_once('@')?;
            Some(Nic { name: name.to_owned(), numa: node.parse().ok() })
        };
        let nics = next().split_whitespace().filter_map(nic).collect();
        let mut number = || next().parse::<usize>().unwrap_or(0);
        let (node, whole, room, open, threads) = (number(), number(), number(), number(), number());
        Place { host, node, cores, whole, near, nics, room, open, threads, pid: number() as u64 }
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".into(), |h| h.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn place(host: &str, node: usize, cores: std::ops::Range<usize>, threads: usize) -> Place {
        let (host, whole, cores, room, open) = (host.into(), cores.len(), cores.collect(), 128, 8);
        Place { host, node, cores, whole, near: vec![], nics: vec![], room, open, threads, pid: 1 }
    }

    #[test]
    fn a_place_survives_the_journey() {
        let nics = [("mlx5_0", Some(3)), ("eth@0", None)].map(|(name, numa)| Nic { name: name.into(), numa });
        let one = Place { near: vec![1, 2], nics: nics.into(), ..place("node1", 3, 4..8, 2) };
        assert_eq!(Place::read(one.write().as_bytes()), one);
    }

    #[test]
    fn cores_are_shared_fairly() {
        let threads = |ranks: Vec<Place>, slurm| share(ranks, slurm).iter().map(|p| p.threads).collect::<Vec<_>>();
        // Unbound: both may use all eight. Bound: each its own four. On two nodes: nobody shares.
        assert_eq!(threads(vec![place("a", 0, 0..8, 0), place("a", 0, 0..8, 0)], None), [4, 4]);
        assert_eq!(threads(vec![place("a", 0, 0..4, 0), place("a", 0, 4..8, 0)], None), [4, 4]);
        assert_eq!(threads(vec![place("a", 0, 0..8, 0), place("b", 1, 0..8, 0)], None), [8, 8]);
        // More ranks than cores; an asked number stays; Slurm's number holds, but not beyond the mask.
        assert_eq!(threads(vec![place("a", 0, 0..1, 0), place("a", 0, 0..1, 0)], None), [1, 1]);
        assert_eq!(threads(vec![place("a", 0, 0..8, 3)], None), [3]);
        assert_eq!(threads(vec![place("a", 0, 0..8, 0)], Some(2)), [2]);
        assert_eq!(threads(vec![place("a", 0, 0..1, 0)], Some(2)), [1]);
        // Two hardware threads a core: one thread for both, bound or not; who asks for more has more.
        let twofold = |cores: std::ops::Range<usize>, threads| Place { whole: cores.len() / 2, ..place("a", 0, cores, threads) };
        assert_eq!(threads(vec![twofold(0..8, 0)], Some(8)), [4]);
        assert_eq!(threads(vec![twofold(0..8, 0), twofold(0..8, 0)], None), [2, 2]);
        assert_eq!(threads(vec![twofold(0..8, 8)], None), [8]);
        // A container's limit is everyone's together.
        let limited = |cores| Place { room: 2, ..place("a", 0, cores, 0) };
        assert_eq!(threads(vec![limited(0..4), limited(4..8)], None), [1, 1]);
    }
}
