//! A scaling study as SVG: tokens per second over devices beside what as many times the first would be, and the efficiency. Devices and
//! tokens/s are logarithmic, so that what is in proportion is straight and each doubling as wide as the next.
use super::panel::{Canvas, FAINT, FINE, INK, Panel, Scale, text};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// In points.
const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 456.0;
/// Width of a chart's frame.
const FRAME: f64 = 478.0;
/// Between two numbers across.
const APART: f64 = 30.0;
const BLUE: RGBColor = RGBColor(46, 98, 168);
const GREEN: RGBColor = RGBColor(58, 145, 105);
const GREY: RGBColor = RGBColor(190, 195, 202);

/// `points`: devices, tokens/s, efficiency; ascending, at least one.
pub fn draw_scaling(points: &[[f64; 3]], title: &str) -> String {
    let mut svg = String::new();
    {
        let size = ((WIDTH * FINE) as u32, (HEIGHT * FINE) as u32);
        let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        page(&canvas, points, title).and_then(|()| canvas.present()).expect("drawing into a string cannot fail");
    }
    let fine = format!("width=\"{}\" height=\"{}\"", WIDTH * FINE, HEIGHT * FINE);
    svg.replacen(&fine, &format!("width=\"{WIDTH}\" height=\"{HEIGHT}\""), 1)
}

fn page(canvas: &Canvas, points: &[[f64; 3]], title: &str) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    canvas.fill(&WHITE)?;
    text(canvas, 64.0, 36.0, 19.0, &INK, HPos::Left, title)?;
    let x = Scale::around(points.iter().map(|p| p[0]), 1.0);
    let across = apart(points.iter().map(|p| p[0]), |devices| FRAME * x.place(devices));
    let place = |left: f64, y: Scale| Panel { canvas, left, top: 98.0, width: FRAME, height: 300.0, x, y };
    let below = |left: f64| text(canvas, left + FRAME, 436.0, 11.0, &FAINT, HPos::Right, &x.words("devices"));
    let first = points[0];
    let ideal: Vec<(f64, f64)> = points.iter().map(|p| (p[0], first[1] * p[0] / first[0])).collect();

    let measured = || points.iter().map(|p| (p[0], p[1]));
    let panel = place(64.0, Scale::around(measured().map(|p| p.1).chain(ideal.iter().map(|p| p.1)), 1.0));
    panel.frame_at(
        "Throughput",
        &panel.y.words("tokens/s"),
        &[("measured".into(), BLUE), ("in proportion".into(), GREY)],
        &across,
    )?;
    below(64.0)?;
    panel.line(ideal.iter().copied(), GREY.mix(1.0), 1.5)?;
    panel.line(measured(), BLUE.mix(1.0), 1.75)?;
    panel.dots(measured(), BLUE, 3.0)?;

    let efficiency = || points.iter().map(|p| (p[0], 100.0 * p[2]));
    let panel = place(612.0, Scale::linear(0.0, efficiency().fold(105.0, |most, p| most.max(1.05 * p.1))));
    panel.frame_at("Efficiency", "%, of the tokens/s of a device in the smallest run", &[], &across)?;
    below(612.0)?;
    panel.line(efficiency(), GREEN.mix(1.0), 1.75)?;
    panel.dots(efficiency(), GREEN, 3.0)
}

/// Those of the values, ascending, that can be written side by side.
fn apart(values: impl Iterator<Item = f64>, place: impl Fn(f64) -> f64) -> Vec<f64> {
    let mut kept: Vec<f64> = vec![];
    for value in values {
        if kept.last().is_none_or(|last| place(value) - place(*last) >= APART) {
            kept.push(value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_across_are_those_that_were_measured() {
        let svg = draw_scaling(&[[1.0, 90.0, 1.0], [2.0, 170.0, 0.94], [4.0, 300.0, 0.83]], "a study");
        let count = |number: &str| svg.lines().filter(|line| line.trim() == number).count();
        assert_eq!([count("1"), count("2"), count("4")], [2, 2, 2], "{svg}");
        assert_eq!(count("3"), 0, "{svg}");
        assert_eq!((count("tokens/s, logarithmic"), count("devices, logarithmic")), (1, 2), "{svg}");
        assert!(!draw_scaling(&[[1.0, 90.0, 1.0]], "one run").contains("logarithmic"));
        let x = Scale::around([1.0, 32.0].into_iter(), 1.0);
        let place = |devices: f64| x.place(devices);
        assert!((place(2.0) - place(1.0) - (place(32.0) - place(16.0))).abs() < 1e-12, "each doubling is as wide");
    }

    #[test]
    fn numbers_too_near_each_other_are_left_out() {
        assert_eq!(apart([1.0, 2.0, 3.0, 4.0].into_iter(), |v| 16.0 * v), [1.0, 3.0]);
    }
}
