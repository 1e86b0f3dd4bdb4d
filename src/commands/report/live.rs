//! `llm-train report --live OUT`: how a run goes, again and again.
//!
//! ```text
//! look     read metrics.h5 from its start: a resume replaces the file, and what is read need not be kept in step with it
//! show     a terminal: the same lines again, in place     a file or pipe: a line now and then, and what happened meanwhile
//! end      the run is done, has failed, or was killed; one that stopped early is waited for
//! ```
//! A look takes at most a tenth of the time, however long the run has become.
use super::name;
use crate::commands::say;
use crate::error::Result;
use crate::failed;
use crate::metrics::units::{bytes, duration, significant, thousands};
use crate::metrics::{History, Recent, Share, State, letters, terminal};
use console::{Style, Term, style, truncate_str};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Between looks, unless said otherwise.
const ON_TERMINAL: Duration = Duration::from_secs(1);
const ELSEWHERE: Duration = Duration::from_secs(30);
/// A whole HDF5 file that cannot be read for so long is not just being written.
const PATIENCE: Duration = Duration::from_secs(60);
/// A step may take long, and so may a checkpoint.
const SILENCE: Duration = Duration::from_secs(30);
const WIDEST: usize = 110;

/// What one look has found.
enum Look {
    NotThere,
    There(Box<History>, State),
    /// In the middle of a change, perhaps.
    Unreadable(crate::error::Error),
}

pub fn follow(file: &Path, every: Option<u64>) -> Result<()> {
    let mut screen = terminal::stdout_is_watched().then(Screen::new);
    let every = every.map(Duration::from_secs).unwrap_or(if screen.is_some() { ON_TERMINAL } else { ELSEWHERE });
    let mut lines = Lines::default();
    let (began, mut readable, mut moved, mut killed, mut last) = (Instant::now(), Instant::now(), silent_since(file), 0, 0);
    loop {
        let looked = Instant::now();
        let found = look(file)?;
        let mut ended = None;
        match found {
            Look::NotThere => match &mut screen {
                Some(screen) => screen.show(&[waiting(file, began.elapsed())]),
                None => lines.waiting(file),
            },
            Look::Unreadable(why) => {
                if readable.elapsed() > PATIENCE {
                    return Err(why);
                }
            }
            Look::There(history, state) => {
                readable = Instant::now();
                let step = history.steps.last().map_or(0, |r| r.step);
                if step != last {
                    moved = if last == 0 { moved } else { Instant::now() };
                    last = step;
                }
                // Once may be a glance between two processes.
                killed = if state == State::Killed { killed + 1 } else { 0 };
                ended = (matches!(state, State::Done | State::Failed) || killed >= 3).then_some(state);
                let state = if state == State::Killed && ended.is_none() { State::Going } else { state };
                match &mut screen {
                    Some(screen) => {
                        let frame = frame(&name(file), &history, state, moved.elapsed(), screen.size());
                        screen.show(&frame);
                    }
                    None => lines.news(&history, state, moved.elapsed()),
                }
            }
        }
        if let Some(state) = ended {
            if screen.is_none() {
                say(format_args!("{} after step {last}", state.words()));
            }
            return Ok(());
        }
        // Someone who is about to be killed is looked at again soon.
        let wait = if killed > 0 { ON_TERMINAL } else { every };
        std::thread::sleep(wait.max(10 * looked.elapsed()));
    }
}

/// Errors: what is there is no HDF5 file.
fn look(file: &Path) -> Result<Look> {
    let mut head = [0; 4];
    match std::fs::File::open(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Look::NotThere),
        Err(e) => failed!("{}: cannot be read: {e}", file.display()),
        Ok(mut open) => {
            if open.read_exact(&mut head).is_ok() && head != *b"\x89HDF" {
                crate::bad_input!("{}: expected an llm-train metrics file, found another kind of file", file.display());
            }
        }
    }
    Ok(match History::read(file) {
        Ok(history) => {
            let state = State::of(file, &history);
            Look::There(Box::new(history), state)
        }
        Err(why) => Look::Unreadable(why),
    })
}

/// When the file was last written, as this machine's clock sees it.
fn silent_since(file: &Path) -> Instant {
    let age = file.metadata().and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
    Instant::now().checked_sub(age.unwrap_or_default()).unwrap_or_else(Instant::now)
}

fn waiting(file: &Path, since: Duration) -> String {
    format!("waiting for {}, which is not there yet  {}", file.display(), duration(since.as_secs_f64()))
}

/// Where nobody looks all the time.
#[derive(Default)]
struct Lines {
    waiting: bool,
    /// Starts, events and evaluations that were told.
    told: Option<(usize, usize, usize)>,
    step: u64,
    state: Option<State>,
}

impl Lines {
    fn waiting(&mut self, file: &Path) {
        if !self.waiting {
            say(format_args!("waiting for {}, which is not there yet", file.display()));
            self.waiting = true;
        }
    }

    fn news(&mut self, history: &History, state: State, silence: Duration) {
        let evaluations = history.evaluations.iter().map(|e| e.points.len()).sum();
        let now = (history.starts.len(), history.events.len(), evaluations);
        // What was there when we came is not news; a run that began anew is.
        let (starts, events, evals) = match self.told.replace(now) {
            None => (0, now.1, now.2),
            Some(told) if now.0 < told.0 || now.1 < told.1 => (0, 0, 0),
            Some(told) => told,
        };
        if let Some(start) = history.starts.get(starts..).and_then(|new| new.last()) {
            let how = if start.resumed_step > 0 { format!("went on after step {}", start.resumed_step) } else { "began".into() };
            let ranks = count(start.ranks);
            say(format_args!("run {how}, {ranks} on {}; means over the last 100 steps", start.hosts));
            self.step = self.step.min(start.resumed_step);
        }
        history.events[events.min(now.1)..].iter().for_each(|e| say(format_args!("event step {} {}", e.step, e.text)));
        if evals < now.2 {
            for (e, point) in history.evaluations.iter().filter_map(|e| Some((e, e.points.last()?))) {
                say(format_args!("eval {} step {} loss {:.6}", e.set.name, point.step, point.loss));
            }
        }
        let Some(r) = Recent::of(history) else { return };
        if r.last.step != self.step {
            self.step = r.last.step;
            let of = r.of.map_or(String::new(), |of| format!("/{of}"));
            let [ms, rate, exposed] = [1e3 * r.step_seconds, r.tokens_per_second, r.exposed()].map(|v| significant(v, 5));
            let eta = duration(r.eta.unwrap_or(f64::NAN));
            let (step, loss, memory) = (r.last.step, r.loss, r.last.memory);
            say(format_args!(
                "step {step}{of} loss {loss:.6} ms {ms} tokens/s {rate} exposed_communication {exposed} memory {memory} ETA {eta}"
            ));
        } else if state == State::Going && silence > SILENCE {
            say(format_args!("no new step for {}, step {} was the last", duration(silence.as_secs_f64()), self.step));
        }
        if state == State::Stopped && self.state != Some(state) {
            say(format_args!("{}: waiting for its next start", state.words()));
        }
        self.state = Some(state);
    }
}

/// Lines that replace the lines before.
struct Screen {
    term: Term,
    shown: usize,
    size: (usize, usize),
}

impl Screen {
    fn new() -> Screen {
        let term = Term::buffered_stdout();
        Screen { size: term_size(&term), term, shown: 0 }
    }

    /// Rows and columns.
    fn size(&self) -> (usize, usize) {
        term_size(&self.term)
    }

    fn show(&mut self, lines: &[String]) {
        let size = self.size();
        // In a window of another width the old lines are broken anew, and nobody knows where they begin.
        if size != self.size && self.shown > 0 {
            let _ = self.term.clear_screen();
            self.shown = 0;
        }
        let fit = lines.len().min(size.0.saturating_sub(1));
        // A terminal that has gone away ends us by its own signal.
        let _ = self.term.move_cursor_up(self.shown);
        for line in &lines[..fit] {
            let _ = self.term.clear_line();
            let _ = self.term.write_line(&truncate_str(line, size.1.saturating_sub(1), "…"));
        }
        let _ = self.term.clear_to_end_of_screen();
        let _ = self.term.flush();
        (self.shown, self.size) = (fit, size);
    }
}

fn term_size(term: &Term) -> (usize, usize) {
    term.size_checked().map_or((24, 80), |(rows, columns)| (rows.into(), columns.into()))
}

/// The lines of a terminal of so many rows and columns.
fn frame(name: &str, history: &History, state: State, silence: Duration, (rows, columns): (usize, usize)) -> Vec<String> {
    let width = columns.saturating_sub(3).clamp(20, WIDEST);
    let (soft, strong) = (Style::new().dim(), Style::new().bold());
    let mut lines = vec![];
    let start = history.starts.last().cloned().unwrap_or_default();
    let recent = Recent::of(history);

    let quiet = SILENCE.max(Duration::from_secs_f64(recent.as_ref().map_or(0.0, |r| 10.0 * r.step_seconds)));
    let (color, words) = match state {
        State::Done => (Style::new().green(), state.words().to_string()),
        State::Failed | State::Killed => (Style::new().red(), state.words().to_string()),
        State::Stopped => (Style::new().yellow(), format!("{}; waiting for its next start", state.words())),
        State::Going if silence > quiet => {
            (Style::new().yellow(), format!("no new step for {}", duration(silence.as_secs_f64())))
        }
        State::Going => (Style::new().cyan(), "running".to_string()),
    };
    lines.push(format!(" {}  {}", strong.apply_to(name), color.apply_to(words)));
    let job = if start.slurm_job.is_empty() { String::new() } else { format!(" · Slurm job {}", start.slurm_job) };
    let hosts = start.hosts.split(',').count();
    let place = if hosts > 1 { format!("{hosts} hosts") } else { start.hosts.clone() };
    let ranks = format!("{} on {place}", count(start.ranks));
    lines.push(soft.apply_to(format!(" {} parameters · {ranks}{job}", thousands(start.parameters))).to_string());
    lines.push(String::new());
    let Some(r) = recent else {
        lines.push(" no step is done yet".into());
        return lines;
    };

    let part = r.of.map_or(1.0, |of| r.last.step as f64 / of as f64).min(1.0);
    let bar = width.saturating_sub(8);
    let full = (part * bar as f64) as usize;
    let (gone, left) = (style("━".repeat(full)).cyan(), soft.apply_to("─".repeat(bar - full)));
    lines.push(format!(" {gone}{left}  {:>3.0} %", 100.0 * part));
    let of = r.of.map_or(String::new(), |of| format!(" of {}", thousands(of)));
    let eta = match (r.eta, state) {
        (Some(eta), State::Going) => format!(" · {} left", duration(eta)),
        _ => String::new(),
    };
    let (step, tokens) = (thousands(r.last.step), thousands(r.last.tokens));
    lines.push(format!(" step {}{of} · {tokens} tokens{}", strong.apply_to(step), strong.apply_to(eta)));
    lines.push(String::new());

    let label = |name: &str| soft.apply_to(format!(" {name:<11}")).to_string();
    let points: Vec<(f64, f64)> = history.steps.iter().map(|s| (s.step as f64, s.loss)).collect();
    let mut loss = format!("{}{:<9}", label("loss"), strong.apply_to(format!("{:.4}", r.loss)));
    for e in &history.evaluations {
        if let Some(point) = e.points.last() {
            loss += &soft.apply_to(format!("  {} {:.4} at step {}", e.set.name, point.loss, thousands(point.step))).to_string();
        }
    }
    lines.push(loss);
    let tall = rows.saturating_sub(16).clamp(3, 8);
    let drawn = letters::chart(&points, width - 1, tall);
    lines.extend(drawn.into_iter().map(|(number, curve)| format!(" {}{}", soft.apply_to(number), style(curve).cyan())));
    lines.push(String::new());

    let rates: Vec<f64> = history.latest_steps().iter().map(|s| s.tokens_per_second).collect();
    let spark = style(letters::spark(&rates, width.saturating_sub(24))).green();
    lines.push(format!("{}{:<11}{spark}", label("tokens/s"), strong.apply_to(thousands(r.tokens_per_second.round() as u64))));
    let time = format!("{} ms", significant(1e3 * r.step_seconds, 4));
    let waits = |name: &str| ["data", "exposed communication"].contains(&name);
    let share = |part: &Share| format!("{} {:.1} %", part.name, 100.0 * part.share);
    let works: Vec<String> = r.parts.iter().filter(|part| !waits(part.name)).map(share).collect();
    lines.push(format!("{}{:<11}{}", label("step time"), strong.apply_to(time), soft.apply_to(works.join("  "))));
    let exposed = format!("{:.1} %", 100.0 * r.exposed());
    let data: String = r.parts.iter().filter(|part| part.name == "data").map(share).collect();
    let words = soft.apply_to(format!("exposed communication  {data}"));
    lines.push(format!("{}{:<11}{words}", label("waiting"), strong.apply_to(exposed)));
    let rest = soft.apply_to(format!("learning rate {:.2e}  memory {}", r.last.lr, bytes(r.last.memory)));
    lines.push(format!("{}{:<11}{rest}", label("norm"), strong.apply_to(significant(r.last.grad_norm, 3))));
    if let Some(event) = history.events.last() {
        lines.push(format!("{}{}", label("latest"), soft.apply_to(format!("step {}: {}", event.step, event.text))));
    }
    lines
}

fn count(ranks: u64) -> String {
    format!("{ranks} rank{}", if ranks == 1 { "" } else { "s" })
}
