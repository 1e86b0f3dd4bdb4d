//! `report.html`: a run on one page that opens from a mail. No scripts, nothing from elsewhere; light and dark as the reader likes
//! it; fit for paper.
//!
//! ```text
//! metrics.h5    -> state, figures, curves, time split, starts, hosts, events, configuration
//! checkpoints/  -> what is there to go on from
//! ```
//! A figure stands whole in its `<data value>`, however it is rounded for the eye. Whatever comes from outside is escaped.
mod sections;
mod top;
mod writing;

use crate::checkpoint::Kept;
use crate::metrics::units::date;
use crate::metrics::{History, State, StepRecord, Summary, by_night, split};
use std::fmt::Write;
use std::time::Duration;
use writing::{escape, section};

const STYLE: &str = include_str!("html/style.css");

/// What the page shows.
pub struct Seen<'a> {
    /// What the run is called.
    pub name: &'a str,
    pub history: &'a History,
    pub state: State,
    pub checkpoints: &'a [Kept],
    /// How long nothing was written.
    pub silence: Duration,
    /// Seconds since 1970.
    pub now: f64,
}

pub fn page(seen: &Seen) -> String {
    let Seen { history, .. } = seen;
    let summary = Summary::of(history);
    let name = escape(seen.name);
    let body = [
        top::header(seen, &summary),
        section("Curves", &sections::curves(history)),
        section("Where the time goes", &sections::times(history, &summary)),
        section("How it went", &sections::course(history)),
        section("Figures of merit", &sections::merits(&summary)),
        section("Checkpoints", &sections::checkpoints(seen.checkpoints)),
        section("Starts and events", &sections::events(history)),
        section("Hosts", &sections::hosts(history)),
        section("Configuration", &sections::configuration(history)),
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

/// The steps that the figures of merit are taken over.
fn counted<'a>(history: &'a History, summary: &Summary) -> &'a [StepRecord] {
    let Some((first, _)) = summary.steps else { return &[] };
    &history.steps[history.steps.partition_point(|r| r.step < first)..]
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
