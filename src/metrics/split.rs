//! Where the time of a step goes.
//!
//! ```text
//! step_time = data + forward + backward + exposed communication + optimizer + other        other ≥ 0: the rest
//! ```
use super::StepRecord;
use super::panel::hex;
use plotters::style::RGBColor;

/// One part of a step's time.
pub struct Part {
    pub name: &'static str,
    pub color: RGBColor,
    /// On a dark page.
    pub night: &'static str,
    /// Seconds.
    pub get: fn(&StepRecord) -> f64,
}

/// From the bottom up; what is left of a step's time stands on top of them.
pub const PARTS: &[Part] = &[
    Part { name: "data", color: RGBColor(200, 170, 60), night: "#d6bb5a", get: |r| r.data_time },
    Part { name: "forward", color: RGBColor(122, 170, 215), night: "#8fbfe9", get: |r| r.forward_time },
    Part { name: "backward", color: RGBColor(56, 106, 168), night: "#4f86c6", get: |r| r.backward_time },
    Part { name: "exposed communication", color: RGBColor(205, 92, 70), night: "#e8775e", get: |r| r.comm_exposed_time },
    Part { name: "optimizer", color: RGBColor(110, 165, 120), night: "#7fbd8b", get: |r| r.optimizer_time },
];
pub const OTHER: (RGBColor, &str) = (RGBColor(190, 195, 202), "#5a626e");

/// A part over several steps.
pub struct Share {
    pub name: &'static str,
    /// As CSS writes it.
    pub color: String,
    /// Mean over the steps.
    pub seconds: f64,
    /// Of the time of these steps, 0 … 1.
    pub share: f64,
}

/// All parts of some steps; none of no steps.
pub fn split(steps: &[StepRecord]) -> Vec<Share> {
    if steps.is_empty() {
        return vec![];
    }
    let mean = |get: &dyn Fn(&StepRecord) -> f64| steps.iter().map(get).sum::<f64>() / steps.len() as f64;
    let whole = mean(&|r| r.step_time);
    let share = |name, color, seconds: f64| Share { name, color: hex(color), seconds, share: seconds / whole };
    let parts: Vec<Share> = PARTS.iter().map(|part| share(part.name, part.color, mean(&part.get))).collect();
    let rest = (whole - parts.iter().map(|part| part.seconds).sum::<f64>()).max(0.0);
    parts.into_iter().chain([share("other", OTHER.0, rest)]).collect()
}
