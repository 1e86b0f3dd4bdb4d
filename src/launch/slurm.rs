//! What Slurm tells a task by its environment.

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn number(name: &str) -> Option<u64> {
    variable(name)?.parse().ok()
}

/// The job's id; `None` outside Slurm.
pub fn job() -> Option<String> {
    variable("SLURM_JOB_ID")
}

/// Cores asked for each task.
pub fn cpus_per_task() -> Option<usize> {
    number("SLURM_CPUS_PER_TASK").map(|n| n as usize)
}

/// Seconds since 1970 at which the job began, and at which its time is over (Slurm 23.02 and later).
pub fn start_time() -> Option<u64> {
    number("SLURM_JOB_START_TIME")
}

/// See [`start_time`].
pub fn end_time() -> Option<u64> {
    number("SLURM_JOB_END_TIME")
}

/// The rank that a launcher says this process will have, before MPI is up.
pub fn expected_rank() -> Option<u64> {
    ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"].iter().find_map(|name| number(name))
}
