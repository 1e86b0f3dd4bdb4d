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

/// Cores of this node that belong to the job.
pub fn cpus_on_node() -> Option<usize> {
    number("SLURM_CPUS_ON_NODE").map(|n| n as usize)
}

/// Slurm's name for this node: it tells several slurmd on one machine apart.
pub fn node() -> Option<String> {
    variable("SLURMD_NODENAME")
}

/// What is wrong when MPI sees a world of one: a launcher that says it started more tasks speaks another dialect than
/// the MPI library, and each task would train alone.
pub fn lonely(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    // mpirun within Slurm starts its daemons by srun, so its own word comes first.
    let said = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"].iter().find_map(|name| variable(name));
    let tasks: usize = said?.parse().ok()?;
    (tasks > 1).then(|| {
        format!(
            "the launcher started {tasks} tasks, but to the MPI library each is alone: start with the mpirun of the library that \
             llm-train was built with, or with srun --mpi=pmix (srun --mpi=list shows what there is)"
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_each_train_alone_are_noticed() {
        let said = |name: &'static str, n: &'static str| move |asked: &str| (asked == name).then(|| n.to_owned());
        assert!(lonely(&said("SLURM_STEP_NUM_TASKS", "4")).is_some_and(|text| text.contains("4 tasks")));
        assert_eq!(lonely(&said("SLURM_STEP_NUM_TASKS", "1")), None);
        assert_eq!(lonely(&said("SLURM_NTASKS", "4")), None, "a batch script's own shell");
        assert_eq!(lonely(&|_| None), None);
    }
}
