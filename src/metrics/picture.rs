//! A run on one page, as SVG: loss above; learning rate, gradient norm, throughput and the time of a step below.
//!
//! Long runs are thinned to some hundreds of points a curve (mean, and a band from least to greatest), so that the
//! picture stays small. Dashed lines show where the run was resumed.
use super::panel::{Canvas, FAINT, FINE, GRID, INK, Panel, Scale, hex, smooth, swatch, text, text_width, thin};
use super::split::{OTHER, PARTS, Part};
use super::units::{count, date, significant, thousands};
use super::{History, StepRecord};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// In points.
const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 964.0;

const BLUE: RGBColor = RGBColor(46, 98, 168);
const GREEN: RGBColor = RGBColor(58, 145, 105);
const PURPLE: RGBColor = RGBColor(126, 87, 160);
const TEAL: RGBColor = RGBColor(36, 138, 152);
/// Of the held-out sets.
const WARM: [RGBColor; 4] = [RGBColor(215, 103, 40), RGBColor(190, 52, 85), RGBColor(170, 130, 30), RGBColor(140, 90, 70)];

/// One of the curves, each in a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Curve {
    Loss,
    LearningRate,
    GradientNorm,
    Throughput,
    StepTime,
}

/// Where a frame stands, in points: what its curves fill; labels stand outside.
#[derive(Clone, Copy)]
struct Place {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// The picture of a run, as SVG text. `title` is what the run is called.
pub fn draw(history: &History, title: &str) -> String {
    svg(WIDTH, HEIGHT, |canvas| page(canvas, history, title))
}

/// One curve by itself, on no ground: for a page that has its own.
pub fn curve(history: &History, which: Curve) -> String {
    let (width, height) = match which {
        Curve::Loss => (1060.0, 350.0),
        Curve::StepTime => (520.0, 268.0),
        _ => (520.0, 246.0),
    };
    let below = if which == Curve::StepTime { 50.0 } else { 28.0 };
    let place = Place { left: 46.0, top: 32.0, width: width - 64.0, height: height - 32.0 - below };
    svg(width, height, |canvas| panel(canvas, history, which, place))
}

/// For CSS: each colour of [`curve`]s, and what stands for it on a dark page, whose ground is `--paper`.
pub fn by_night() -> Vec<(String, &'static str)> {
    let parts = PARTS.iter().map(|part| (part.color, part.night)).chain([OTHER]);
    let all = [
        (WHITE, "var(--paper)"),
        (INK, "#e4e7eb"),
        (FAINT, "#949ca8"),
        (GRID, "#2a2f37"),
        (BLUE, "#78aef2"),
        (GREEN, "#6cc79c"),
        (PURPLE, "#b996dc"),
        (TEAL, "#5cc4d4"),
        (WARM[0], "#f2935a"),
        (WARM[1], "#ee7d98"),
        (WARM[2], "#d9bb5c"),
        (WARM[3], "#c99c84"),
    ];
    all.into_iter().chain(parts).map(|(color, night)| (hex(color), night)).collect()
}

fn svg(width: f64, height: f64, paint: impl FnOnce(&Canvas) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, ((width * FINE) as u32, (height * FINE) as u32)).into_drawing_area();
        paint(&canvas).and_then(|()| canvas.present()).expect("drawing into a string cannot fail");
    }
    // Shown at its size in points; the finer canvas stays in the view box.
    let fine = format!("width=\"{}\" height=\"{}\"", width * FINE, height * FINE);
    svg.replacen(&fine, &format!("width=\"{width}\" height=\"{height}\""), 1)
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn page(canvas: &Canvas, history: &History, title: &str) -> Drawn {
    canvas.fill(&WHITE)?;
    text(canvas, 64.0, 36.0, 19.0, &INK, HPos::Left, title)?;
    text(canvas, 64.0, 57.0, 12.0, &FAINT, HPos::Left, &facts(history))?;
    let resumed = history.starts.iter().any(|s| s.resumed_step > 0);
    let across = if resumed { "across: optimizer steps; dashed: a resume" } else { "across: optimizer steps" };
    text(canvas, WIDTH - 30.0, 57.0, 12.0, &FAINT, HPos::Right, across)?;
    let (left, right, width, height) = (64.0, 612.0, 478.0, 180.0);
    let (upper, lower) = (478.0, 722.0);
    panel(canvas, history, Curve::Loss, Place { left, top: 108.0, width: 1026.0, height: 312.0 })?;
    panel(canvas, history, Curve::LearningRate, Place { left, top: upper, width, height })?;
    panel(canvas, history, Curve::GradientNorm, Place { left: right, top: upper, width, height })?;
    panel(canvas, history, Curve::Throughput, Place { left, top: lower, width, height })?;
    panel(canvas, history, Curve::StepTime, Place { left: right, top: lower, width, height })
}

fn panel(canvas: &Canvas, history: &History, which: Curve, place: Place) -> Drawn {
    let first = history.steps.first().map_or(0, |r| r.step.saturating_sub(1));
    let x = Scale::linear(first as f64, history.steps.last().map_or(1, |r| r.step) as f64);
    let Place { left, top, width, height } = place;
    let panel = |y: Scale| Panel { canvas, left, top, width, height, x, y };
    let curve = |get: fn(&StepRecord) -> f64| {
        let points = history.steps.iter().map(|r| (r.step as f64, get(r)));
        points.filter(|p| p.1.is_finite()).collect::<Vec<_>>()
    };
    let from_zero = |points: &[(f64, f64)]| Scale::linear(0.0, 1.06 * points.iter().fold(0.0f64, |a, p| a.max(p.1)));
    match which {
        Curve::Loss => {
            let loss = curve(|r| r.loss);
            let evals = history.evaluations.iter().flat_map(|e| e.points.iter().map(|p| p.loss));
            draw_loss(&panel(Scale::around(loss.iter().map(|p| p.1).chain(evals), 6.0)), history, &loss)
        }
        Curve::LearningRate => {
            let lr = curve(|r| r.lr);
            let panel = panel(from_zero(&lr));
            panel.frame("Learning rate", "", &[])?;
            simple(&panel, history, &lr, PURPLE)
        }
        Curve::GradientNorm => {
            let norm = curve(|r| r.grad_norm);
            let panel = panel(Scale::around(norm.iter().map(|p| p.1), 8.0));
            panel.frame("Gradient norm", &panel.y.words("before clipping"), &[])?;
            simple(&panel, history, &norm, GREEN)
        }
        Curve::Throughput => {
            let rate = curve(|r| r.tokens_per_second);
            let panel = panel(from_zero(&rate));
            panel.frame("Throughput", "tokens/s, all ranks", &[])?;
            simple(&panel, history, &rate, TEAL)
        }
        Curve::StepTime => draw_times(&panel(step_time_scale(history)), history),
    }
}

/// The line under the title: what ran, on what, when.
fn facts(history: &History) -> String {
    let mut facts = vec![];
    if let Some(start) = history.starts.last() {
        facts.push(format!("{} parameters", thousands(start.parameters)));
        facts.push(count(start.ranks, "rank"));
    }
    if let Some(last) = history.steps.last() {
        facts.push(count(last.step, "step"));
        facts.push(format!("{} tokens", thousands(last.tokens)));
    }
    if let Some(start) = history.starts.first() {
        facts.push(format!("begun {}", date(start.time)));
        facts.push(format!("llm-train {}", start.version));
    }
    facts.join("  ·  ")
}

fn draw_loss(panel: &Panel, history: &History, loss: &[(f64, f64)]) -> Drawn {
    let span = (loss.len() / 40).max(1);
    let smoothed = smooth(loss, span);
    let mut legend = vec![];
    if !loss.is_empty() {
        let mean = loss[loss.len() - span..].iter().map(|p| p.1).sum::<f64>() / span as f64;
        let name = if span > 1 { format!("training, last {span} steps") } else { "training".into() };
        legend.push((format!("{name}: {mean:.3}"), BLUE));
    }
    for (e, color) in history.evaluations.iter().zip(WARM.iter().cycle()) {
        if let Some(last) = e.points.last() {
            legend.push((format!("{}: {:.3}", e.set.name, last.loss), *color));
        }
    }
    panel.frame("Loss", &panel.y.words("nats per token"), &legend)?;
    marks(panel, history)?;
    let thinned = thin(loss, 500);
    if loss.len() > 500 {
        panel.area(&thinned.iter().map(|b| (b.x, b.min, b.max)).collect::<Vec<_>>(), BLUE.mix(0.22))?;
    } else if span > 1 {
        panel.line(loss.iter().copied(), BLUE.mix(0.3), 1.0)?;
    }
    panel.line(thin(&smoothed, 500).iter().map(|b| (b.x, b.mean)), BLUE.mix(1.0), 1.75)?;
    for (e, color) in history.evaluations.iter().zip(WARM.iter().cycle()) {
        let points: Vec<_> = e.points.iter().map(|p| (p.step as f64, p.loss)).filter(|p| p.1.is_finite()).collect();
        panel.line(points.iter().copied(), color.mix(1.0), 1.5)?;
        if points.len() <= 60 {
            panel.dots(points.into_iter(), *color, 2.75)?;
        }
    }
    Ok(())
}

/// One curve; of a long run its band and its mean.
fn simple(panel: &Panel, history: &History, points: &[(f64, f64)], color: RGBColor) -> Drawn {
    marks(panel, history)?;
    let thinned = thin(points, 300);
    if points.len() > 300 {
        panel.area(&thinned.iter().map(|b| (b.x, b.min, b.max)).collect::<Vec<_>>(), color.mix(0.22))?;
    }
    panel.line(thinned.iter().map(|b| (b.x, b.mean)), color.mix(1.0), 1.5)
}

/// Without the slowest twentieth of the steps, which would press the others flat.
fn step_time_scale(history: &History) -> Scale {
    let mut times: Vec<f64> = history.steps.iter().map(|r| 1e3 * r.step_time).filter(|t| t.is_finite()).collect();
    times.sort_by(f64::total_cmp);
    let most = times.get(times.len().saturating_sub(1) * 95 / 100).copied().unwrap_or(1.0);
    Scale::linear(0.0, 1.12 * most)
}

fn draw_times(panel: &Panel, history: &History) -> Drawn {
    panel.frame("Time of a step", "ms, rank 0", &[])?;
    // The names stand under the panel: beside its title there is no room for six.
    let (mut x, y) = (panel.left - 30.0, panel.top + panel.height + 40.0);
    for (name, color) in PARTS.iter().map(|part| (part.name, part.color)).chain([("other", OTHER.0)]) {
        swatch(panel.canvas, x, y, color)?;
        text(panel.canvas, x + 14.0, y, 11.0, &INK, HPos::Left, name)?;
        x += 14.0 + text_width(name, 11.0) + 12.0;
    }
    // Means over buckets, so that the parts of a bucket still add up.
    let steps = &history.steps;
    let buckets: Vec<&[StepRecord]> = steps.chunks(steps.len().div_ceil(240).max(1)).collect();
    let mean =
        |rows: &[StepRecord], get: &dyn Fn(&StepRecord) -> f64| 1e3 * rows.iter().map(get).sum::<f64>() / rows.len() as f64;
    let middle = |rows: &[StepRecord]| rows.iter().map(|r| r.step as f64).sum::<f64>() / rows.len() as f64;
    let mut band: Vec<(f64, f64, f64)> = buckets.iter().map(|rows| (middle(rows), 0.0, 0.0)).collect();
    let mut stack = |tops: Vec<f64>, color: RGBColor| {
        band.iter_mut().zip(tops).for_each(|(b, top)| *b = (b.0, b.2, top.max(b.2)));
        panel.area(&band, color.mix(0.92))
    };
    let mut sums = vec![0.0; buckets.len()];
    for Part { color, get, .. } in PARTS {
        sums.iter_mut().zip(&buckets).for_each(|(sum, rows)| *sum += mean(rows, get));
        stack(sums.clone(), *color)?;
    }
    stack(buckets.iter().map(|rows| mean(rows, &|r| r.step_time)).collect(), OTHER.0)?;
    marks(panel, history)?;
    let slowest = steps.iter().map(|r| 1e3 * r.step_time).fold(0.0f64, f64::max);
    if slowest > panel.y.to {
        let note = format!("slowest, beyond the frame: {} ms", significant(slowest, 3));
        text(panel.canvas, panel.left + panel.width, panel.top - 12.0, 11.0, &FAINT, HPos::Right, &note)?;
    }
    Ok(())
}

/// Where the run was resumed.
fn marks(panel: &Panel, history: &History) -> Drawn {
    history.starts.iter().map(|s| s.resumed_step as f64).filter(|&step| step > panel.x.from).try_for_each(|step| panel.mark(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_says_that_it_is_one() {
        let step = |step: u64| StepRecord { step, loss: 2.0, grad_norm: step as f64, ..Default::default() };
        let drawn = |steps: u64| draw(&History { steps: (1..=steps).map(step).collect(), ..Default::default() }, "run");
        assert!(drawn(100).contains("before clipping, logarithmic"));
        assert!(!drawn(5).contains("logarithmic"));
    }
}
