//! Values: read from text (an option, `--set`) or from TOML, checked against a key's kind, and printed as TOML.
//!
//! A refusal says what was expected and what was found; the caller, who knows, puts the key in front of it.
use super::keys::{Kind, Range};

/// A value that fits its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Whole numbers, and times in seconds.
    Count(u64),
    Number(f64),
    Switch(bool),
    Text(String),
    List(Vec<String>),
}

/// Of [`Kind::CountOrMax`].
pub const MAX: &str = "max";

/// "expected …, found …"
pub type Refusal = String;

impl Value {
    /// Reads what was typed after an option or after `--set key=`.
    pub fn from_text(kind: Kind, text: &str) -> Result<Value, Refusal> {
        let found = || format!("\"{text}\"");
        let typed = text.trim();
        match kind {
            Kind::CountOrMax { .. } if typed == MAX => Some(Value::Text(MAX.into())),
            Kind::Count { .. } | Kind::CountOrMax { .. } => count(typed).and_then(|n| Value::Count(n).within(kind)),
            Kind::Number(_) => typed.parse().ok().and_then(|x| Value::Number(x).within(kind)),
            Kind::Switch(_) => typed.parse().ok().map(Value::Switch),
            Kind::Time => seconds(typed).map(Value::Count),
            Kind::Text(_) | Kind::Choice(_) => Value::Text(text.to_string()).within(kind),
            Kind::List(_) if typed.starts_with('[') => {
                let line: Result<toml::Table, _> = format!("it = {typed}").parse();
                let value = line.ok().and_then(|mut t| t.remove("it"));
                return value.map_or_else(|| Err(expected(kind, &found())), |v| Value::from_toml(kind, &v));
            }
            Kind::List(_) => Value::List(vec![text.to_string()]).within(kind),
        }
        .ok_or_else(|| expected(kind, &found()))
    }

    /// Reads a value of a TOML file. Types are strict: a number in quotes is not a number.
    pub fn from_toml(kind: Kind, value: &toml::Value) -> Result<Value, Refusal> {
        use toml::Value as T;
        match (kind, value) {
            (Kind::Count { .. } | Kind::CountOrMax { .. } | Kind::Time, T::Integer(n)) => {
                u64::try_from(*n).ok().map(Value::Count)
            }
            (Kind::CountOrMax { .. }, T::String(s)) if s == MAX => Some(Value::Text(MAX.into())),
            (Kind::Count { .. } | Kind::CountOrMax { .. }, T::Float(x)) => whole(*x).map(Value::Count),
            (Kind::Number(_), T::Integer(n)) => Some(Value::Number(*n as f64)),
            (Kind::Number(_), T::Float(x)) => Some(Value::Number(*x)),
            (Kind::Switch(_), T::Boolean(b)) => Some(Value::Switch(*b)),
            (Kind::Time, T::String(s)) => seconds(s).map(Value::Count),
            (Kind::Text(_) | Kind::Choice(_), T::String(s)) => Some(Value::Text(s.clone())),
            (Kind::List(_), T::String(s)) => Some(Value::List(vec![s.clone()])),
            (Kind::List(_), T::Array(items)) => {
                items.iter().map(|i| i.as_str().map(str::to_string)).collect::<Option<_>>().map(Value::List)
            }
            _ => None,
        }
        .and_then(|v| v.within(kind))
        .ok_or_else(|| expected(kind, &describe(value)))
    }

    fn within(self, kind: Kind) -> Option<Value> {
        let fits = match (&self, kind) {
            (Value::Count(n), Kind::Count { least, most } | Kind::CountOrMax { least, most }) => (least..=most).contains(n),
            (Value::Number(x), Kind::Number(range)) => range.holds(*x),
            (Value::Text(s), Kind::Choice(choices)) => choices.split('|').any(|c| c == s),
            (Value::Text(s), _) => !s.trim().is_empty() && !s.contains('\0'),
            (Value::List(items), _) => items.iter().all(|s| !s.trim().is_empty() && !s.contains('\0')),
            _ => true,
        };
        fits.then_some(self)
    }

    /// As TOML writes it; reading it back gives the same value to the last bit.
    pub fn to_toml(&self) -> String {
        match self {
            Value::Count(n) => n.to_string(),
            Value::Number(x) => format!("{x:?}"),
            Value::Switch(b) => b.to_string(),
            Value::Text(s) => toml::Value::String(s.clone()).to_string(),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|s| toml::Value::String(s.clone()).to_string()).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Count(n) => (*n).into(),
            Value::Number(x) => (*x).into(),
            Value::Switch(b) => (*b).into(),
            Value::Text(s) => s.as_str().into(),
            Value::List(items) => items.clone().into(),
        }
    }
}

impl Range {
    fn holds(self, x: f64) -> bool {
        x.is_finite()
            && match self {
                Range::Positive => x > 0.0,
                Range::NotNegative => x >= 0.0,
                Range::Fraction => (0.0..1.0).contains(&x),
                Range::Share => x > 0.0 && x <= 1.0,
            }
    }
    fn words(self) -> &'static str {
        match self {
            Range::Positive => "a number above 0",
            Range::NotNegative => "a number not below 0",
            Range::Fraction => "a number from 0 to below 1",
            Range::Share => "a number above 0, up to 1",
        }
    }
}

fn expected(kind: Kind, found: &str) -> Refusal {
    let what = match kind {
        Kind::Count { least: 0, most: 1 } => "0 or 1".to_string(),
        Kind::Count { least, most } if most == i64::MAX as u64 => format!("a whole number from {least}"),
        Kind::Count { least, most } => format!("a whole number from {least} to {most}"),
        Kind::CountOrMax { least, most } => format!("a whole number from {least} to {most}, or {MAX}"),
        Kind::Number(range) => range.words().to_string(),
        Kind::Switch(_) => "true or false".to_string(),
        Kind::Text(_) => "a text in quotes, not empty".to_string(),
        Kind::Choice(choices) => format!("one of {}", choices.replace('|', ", ")),
        Kind::Time => "a time (3600, 90m, 2h30m or HH:MM:SS)".to_string(),
        Kind::List(_) => "a text or a list of texts".to_string(),
    };
    format!("expected {what}, found {found}")
}

fn describe(value: &toml::Value) -> String {
    match value {
        toml::Value::String(s) => format!("the text {s:?}"),
        toml::Value::Integer(n) => format!("{n}"),
        toml::Value::Float(x) => format!("{x}"),
        toml::Value::Boolean(b) => format!("{b}"),
        toml::Value::Datetime(d) => format!("the date {d}"),
        toml::Value::Array(_) => "a list".to_string(),
        toml::Value::Table(_) => "a section".to_string(),
    }
}

/// `1000`, `10_000`, `1e9`, `2.5M`, `10B`: decimal multiples.
fn count(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    if let Ok(n) = text.parse() {
        return Some(n);
    }
    let (digits, factor) = match text.chars().last()? {
        'k' | 'K' => (&text[..text.len() - 1], 1e3),
        'M' => (&text[..text.len() - 1], 1e6),
        'B' | 'G' => (&text[..text.len() - 1], 1e9),
        'T' => (&text[..text.len() - 1], 1e12),
        _ => (&text[..], 1.0),
    };
    whole(digits.parse::<f64>().ok()? * factor)
}

/// A float that is a whole number, below 2^53 where every one of them is exact.
fn whole(x: f64) -> Option<u64> {
    (x.fract() == 0.0 && (0.0..9.007e15).contains(&x)).then_some(x as u64)
}

/// `3600`, `90m`, `2h30m`, `1d12h`, `HH:MM:SS`, and Slurm's `D-HH:MM:SS`; in seconds, at most some 30,000 years.
pub fn seconds(text: &str) -> Option<u64> {
    const LONGEST: u64 = 1_000_000_000_000;
    let total = if text.contains(':') {
        let (days, clock) = text.split_once('-').map_or((Some(0), text), |(d, c)| (number(d), c));
        let parts: Vec<u64> = clock.split(':').map(number).collect::<Option<_>>()?;
        let [h, m, s] = parts[..] else { return None };
        if m > 59 || s > 59 {
            return None;
        }
        [(days?, 86_400), (h, 3600), (m, 60), (s, 1)]
            .iter()
            .try_fold(0u64, |sum, (n, unit)| sum.checked_add(n.checked_mul(*unit)?))?
    } else if let Some(n) = number(text) {
        n
    } else {
        let (mut rest, mut total, mut last) = (text, 0u64, u64::MAX);
        while !rest.is_empty() {
            let at = rest.find(|c: char| !c.is_ascii_digit())?;
            let unit = match rest.as_bytes()[at] {
                b'd' => 86_400,
                b'h' => 3600,
                b'm' => 60,
                b's' => 1,
                _ => return None,
            };
            // Units fall from left to right, so that `30m2h` is a slip and not an answer.
            if unit >= last {
                return None;
            }
            last = unit;
            total = total.checked_add(number(&rest[..at])?.checked_mul(unit)?)?;
            rest = &rest[at + 1..];
        }
        total
    };
    (1..=LONGEST).contains(&total).then_some(total)
}

fn number(digits: &str) -> Option<u64> {
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_and_slurm_write_them() {
        for (text, expected) in [
            ("3600", Some(3600)),
            ("90m", Some(5400)),
            ("2h30m", Some(9000)),
            ("45s", Some(45)),
            ("1d12h", Some(129_600)),
            ("02:30:05", Some(9005)),
            ("1-00:00:01", Some(86_401)),
            ("30m2h", None),
            ("02:75:00", None),
            ("02:30", None),
            ("-5", None),
            ("0", None),
            ("2h30", None),
            ("", None),
            ("h", None),
            ("é", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn counts_with_multiples() {
        for (text, expected) in [
            ("10_000", Some(10_000)),
            ("1e9", Some(1_000_000_000)),
            ("2.5M", Some(2_500_000)),
            ("10B", Some(10_000_000_000)),
            ("1.5", None),
            ("-1", None),
            ("inf", None),
            ("M", None),
            ("", None),
        ] {
            assert_eq!(count(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        for text in ["inf", "nan", "-inf", "-1", "fast", "", "1e999"] {
            assert!(Value::from_text(Kind::Number(Range::Positive), text).is_err(), "{text}");
        }
    }

    #[test]
    fn printed_numbers_come_back_to_the_bit() {
        for x in [3e-4, 1e-8, 0.1, 1.0, 12345.678, f64::MIN_POSITIVE, 1e300, 0.1 + 0.2] {
            let text = format!("x = {}", Value::Number(x).to_toml());
            let table: toml::Table = text.parse().unwrap();
            assert_eq!(table["x"].as_float().map(f64::to_bits), Some(x.to_bits()), "{text}");
        }
    }
}
