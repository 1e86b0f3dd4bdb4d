//! When the job's time is over, by whoever knows.
//!
//! | | |
//! |---|---|
//! | `--max-time` | from the start of the program |
//! | `SLURM_JOB_END_TIME` | Slurm 23.02 and later, as it was at the start |
//! | `squeue`, else `scontrol` | as it is now: asked by rank 0 alone, on a thread of its own, for at most [`PATIENCE`] |
//!
//! A job's time can be changed while it runs (`scontrol update`), so Slurm is asked again after [`LONGEST`], and sooner towards
//! the end:
//!
//! ```text
//! next question in  min(time left / 2, LONGEST), at least SHORTEST        the end as last heard counts, before that the environment's
//! ```
//! The earlier of it and `--max-time` counts. Nobody waits for the answer, and only rank 0 needs it: one rank's wish to stop is
//! everyone's, by the exchange at the end of each step.
use super::slurm;
use crate::metrics::units::duration;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pauses between two questions.
const LONGEST: Duration = Duration::from_secs(600);
const SHORTEST: Duration = Duration::from_secs(10);
/// Seconds by which two answers may differ and mean the same end.
const SAME: f64 = 5.0;
/// What is needed after the last checkpoint: files closed, MPI_Finalize, the end of srun, and the job's script, which still has to
/// ask for another piece.
const LEAVING: f64 = 10.0;

/// Seconds since 1970 at which the job ends, as Slurm answered.
static ANSWER: AtomicU64 = AtomicU64::new(NONE);
/// No answer yet, and: the job has no limit.
const NONE: u64 = u64::MAX;
const NEVER: u64 = u64::MAX - 1;

/// Asks Slurm now and then, for as long as the program runs. To be called by rank 0.
pub fn ask() {
    let Some(job) = slurm::job() else { return };
    let watch = move || {
        let mut known = slurm::end_time().map_or(f64::NAN, |end| end as f64);
        let mut silent = false;
        if !known.is_nan() {
            std::thread::sleep(pause(known - now()));
        }
        loop {
            match time_left(&job, PATIENCE) {
                Ok(left) => {
                    let end = left.map_or(f64::INFINITY, |left| now() + left.as_secs_f64());
                    ANSWER.store(if end.is_finite() { end as u64 } else { NEVER }, Ordering::Relaxed);
                    if let Some(words) = news(known, end, now()) {
                        log::info!("{words}");
                    }
                    (known, silent) = (end, false);
                }
                Err(why) if !silent && known.is_nan() => {
                    log::warn!("the end of this job's time is not known, --max-time can say it: {why}");
                    silent = true;
                }
                Err(why) => log::debug!("{why}"),
            }
            std::thread::sleep(pause(known - now()));
        }
    };
    // Without a thread there is no answer, as with a controller that is silent.
    let _ = std::thread::Builder::new().name("deadline".into()).spawn(watch);
}

/// How long to wait before Slurm is asked again, with so many seconds left; NaN: nobody knows.
fn pause(left: f64) -> Duration {
    let half = if left.is_nan() { f64::INFINITY } else { left / 2.0 };
    Duration::from_secs_f64(half.clamp(SHORTEST.as_secs_f64(), LONGEST.as_secs_f64()))
}

/// What is to be said of an end, if it is not the one that was known.
fn news(known: f64, end: f64, now: f64) -> Option<String> {
    let time = || if end - now < 3600.0 { format!("{:.0} s", end - now) } else { duration(end - now) };
    let left = || format!("ends this job in {}: the run will save and leave before", time());
    match (known.is_nan(), end.is_finite()) {
        (true, true) => Some(format!("Slurm {}", left())),
        (true, false) => None,
        (false, false) => known.is_finite().then(|| "Slurm has taken this job's time limit away".to_string()),
        (false, true) => ((end - known).abs() > SAME).then(|| format!("the job's time was changed: Slurm now {}", left())),
    }
}

/// Seconds that are left to work in; infinite where nobody sets an end. `elapsed`: since the program started.
pub fn left(max_time: Option<u64>, elapsed: f64) -> f64 {
    let answer = Some(ANSWER.load(Ordering::Relaxed)).filter(|end| *end != NONE);
    let by_limit = max_time.map(|limit| limit as f64 - elapsed);
    let by_slurm = answer.or_else(slurm::end_time).map(|end| end as f64 - now() - LEAVING);
    [by_limit, by_slurm].into_iter().flatten().fold(f64::INFINITY, f64::min)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// How much of its time a job has left; `None`: it has no limit.
fn time_left(job: &str, patience: Duration) -> Result<Option<Duration>, String> {
    // %A is the element's own id in an array, whose id would name them all.
    let squeue = answer("squeue", &["--noheader", "--states=RUNNING", "--format=%A %L", "--jobs", job], patience);
    let by_squeue = squeue.and_then(|text| read_squeue(&text, job));
    by_squeue.or_else(|first| {
        let scontrol = answer("scontrol", &["--oneliner", "show", "job", job], patience);
        scontrol.and_then(|text| read_scontrol(&text, job)).map_err(|second| format!("{first}; {second}"))
    })
}

/// Lines of job and time left: `4711 1-02:03:04`.
fn read_squeue(text: &str, job: &str) -> Result<Option<Duration>, String> {
    let mine = text.lines().find_map(|line| line.trim().split_once(' ').filter(|(id, _)| *id == job));
    let time = mine.and_then(|(_, time)| span(time.trim()));
    time.ok_or_else(|| format!("squeue: expected the time left to job {job}, found \"{}\"", text.trim()))
}

/// `JobId=4711 … RunTime=00:00:10 TimeLimit=01:00:00 …`, a line for each element of an array.
fn read_scontrol(text: &str, job: &str) -> Result<Option<Duration>, String> {
    let line = text.lines().find(|line| line.split_whitespace().any(|word| word.strip_prefix("JobId=") == Some(job)));
    let value = |key: &str| line?.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let (limit, spent) = (value("TimeLimit").and_then(span), value("RunTime").and_then(span).flatten());
    match (limit, spent) {
        (Some(None), _) => Ok(None),
        (Some(Some(limit)), Some(spent)) => Ok(Some(limit.saturating_sub(spent))),
        _ => Err(format!("scontrol: expected RunTime and TimeLimit of job {job}, found \"{}\"", text.trim())),
    }
}

/// `1-02:03:04`, `2:03:04`, `3:04`; `UNLIMITED` is none at all.
fn span(text: &str) -> Option<Option<Duration>> {
    if text == "UNLIMITED" {
        return Some(None);
    }
    let (days, clock) = text.split_once('-').unwrap_or(("0", text));
    let days: u64 = days.parse().ok()?;
    let parts: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    if !(2..=3).contains(&parts.len()) {
        return None;
    }
    Some(Some(Duration::from_secs(days * 86_400 + parts.iter().fold(0, |sum, part| 60 * sum + part))))
}

/// What a command writes, if it ends in time; else it is ended.
fn answer(program: &str, arguments: &[&str], patience: Duration) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // A user's own wishes for what squeue shows.
    std::env::vars().filter(|(name, _)| name.starts_with("SQUEUE_")).for_each(|(name, _)| _ = command.env_remove(name));
    let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    let asked = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(Some(status)) => return Err(format!("{program}: {status}")),
            Ok(None) if asked.elapsed() < patience => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program}: no answer within {} s", patience.as_secs_f64()));
            }
            Err(e) => return Err(format!("{program}: {e}")),
        }
    }
    // A line or two: they fitted into the pipe, or the command had not ended.
    let written = child.wait_with_output().map_err(|e| format!("{program}: {e}"))?;
    Ok(String::from_utf8_lossy(&written.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_slurm_writes_them() {
        let seconds = |text| span(text).map(|time| time.map(|t| t.as_secs()));
        assert_eq!(seconds("0:59"), Some(Some(59)));
        assert_eq!(seconds("1:00:00"), Some(Some(3600)));
        assert_eq!(seconds("1-02:03:04"), Some(Some(93_784)));
        assert_eq!(seconds("UNLIMITED"), Some(None));
        for text in ["INVALID", "NOT_SET", "Partition_Limit", "", "5", "1-2", "1:2:3:4"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn an_element_of_an_array_finds_itself() {
        assert_eq!(read_squeue("41 0:10\n42 1:00:00\n", "42"), Ok(Some(Duration::from_secs(3600))));
        assert!(read_squeue("", "42").is_err_and(|why| why.contains("job 42")));
        let line =
            |id, limit| format!("JobId={id} ArrayJobId=41 JobState=RUNNING RunTime=00:01:00 TimeLimit={limit} TimeMin=N/A\n");
        let two = line(41, "00:02:00") + &line(42, "1-00:00:00");
        assert_eq!(read_scontrol(&two, "42"), Ok(Some(Duration::from_secs(86_340))));
        assert_eq!(read_scontrol(&line(42, "UNLIMITED"), "42"), Ok(None));
        assert_eq!(read_scontrol(&line(42, "00:00:30"), "42"), Ok(Some(Duration::ZERO)));
        assert!(read_scontrol(&line(42, "Partition_Limit"), "42").is_err());
    }

    #[test]
    fn slurm_is_asked_the_more_often_the_nearer_the_end() {
        let seconds = |left| pause(left).as_secs_f64();
        assert_eq!([86_400.0, f64::INFINITY, f64::NAN].map(seconds), [600.0; 3]);
        assert_eq!([600.0, 60.0, 10.0, 0.0, -50.0].map(seconds), [300.0, 30.0, 10.0, 10.0, 10.0]);
    }

    #[test]
    fn only_another_end_is_news() {
        assert!(news(f64::NAN, 160.0, 100.0).is_some_and(|words| words.contains("Slurm ends this job in 60 s")));
        assert_eq!(news(160.0, 161.0, 100.0), None);
        assert!(news(160.0, 400.0, 100.0).is_some_and(|words| words.contains("changed") && words.contains("in 300 s")));
        assert!(news(160.0, 120.0, 100.0).is_some_and(|words| words.contains("in 20 s")));
        assert!(news(160.0, f64::INFINITY, 100.0).is_some());
        assert!(news(f64::INFINITY, 160.0, 100.0).is_some(), "a limit where there was none");
        assert_eq!(news(f64::NAN, f64::INFINITY, 100.0), None);
        assert_eq!(news(f64::INFINITY, f64::INFINITY, 100.0), None);
    }

    #[test]
    fn a_controller_that_is_silent_is_not_waited_for() {
        let began = Instant::now();
        let silent = answer("sleep", &["60"], Duration::from_millis(100));
        assert!(silent.is_err_and(|why| why.contains("no answer")) && began.elapsed() < Duration::from_secs(5));
        assert!(answer("false", &[], PATIENCE).is_err());
        assert!(answer("no-such-command-here", &[], PATIENCE).is_err());
        assert_eq!(answer("echo", &["7 1:00"], PATIENCE).as_deref(), Ok("7 1:00\n"));
    }
}
