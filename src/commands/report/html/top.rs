//! The head of the page: what ran, how far it has come, and the figures that one looks for first.
use super::writing::{escape, figure};
use super::{Seen, counted};
use crate::metrics::units::{count, date, duration, significant, thousands};
use crate::metrics::{History, State, Summary, silent, split};
use std::fmt::Write;

pub fn header(seen: &Seen, summary: &Summary) -> String {
    let (history, start) = (seen.history, &summary.start);
    let class = match seen.state {
        State::Done => "good",
        State::Going | State::Stopped => "wait",
        State::Failed | State::Killed => "bad",
    };
    let words = match seen.state {
        State::Going if silent(history, seen.silence) => format!("no new step for {}", duration(seen.silence.as_secs_f64())),
        state => state.words().to_string(),
    };
    let chip = format!("<span class=\"state {class}\">{words}</span>");
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
    let bar = match start.steps {
        0 => String::new(),
        steps => {
            let part = 100.0 * done as f64 / steps as f64;
            format!("<div class=\"progress\"><span style=\"width:{:.2}%\"></span></div>\n", part.min(100.0))
        }
    };
    format!(
        "<header>\n<h1>{}{chip}</h1>\n<p class=\"facts\">{}</p>\n<p class=\"facts\">{progress}</p>\n\
         {bar}<div class=\"tiles\">\n{}</div>\n</header>\n",
        escape(seen.name),
        facts.join(" · "),
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
        let steps = count(rate.n as u64, "step");
        let spread = if rate.n > 1 { format!("± {} ({steps})", significant(rate.stddev, 3)) } else { steps };
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
