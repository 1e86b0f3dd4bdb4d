//! The sections of the page below its head: each a piece of HTML, empty where there is nothing to say.
use super::counted;
use super::writing::{escape, figure, table};
use crate::checkpoint::Kept;
use crate::commands::report::{Row, over_the_run};
use crate::launch::cores;
use crate::metrics::units::{bytes, count, date, significant, thousands};
use crate::metrics::{Curve, History, Share, Summary, curve, split};

/// Rows of a table past which the rest is counted, not shown.
const MANY: usize = 200;

pub fn curves(history: &History) -> String {
    if history.steps.is_empty() {
        return "<p class=\"soft\">No step is done yet.</p>\n".into();
    }
    let all = [
        (Curve::Loss, "Loss over steps"),
        (Curve::LearningRate, "Learning rate over steps"),
        (Curve::GradientNorm, "Gradient norm over steps"),
        (Curve::Throughput, "Tokens per second over steps"),
        (Curve::StepTime, "Parts of a step's time over steps"),
    ];
    let one = |(which, label): (Curve, &str)| {
        // Within a page an SVG needs no name space.
        let svg = curve(history, which).replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
        let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escape(label)), 1);
        format!("<figure>{}</figure>\n", svg.trim())
    };
    let dashed = if history.starts.len() > 1 { "; dashed: a resume" } else { "" };
    let thinned = if history.steps.len() > 500 { "; bands: least to greatest of neighbouring steps" } else { "" };
    format!(
        "<div class=\"curves\">\n{}</div>\n<p class=\"soft\"><small>Across: optimizer steps{dashed}{thinned}.</small></p>\n",
        all.map(one).concat()
    )
}

pub fn times(history: &History, summary: &Summary) -> String {
    let steps = counted(history, summary);
    let parts = split(steps);
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return String::new() };
    let piece = |(i, part): (usize, &Share)| {
        format!("<span class=\"p{i}\" style=\"width:{:.3}%\" title=\"{}\"></span>", 100.0 * part.share, part.name)
    };
    let bar: String = parts.iter().enumerate().map(piece).collect();
    let row = |(i, part): (usize, &Share)| {
        let key = |unit: &str| format!("{} ({unit})", part.name);
        vec![
            format!("<span class=\"dot p{i}\"></span>{}", part.name),
            figure(&key("s"), part.seconds, &significant(1e3 * part.seconds, 4)),
            figure(&key("share"), part.share, &format!("{:.1} %", 100.0 * part.share)),
        ]
    };
    let rows: Vec<_> = parts.iter().enumerate().map(row).collect();
    format!(
        "<div class=\"bar\">{bar}</div>\n<div class=\"narrow\">{}</div>\n<p class=\"soft\"><small>Rank 0, mean over steps {} to {}.</small></p>\n",
        table(&[("part", ""), ("ms a step", "n"), ("share", "n")], &rows),
        first.step,
        last.step
    )
}

pub fn course(history: &History) -> String {
    let rows = over_the_run(history, 12);
    if rows.is_empty() {
        return String::new();
    }
    let mut columns = vec![("to step", "n"), ("tokens", "n"), ("loss, mean", "n"), ("gradient norm", "n"), ("tokens/s", "n")];
    columns.extend(history.evaluations.iter().map(|e| (e.set.name.as_str(), "n")));
    let cells = |row: &Row| {
        let mut cells = vec![
            thousands(row.step),
            thousands(row.tokens),
            format!("{:.4}", row.loss),
            significant(row.norm, 4),
            thousands(row.rate.round() as u64),
        ];
        cells.extend(row.evals.iter().map(|loss| loss.map_or("–".into(), |loss| format!("{loss:.4}"))));
        cells
    };
    table(&columns, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// The lines of the end block, `key: number    words`, as a table.
pub fn merits(summary: &Summary) -> String {
    let text = summary.text();
    let row = |line: &str| {
        let (key, rest) = line.split_once(": ")?;
        let (value, words) = rest.split_once("    ")?;
        Some(vec![escape(key), figure(&format!("merit: {key}"), escape(value), value), escape(words)])
    };
    let rows: Vec<_> = text.lines().filter_map(row).collect();
    let about: Vec<&str> = text.lines().take_while(|line| !line.contains("    ")).collect();
    let about = format!("<p class=\"soft\">{}</p>\n", escape(&about.join(" ")));
    if rows.is_empty() { about } else { table(&[("", ""), ("", "n"), ("", "text soft")], &rows) + &about }
}

pub fn checkpoints(all: &[Kept]) -> String {
    if all.is_empty() {
        return "<p class=\"soft\">None is there.</p>\n".into();
    }
    let newest = all.iter().rev().find(|c| c.damage.is_none()).map(|c| c.step);
    let row = |c: &Kept| {
        let state = match &c.damage {
            Some(why) => format!("<span class=\"bad\">damaged: {}</span>", escape(why)),
            None if Some(c.step) == newest => "<span class=\"good\">complete</span>; a resume goes on from here".into(),
            None => "complete".into(),
        };
        vec![
            figure("checkpoint", c.step, &thousands(c.step)),
            figure("checkpoint bytes", c.bytes, &bytes(c.bytes)),
            c.files.to_string(),
            state,
            format!("<code>{}</code>", escape(&c.dir.display().to_string())),
        ]
    };
    let rows: Vec<_> = all.iter().rev().take(MANY).map(row).collect();
    table(&[("step", "n"), ("size", "n"), ("files", "n"), ("state", "text"), ("folder", "text")], &rows)
        + &more(all.len() - rows.len(), "older ones are there")
}

/// What a long table leaves out.
fn more(n: usize, what: &str) -> String {
    if n > 0 { format!("<p class=\"soft\"><small>{n} {what}.</small></p>\n") } else { String::new() }
}

/// What happened, in the order in which it did.
pub fn events(history: &History) -> String {
    let started = history.starts.iter().map(|s| {
        let job = if s.slurm_job.is_empty() { String::new() } else { format!(", Slurm job {}", s.slurm_job) };
        let how = if s.resumed_step > 0 { "went on" } else { "began" };
        let first = s.first_step.map_or(String::new(), |t| format!("; first step after {} s", significant(t, 3)));
        let words = format!("{how} on {} ({}){job}{first}", count(s.ranks, "rank"), s.hosts);
        (s.time, s.resumed_step, words, "good")
    });
    let happened = history.events.iter().map(|e| {
        let bad = ["not finite", "moved to"].iter().any(|sign| e.text.contains(sign));
        let class = if bad {
            "bad"
        } else if e.text.starts_with("warning") {
            "wait"
        } else {
            ""
        };
        (e.time, e.step, e.text.clone(), class)
    });
    let mut all: Vec<_> = started.chain(happened).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let left_out = all.len().saturating_sub(MANY);
    let row = |(time, step, words, class): &(f64, u64, String, &str)| {
        vec![date(*time), thousands(*step), format!("<span class=\"{class}\">{}</span>", escape(words))]
    };
    let rows: Vec<_> = all[left_out..].iter().map(row).collect();
    table(&[("when", "time"), ("step", "n"), ("what", "text")], &rows) + &more(left_out, "earlier ones are in metrics.h5")
}

pub fn hosts(history: &History) -> String {
    let mut hosts: Vec<(&str, Vec<usize>)> = vec![];
    for rank in &history.ranks {
        match hosts.iter_mut().find(|(host, _)| *host == rank.host) {
            Some((_, ranks)) => ranks.push(rank.rank as usize),
            None => hosts.push((&rank.host, vec![rank.rank as usize])),
        }
    }
    let of = |r: usize| history.ranks.iter().find(|rank| rank.rank as usize == r);
    let row = |(host, ranks): &(&str, Vec<usize>)| {
        let all = ranks.iter().filter_map(|r| of(*r));
        let mut cores: Vec<&str> = all.clone().map(|r| r.cores.as_str()).collect();
        cores.dedup();
        let threads: u64 = all.clone().map(|r| r.threads).sum();
        let device = all.clone().next().map_or("", |r| r.device.as_str());
        vec![escape(host), cores::list(ranks), escape(device), escape(&cores.join(" | ")), threads.to_string()]
    };
    let rows: Vec<_> = hosts.iter().take(MANY).map(row).collect();
    let columns = [("host", ""), ("ranks", ""), ("device", ""), ("cores of each rank", "text"), ("threads, all", "n")];
    let start = history.starts.last();
    let mpi = start.map_or(String::new(), |s| format!("<p class=\"soft\"><small>{}</small></p>\n", escape(s.mpi.trim())));
    let left_out = more(hosts.len() - rows.len(), "more hosts are in metrics.h5");
    if rows.is_empty() { String::new() } else { table(&columns, &rows) + &left_out + &mpi }
}

pub fn configuration(history: &History) -> String {
    let Some(start) = history.starts.last() else { return String::new() };
    // A line may end between words only: browsers would break after the first dash of an option.
    let word = |word: &str| format!("<span>{}</span>", escape(word));
    let command: Vec<String> = start.command_line.split(' ').map(word).collect();
    format!(
        "<p class=\"command\"><code>{}</code></p>\n<pre>{}</pre>\n<p class=\"soft\"><small>Of the latest start; saved to a file it can be fed back: \
         llm-train --config FILE.</small></p>\n",
        command.join(" "),
        escape(start.configuration.trim())
    )
}
