//! On a terminal: the same lines again and again, in place.
use crate::metrics::units::{bytes, count, duration, significant, thousands};
use crate::metrics::{History, Recent, Share, State, letters, silent};
use console::{Style, Term, style, truncate_str};
use std::time::Duration;

const WIDEST: usize = 110;

/// Lines that replace the lines before.
pub struct Screen {
    term: Term,
    shown: usize,
    size: (usize, usize),
}

impl Screen {
    pub fn new() -> Screen {
        let term = Term::buffered_stdout();
        Screen { size: term_size(&term), term, shown: 0 }
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        term_size(&self.term)
    }

    pub fn show(&mut self, lines: &[String]) {
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
pub fn frame(name: &str, history: &History, state: State, silence: Duration, (rows, columns): (usize, usize)) -> Vec<String> {
    let width = columns.saturating_sub(3).clamp(20, WIDEST);
    let (soft, strong) = (Style::new().dim(), Style::new().bold());
    let mut lines = vec![];
    let start = history.starts.last().cloned().unwrap_or_default();
    let recent = Recent::of(history);

    let (color, words) = match state {
        State::Done => (Style::new().green(), state.words().to_string()),
        State::Failed | State::Killed => (Style::new().red(), state.words().to_string()),
        State::Stopped => (Style::new().yellow(), format!("{}; waiting for its next start", state.words())),
        State::Going if silent(history, silence) => {
            (Style::new().yellow(), format!("no new step for {}", duration(silence.as_secs_f64())))
        }
        State::Going => (Style::new().cyan(), "running".to_string()),
    };
    lines.push(format!(" {}  {}", strong.apply_to(name), color.apply_to(words)));
    let job = if start.slurm_job.is_empty() { String::new() } else { format!(" · Slurm job {}", start.slurm_job) };
    let hosts = start.hosts.split(',').count();
    let place = if hosts > 1 { format!("{hosts} hosts") } else { start.hosts.clone() };
    let ranks = format!("{} on {place}", count(start.ranks, "rank"));
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
