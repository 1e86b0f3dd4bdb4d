//! One small chart: scales, ticks, thinning, and lines and areas drawn through them.
//!
//! All lengths are in points of the finished picture; the canvas is [`FINE`] times finer, since plotters places things
//! on whole pixels and curves would look ragged.
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Canvas pixels per point.
pub const FINE: f64 = 4.0;

pub type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

pub const INK: RGBColor = RGBColor(38, 43, 51);
pub const FAINT: RGBColor = RGBColor(120, 128, 138);
pub const GRID: RGBColor = RGBColor(228, 231, 235);

/// As the SVG back end writes it.
pub fn hex(color: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

/// Maps values to 0 … 1, linearly or by their logarithm. Values outside are held at the border.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub from: f64,
    pub to: f64,
    pub log: bool,
}

impl Scale {
    /// From `from` to `to`; widened where the two are one.
    pub fn linear(from: f64, to: f64) -> Scale {
        let to = if to > from { to } else { from + from.abs().max(1e-9) };
        Scale { from, to, log: false }
    }
    /// Room for all values and a little more; by logarithm where the greatest is more than `log_above` times the least.
    pub fn around(values: impl Iterator<Item = f64> + Clone, log_above: f64) -> Scale {
        let finite = values.filter(|v| v.is_finite());
        let (min, max) = finite.clone().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        if min > max {
            return Scale::linear(0.0, 1.0);
        }
        if min > 0.0 && max > log_above * min {
            let room = (max / min).powf(0.05);
            return Scale { from: min / room, to: max * room, log: true };
        }
        let room = 0.06 * (max - min).max(1e-3 * max.abs());
        Scale::linear(min - room, max + room)
    }
    /// What the numbers are in, and how they lie where that is not even.
    pub fn words(&self, unit: &str) -> String {
        format!("{unit}{}", if self.log { ", logarithmic" } else { "" })
    }
    pub fn place(&self, value: f64) -> f64 {
        let part = if self.log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        part.clamp(0.0, 1.0)
    }
    /// Round numbers, some `wanted` of them: 1, 2 or 5 times a power of ten apart; on a logarithmic scale such numbers
    /// themselves.
    pub fn ticks(&self, wanted: usize) -> Vec<f64> {
        if self.log {
            let decades = (self.to / self.from).log10();
            let digits: &[f64] = if decades > wanted as f64 {
                &[1.0]
            } else if 2.0 * decades > wanted as f64 {
                &[1.0, 3.0]
            } else {
                &[1.0, 2.0, 5.0]
            };
            let powers = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
            let all = powers.flat_map(|p| digits.iter().map(move |d| d * 10f64.powi(p)));
            let ticks: Vec<f64> = all.filter(|t| (self.from..=self.to).contains(t)).collect();
            if ticks.len() >= 2 {
                return ticks;
            }
        }
        let rough = (self.to - self.from) / wanted as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|d| d * power).into_iter().find(|s| *s >= rough * 0.999).unwrap_or(10.0 * power);
        let (first, last) = ((self.from / step).ceil() as i64, (self.to / step).floor() as i64);
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// What of a bucket of neighbouring points is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub x: f64,
    pub mean: f64,
    pub min: f64,
    pub max: f64,
}

/// At most `wanted` buckets of equally many points each, so that a million steps make a small picture.
pub fn thin(points: &[(f64, f64)], wanted: usize) -> Vec<Bucket> {
    let bucket = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        let min = part.iter().fold(f64::MAX, |a, p| a.min(p.1));
        let max = part.iter().fold(f64::MIN, |a, p| a.max(p.1));
        Bucket { x: part.iter().map(|p| p.0).sum::<f64>() / n, mean: part.iter().map(|p| p.1).sum::<f64>() / n, min, max }
    };
    points.chunks(points.len().div_ceil(wanted).max(1)).map(bucket).collect()
}

/// Running mean over `span` points, half of them on each side. Near the start the window shrinks on both sides, so that
/// a steep fall is followed and not lagged behind; near the end only its right half does, so that the end stays calm.
pub fn smooth(points: &[(f64, f64)], span: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![0.0];
    points.iter().for_each(|p| sums.push(sums[sums.len() - 1] + p.1));
    let mean = |i: usize| {
        let half = (span / 2).min(i);
        let (from, to) = (i - half, (i + half + 1).min(points.len()));
        (points[i].0, (sums[to] - sums[from]) / (to - from) as f64)
    };
    (0..points.len()).map(mean).collect()
}

/// A tick's number, short: `0`, `250`, `1.5k`, `20M`, `3e-4`.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let (value, unit) = match size {
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        1e4.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    if size != 0.0 && size < 1e-3 {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let text = format!("{value:.4}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A place on the canvas with its scales. `left`, `top`, `width`, `height` are those of the frame that curves fill; its
/// labels stand outside.
pub struct Panel<'a, 'c> {
    pub canvas: &'a Canvas<'c>,
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    pub x: Scale,
    pub y: Scale,
}

impl Panel<'_, '_> {
    fn at(&self, x: f64, y: f64) -> (i32, i32) {
        point(self.left + self.width * self.x.place(x), self.top + self.height * (1.0 - self.y.place(y)))
    }

    /// Title and legend above, grid and numbers around.
    pub fn frame(&self, title: &str, unit: &str, legend: &[(String, RGBColor)]) -> Drawn {
        self.frame_at(title, unit, legend, &self.x.ticks((self.width / 75.0) as usize))
    }

    /// The same with numbers at these places across.
    pub fn frame_at(&self, title: &str, unit: &str, legend: &[(String, RGBColor)], across: &[f64]) -> Drawn {
        let y = self.top - 12.0;
        text(self.canvas, self.left, y, 13.0, &INK, HPos::Left, title)?;
        let after = self.left + text_width(title, 13.0) + 8.0;
        text(self.canvas, after, y, 11.0, &FAINT, HPos::Left, unit)?;
        let mut right = self.left + self.width;
        for (label, color) in legend.iter().rev() {
            text(self.canvas, right, y, 11.0, &INK, HPos::Right, label)?;
            right -= text_width(label, 11.0) + 14.0;
            swatch(self.canvas, right, y, *color)?;
            right -= 18.0;
        }
        for tick in self.y.ticks((self.height / 30.0) as usize) {
            let height = self.at(self.x.from, tick).1 as f64 / FINE;
            self.line_of(&[(self.left, height), (self.left + self.width, height)], GRID.stroke_width(FINE as u32))?;
            text(self.canvas, self.left - 7.0, height + 4.0, 11.0, &FAINT, HPos::Right, &short(tick))?;
        }
        let bottom = self.top + self.height;
        self.line_of(&[(self.left, bottom), (self.left + self.width, bottom)], FAINT.stroke_width(FINE as u32))?;
        for &tick in across {
            let place = self.at(tick, self.y.from).0 as f64 / FINE;
            self.line_of(&[(place, bottom), (place, bottom + 4.0)], FAINT.stroke_width(FINE as u32))?;
            text(self.canvas, place, bottom + 17.0, 11.0, &FAINT, HPos::Center, &short(tick))?;
        }
        Ok(())
    }

    /// A curve through the points, `width` points thick.
    pub fn line(&self, points: impl Iterator<Item = (f64, f64)>, color: RGBAColor, width: f64) -> Drawn {
        let path: Vec<(i32, i32)> = points.map(|(x, y)| self.at(x, y)).collect();
        match path[..] {
            [] => Ok(()),
            [only] => self.canvas.draw(&Circle::new(only, (1.5 * width * FINE) as i32, color.filled())),
            _ => self.canvas.draw(&PathElement::new(path, color.stroke_width((width * FINE) as u32))),
        }
    }

    pub fn dots(&self, points: impl Iterator<Item = (f64, f64)>, color: RGBColor, radius: f64) -> Drawn {
        points.map(|(x, y)| self.at(x, y)).try_for_each(|p| {
            self.canvas.draw(&Circle::new(p, ((radius + 1.0) * FINE) as i32, WHITE.filled()))?;
            self.canvas.draw(&Circle::new(p, (radius * FINE) as i32, color.filled()))
        })
    }

    /// The area between two curves: (x, lower, upper).
    pub fn area(&self, band: &[(f64, f64, f64)], color: RGBAColor) -> Drawn {
        if band.len() < 2 {
            return Ok(());
        }
        let there = band.iter().map(|b| self.at(b.0, b.2));
        let back = band.iter().rev().map(|b| self.at(b.0, b.1));
        self.canvas.draw(&Polygon::new(there.chain(back).collect::<Vec<_>>(), color.filled()))
    }

    /// A dashed line from bottom to top at `x`.
    pub fn mark(&self, x: f64) -> Drawn {
        let place = self.at(x, self.y.from).0 as f64 / FINE;
        let dashes = (self.height / 7.0) as usize;
        (0..dashes)
            .map(|i| self.top + 7.0 * i as f64)
            .try_for_each(|y| self.line_of(&[(place, y), (place, y + 3.5)], FAINT.stroke_width(FINE as u32)))
    }

    fn line_of(&self, points: &[(f64, f64)], style: ShapeStyle) -> Drawn {
        self.canvas.draw(&PathElement::new(points.iter().map(|&(x, y)| point(x, y)).collect::<Vec<_>>(), style))
    }
}

fn point(x: f64, y: f64) -> (i32, i32) {
    ((FINE * x).round() as i32, (FINE * y).round() as i32)
}

/// A little square of a legend, standing on the baseline `y`.
pub fn swatch(canvas: &Canvas, x: f64, y: f64, color: RGBColor) -> Drawn {
    canvas.draw(&Rectangle::new([point(x, y - 8.0), point(x + 9.0, y + 1.0)], color.filled()))
}

/// About how wide the words will be. The viewer chooses the font, so this is a guess, on the wide side: letters of
/// DejaVu Sans in a few classes.
pub fn text_width(words: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | '\'' | ' ' => 0.31,
        'f' | 'r' | 't' | '(' | ')' | '-' => 0.40,
        'm' | 'w' | 'M' | 'W' => 0.95,
        'A'..='Z' => 0.68,
        _ => 0.61,
    };
    size * words.chars().map(em).sum::<f64>()
}

/// A line of text whose baseline is at `y`.
pub fn text(canvas: &Canvas, x: f64, y: f64, size: f64, color: &RGBColor, side: HPos, words: &str) -> Drawn {
    // Measured: the SVG back end divides font sizes by 1.24, and puts a text anchored at its bottom half an ex higher.
    let font = ("sans-serif", 1.24 * FINE * size).into_font().color(color).pos(Pos::new(side, VPos::Bottom));
    canvas.draw(&Text::new(words.to_string(), point(x, y + 0.25 * size), font))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Scale::linear(0.0, 100.0).ticks(5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(Scale { from: 0.9, to: 110.0, log: true }.ticks(6), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(Scale { from: 1e-6, to: 1.0, log: true }.ticks(5).len(), 7);
        assert!(Scale::around([3.0, 3.0].into_iter(), 10.0).ticks(4).contains(&3.0), "a constant is a range too");
    }

    #[test]
    fn scales_hold_what_is_outside_at_the_border() {
        let s = Scale::around([1.0, 1000.0, f64::NAN, f64::INFINITY].into_iter(), 10.0);
        assert!(s.log && s.place(1e9) == 1.0 && s.place(1e-9) == 0.0);
        assert!((s.place(1000f64.sqrt()) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn thinning_keeps_extremes() {
        let points: Vec<(f64, f64)> = (0..10_000).map(|i| (i as f64, if i == 777 { 50.0 } else { 1.0 })).collect();
        let thinned = thin(&points, 300);
        assert!(thinned.len() <= 300 && thinned.iter().any(|b| b.max == 50.0 && b.mean < 3.0));
        assert_eq!(thin(&points[..5], 300).len(), 5);
        assert!(thin(&[], 300).is_empty());
    }

    #[test]
    fn smoothing_follows_a_slope_without_lag() {
        let slope: Vec<(f64, f64)> = (0..100).map(|i| (i as f64, 500.0 - 3.0 * i as f64)).collect();
        let smoothed = smooth(&slope, 20);
        assert!(smoothed.iter().zip(&slope).take(89).all(|(s, p)| (s.1 - p.1).abs() < 1e-9));
        assert!(smooth(&[(0.0, 4.0), (1.0, 6.0)], 1) == [(0.0, 4.0), (1.0, 6.0)]);
    }

    #[test]
    fn short_numbers() {
        let cases = [(0.0, "0"), (250.0, "250"), (12_500.0, "12.5k"), (2e7, "20M"), (3e-4, "3e-4"), (0.0015, "0.0015")];
        for (value, expected) in cases {
            assert_eq!(short(value), expected);
        }
    }
}
