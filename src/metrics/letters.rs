//! Curves for a terminal: a chart of braille dots, 2 × 4 to a letter, and a spark line of one row.
//!
//! ```text
//! 7.81 ⡇
//!      ⠱⡀            each column of dots: the smoothed curve there, joined to the column before
//! 2.34  ⠈⠒⠤⣀⣀⣀
//! ```
use super::panel::{Scale, short, smooth, thin};

/// Bits of a braille letter's dots: by column, from the top down.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// A chart of `rows` lines, `width` letters wide with the numbers at its left: the greatest above, the least below. Each line in
/// two parts, numbers and curve.
pub fn chart(points: &[(f64, f64)], width: usize, rows: usize) -> Vec<(String, String)> {
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return vec![] };
    let calm = smooth(&points, (points.len() / 40).max(1));
    let y = Scale::around(calm.iter().map(|p| p.1), 6.0);
    let label = |value: f64| short((value * 1e3).round() / 1e3);
    let (top, bottom) = (label(y.to), label(y.from));
    let margin = top.chars().count().max(bottom.chars().count());
    let (columns, height) = (2 * width.saturating_sub(margin + 1).max(1), 4 * rows);
    let knots = thin(&calm, columns);
    let mut letters = vec![vec![0u32; columns / 2]; rows];
    let mut before: Option<usize> = None;
    for column in 0..columns {
        let x = first.0 + (last.0 - first.0) * column as f64 / (columns - 1).max(1) as f64;
        // The two knots around x; beyond the outer ones the curve is level.
        let after = knots.partition_point(|k| k.x < x);
        let (a, b) = (&knots[after.saturating_sub(1)], &knots[after.min(knots.len() - 1)]);
        let part = if b.x > a.x { ((x - a.x) / (b.x - a.x)).clamp(0.0, 1.0) } else { 0.0 };
        let dot = ((1.0 - y.place(a.mean + part * (b.mean - a.mean))) * (height - 1) as f64).round() as usize;
        let from = before.map_or(dot, |b| if b < dot { b + 1 } else { b.saturating_sub(1).max(dot) });
        for d in from.min(dot)..=from.max(dot) {
            letters[d / 4][column / 2] |= DOTS[column % 2][d % 4];
        }
        before = Some(dot);
    }
    let line = |(row, letters): (usize, &Vec<u32>)| {
        let number = if row == 0 {
            &top
        } else if row + 1 == rows {
            &bottom
        } else {
            ""
        };
        let curve: String = letters.iter().filter_map(|bits| char::from_u32(0x2800 + bits)).collect();
        (format!("{number:>margin$} "), curve)
    };
    letters.iter().enumerate().map(line).collect()
}

/// Bars from zero to the greatest, one letter each.
pub fn spark(values: &[f64], width: usize) -> String {
    let points: Vec<(f64, f64)> = values.iter().filter(|v| v.is_finite()).map(|v| (0.0, *v)).collect();
    let bars = thin(&points, width.max(1));
    let most = bars.iter().fold(0.0f64, |a, b| a.max(b.mean));
    let letter = |mean: f64| ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][((mean / most * 7.0).round() as usize).min(7)];
    bars.iter().map(|b| if most > 0.0 { letter(b.mean.max(0.0)) } else { '▁' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line_goes_from_the_upper_left_to_the_lower_right() {
        let points: Vec<(f64, f64)> = (0..=50).map(|i| (i as f64, 5.0 - 0.04 * i as f64)).collect();
        let lines = chart(&points, 30, 4);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|(number, curve)| number.chars().count() + curve.chars().count() == 30), "{lines:?}");
        let drawn = |line: &str| line.chars().map(|c| c != '\u{2800}').collect::<Vec<_>>();
        let (top, bottom) = (drawn(&lines[0].1), drawn(&lines[3].1));
        assert!(top[0] && !top[top.len() - 1] && !bottom[0] && bottom[bottom.len() - 1], "{lines:?}");
        // No column is empty: the line is joined.
        assert!((0..top.len()).all(|c| lines.iter().any(|line| drawn(&line.1)[c])), "{lines:?}");
        assert!(lines[0].0.trim().parse::<f64>().unwrap() > lines[3].0.trim().parse::<f64>().unwrap());
    }

    #[test]
    fn a_cliff_is_joined_and_odd_values_are_left_out() {
        let cliff = [(0.0, 1.0), (1.0, 1.0), (2.0, 0.0), (3.0, f64::NAN), (4.0, 0.0)];
        let lines = chart(&cliff, 20, 3);
        assert!(lines.iter().all(|(_, curve)| curve.chars().any(|c| c != '\u{2800}')), "{lines:?}");
        assert!(chart(&[], 20, 3).is_empty() && chart(&[(1.0, f64::NAN)], 20, 3).is_empty());
        assert_eq!(chart(&[(1.0, 2.0)], 20, 3).len(), 3);
    }

    #[test]
    fn sparks_rise_from_zero() {
        assert_eq!(spark(&[0.0, 50.0, 100.0], 10), "▁▅█");
        assert_eq!(spark(&[1.0; 100], 10).chars().count(), 10);
        assert_eq!(spark(&[0.0], 10), "▁");
    }
}
