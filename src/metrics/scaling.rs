//! A scaling study as SVG: tokens per second over devices beside what as many times the first would be, and the efficiency.
use super::panel::{Canvas, FAINT, FINE, INK, Panel, Scale, text};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

/// In points.
const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 470.0;
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
    text(canvas, WIDTH - 30.0, 57.0, 12.0, &FAINT, HPos::Right, "across: devices")?;
    let x = Scale::around(points.iter().map(|p| p[0]), 4.0);
    let place = |left: f64, y: Scale| Panel { canvas, left, top: 108.0, width: 478.0, height: 300.0, x, y };
    let first = points[0];
    let ideal: Vec<(f64, f64)> = points.iter().map(|p| (p[0], first[1] * p[0] / first[0])).collect();

    let measured = || points.iter().map(|p| (p[0], p[1]));
    let panel = place(64.0, Scale::around(measured().map(|p| p.1).chain(ideal.iter().map(|p| p.1)), 4.0));
    panel.frame("Throughput", "tokens/s", &[("measured".into(), BLUE), ("in proportion".into(), GREY)])?;
    panel.line(ideal.iter().copied(), GREY.mix(1.0), 1.5)?;
    panel.line(measured(), BLUE.mix(1.0), 1.75)?;
    panel.dots(measured(), BLUE, 3.0)?;

    let efficiency = || points.iter().map(|p| (p[0], 100.0 * p[2]));
    let panel = place(612.0, Scale::linear(0.0, efficiency().fold(105.0, |most, p| most.max(1.05 * p.1))));
    panel.frame("Efficiency", "%, of the tokens/s of a device in the smallest run", &[])?;
    panel.line(efficiency(), GREEN.mix(1.0), 1.75)?;
    panel.dots(efficiency(), GREEN, 3.0)
}
