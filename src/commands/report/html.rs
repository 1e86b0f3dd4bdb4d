//! `report.html`: a run on one page that opens from a mail. No scripts, nothing from elsewhere; light and dark as the reader likes
//! it; fit for paper.
//!
//! ```text
//! metrics.h5    -> state, figures, curves, time split, starts, hosts, events, configuration
//! checkpoints/  -> what is there to go on from
//! ```
//! A figure stands whole in its `<data value>`, however it is rounded for the eye. Whatever comes from outside is escaped.
use super::over_the_run;
use crate::checkpoint::Kept;
use crate::launch::cores;
use crate::metrics::units::{bytes, date, duration, significant, thousands};
use crate::metrics::{Curve, History, Share, State, Summary, by_night, curve, split};
use std::fmt::{Display, Write};

const STYLE: &str = include_str!("style.css");
/// Rows of a table past which the rest is counted, not shown.
const MANY: usize = 200;

/// What the page shows.
pub struct Seen<'a> {
    /// What the run is called.
    pub name: &'a str,
    pub history: &'a History,
    pub state: State,
    pub checkpoints: &'a [Kept],
    /// Seconds since 1970.
    pub now: f64,
}

pub fn page(seen: &Seen) -> String {
    let Seen { history, .. } = seen;
    let summary = Summary::of(history);
    let name = escape(seen.name);
    let body = [
        header(seen, &summary),
        section("Curves", &curves(history)),
        section("Where the time goes", &times(history, &summary)),
        section("How it went", &course(history)),
        section("Figures of merit", &merits(&summary)),
        section("Checkpoints", &checkpoints(seen.checkpoints)),
        section("Starts and events", &events(history)),
        section("Hosts", &hosts(history)),
        section("Configuration", &configuration(history)),
        footer(seen),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<title>{name}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <style>\n{STYLE}{}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
        colors(history),
        body.concat()
    )
}

/// Text as a page may hold it, in and outside quotes. Signs that no page may hold are left out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\n' | '\t' => out.push(c),
            _ if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => (),
            _ => out.push(c),
        }
    }
    out
}

/// `shown` for the eye, `value` for whoever wants to compute with it.
fn figure(key: &str, value: impl Display, shown: &str) -> String {
    format!("<data data-key=\"{}\" value=\"{value}\">{}</data>", escape(key), escape(shown))
}

fn section(title: &str, inside: &str) -> String {
    if inside.is_empty() { String::new() } else { format!("<section>\n<h2>{title}</h2>\n{inside}</section>\n") }
}

/// Columns by name and class (`n`: numbers, right-aligned); cells are HTML.
fn table(columns: &[(&str, &str)], rows: &[Vec<String>]) -> String {
    let cell = |tag: &str, class: &str, text: &str| match class {
        "" => format!("<{tag}>{text}</{tag}>"),
        _ => format!("<{tag} class=\"{class}\">{text}</{tag}>"),
    };
    let names: String = columns.iter().map(|(name, class)| cell("th", class, &escape(name))).collect();
    let named = columns.iter().any(|(name, _)| !name.is_empty());
    let head = if named { format!("<thead><tr>{names}</tr></thead>\n") } else { String::new() };
    let row = |row: &Vec<String>| columns.iter().zip(row).map(|((_, class), text)| cell("td", class, text)).collect::<String>();
    let rows: String = rows.iter().map(|r| format!("<tr>{}</tr>\n", row(r))).collect();
    format!("<div class=\"wide\"><table>\n{head}<tbody>\n{rows}</tbody>\n</table></div>\n")
}

fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(n), if n == 1 { "" } else { "s" })
}

fn header(seen: &Seen, summary: &Summary) -> String {
    let (history, start) = (seen.history, &summary.start);
    let class = match seen.state {
        State::Done => "good",
        State::Going | State::Stopped => "wait",
        State::Failed | State::Killed => "bad",
    };
    let chip = format!("<span class=\"state {class}\">{}</span>", seen.state.words());
    let config = toml::from_str::<toml::Table>(&start.configuration).unwrap_or_default();
    let model = config.get("model").and_then(|m| m.get("name")).and_then(|n| n.as_str()).unwrap_or_default();
    let hosts = start.hosts.split(',').filter(|h| !h.is_empty()).count() as u64;
    let mut facts = vec![];
    if !model.is_empty() {
        facts.push(escape(model));
    }
    facts.push(figure("parameters", start.parameters, &format!("{} parameters", thousands(start.parameters))));
    facts.push(escape(&format!("{} on {}", count(start.ranks, "rank"), count(hosts, "host"))));
    if let Some(first) = history.starts.first() {
        facts.push(format!("begun {}", date(first.time)));
    }
    let (done, tokens) = history.steps.last().map_or((0, 0), |r| (r.step, r.tokens));
    let of = if start.steps > 0 { format!(" of {}", thousands(start.steps)) } else { String::new() };
    let trained: f64 = history.steps.iter().map(|r| r.step_time).sum();
    let progress = format!(
        "step {}{of}, {} tokens, {} in steps",
        figure("step", done, &thousands(done)),
        figure("tokens", tokens, &thousands(tokens)),
        figure("seconds in steps", trained, &duration(trained)),
    );
    let part = if start.steps > 0 { 100.0 * done as f64 / start.steps as f64 } else { 100.0 };
    format!(
        "<header>\n<h1>{}{chip}</h1>\n<p class=\"facts\">{}</p>\n<p class=\"facts\">{progress}</p>\n\
         <div class=\"progress\"><span style=\"width:{:.2}%\"></span></div>\n<div class=\"tiles\">\n{}</div>\n</header>\n",
        escape(seen.name),
        facts.join(" · "),
        part.min(100.0),
        tiles(history, summary)
    )
}

/// The figures that one looks for first. `big` and `small` are HTML.
fn tiles(history: &History, summary: &Summary) -> String {
    let mut out = String::new();
    let mut tile = |name: &str, big: String, small: String| {
        let name = escape(name);
        let _ = writeln!(out, "<div class=\"tile\"><span>{name}</span><b>{big}</b><small>{small}</small></div>");
    };
    if let Some(loss) = summary.loss {
        tile("training loss", figure("final loss", loss, &format!("{loss:.4}")), "the last step’s batch".into());
    }
    for e in summary.evals.iter().take(2) {
        let bits = e
            .bits_per_byte
            .map_or(String::new(), |b| figure(&format!("bits per byte, {}", e.name), b, &format!("{b:.4}")) + " bits per byte, ");
        let key = format!("held-out loss, {}", e.name);
        tile(&format!("loss on {}", e.name), figure(&key, e.loss, &format!("{:.4}", e.loss)), format!("{bits}step {}", e.step));
    }
    if let (Some(rate), Some(step)) = (summary.tokens_per_second, summary.step_seconds) {
        let spread = format!("± {} ({})", significant(rate.stddev, 3), count(rate.n as u64, "step"));
        tile("tokens/s", figure("tokens/s", rate.mean, &thousands(rate.mean.round() as u64)), escape(&spread));
        let median = format!("median {} ms", significant(1e3 * step.median, 4));
        tile("time of a step", figure("step time (s)", step.mean, &format!("{} ms", significant(1e3 * step.mean, 4))), median);
    }
    if let Some(exposed) = split(counted(history, summary)).iter().find(|part| part.name == "exposed communication") {
        let shown = format!("{:.1} %", 100.0 * exposed.share);
        tile("communication", figure("exposed communication", exposed.share, &shown), "of a step’s time exposed".into());
    }
    match (summary.mfu(), summary.tflops_per_device) {
        (Some((full, causal)), _) => {
            let small = format!("{:.1} % with causal attention", 100.0 * causal.mean);
            tile("MFU", figure("MFU", full.mean, &format!("{:.1} %", 100.0 * full.mean)), small);
        }
        (None, Some(t)) => {
            let shown = significant(t.mean, 3);
            tile("TFLOP/s a device", figure("TFLOP/s per device", t.mean, &shown), "attention counted full".into());
        }
        (None, None) => (),
    }
    out
}

/// The steps that the figures of merit are taken over.
fn counted<'a>(history: &'a History, summary: &Summary) -> &'a [crate::metrics::StepRecord] {
    let Some((first, _)) = summary.steps else { return &[] };
    &history.steps[history.steps.partition_point(|r| r.step < first)..]
}

fn curves(history: &History) -> String {
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

fn times(history: &History, summary: &Summary) -> String {
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

fn course(history: &History) -> String {
    let rows = over_the_run(history, 12);
    if rows.is_empty() {
        return String::new();
    }
    let mut columns = vec![("to step", "n"), ("tokens", "n"), ("loss, mean", "n"), ("gradient norm", "n"), ("tokens/s", "n")];
    columns.extend(history.evaluations.iter().map(|e| (e.set.name.as_str(), "n")));
    let cells = |row: &super::Row| {
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
fn merits(summary: &Summary) -> String {
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

fn checkpoints(all: &[Kept]) -> String {
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
}

/// What happened, in the order in which it did.
fn events(history: &History) -> String {
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
    let note = format!("<p class=\"soft\"><small>{left_out} earlier ones are in metrics.h5.</small></p>\n");
    table(&[("when", "time"), ("step", "n"), ("what", "text")], &rows) + if left_out > 0 { &note } else { "" }
}

fn hosts(history: &History) -> String {
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
    if rows.is_empty() { String::new() } else { table(&columns, &rows) + &mpi }
}

fn configuration(history: &History) -> String {
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

fn footer(seen: &Seen) -> String {
    let start = seen.history.starts.last();
    let program = start.map_or(String::new(), |s| format!("llm-train {} {}", s.version, s.revision));
    format!(
        "<footer>{}. Made {} from metrics.h5 and the folder of checkpoints; every figure can be computed from them again.</footer>\n",
        escape(program.trim()),
        date(seen.now)
    )
}

/// The colours of curves and parts by night, and those of the parts by day.
fn colors(history: &History) -> String {
    let night = by_night();
    let parts = split(&history.steps);
    let (mut day, mut dark) = (String::new(), String::new());
    for (color, at_night) in &night {
        let _ = write!(dark, ".curves [fill=\"{color}\"]{{fill:{at_night}}}.curves [stroke=\"{color}\"]{{stroke:{at_night}}}");
    }
    for (i, part) in parts.iter().enumerate() {
        let _ = write!(day, ".p{i}{{background:{}}}", part.color);
        if let Some((_, at_night)) = night.iter().find(|(color, _)| *color == part.color) {
            let _ = write!(dark, ".p{i}{{background:{at_night}}}");
        }
    }
    format!("{day}\n@media screen and (prefers-color-scheme: dark){{{dark}}}\n")
}
