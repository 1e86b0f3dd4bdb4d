//! Numbers as people read them.

/// `1.50 GiB`; whole bytes below 1 KiB.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < 5 {
        value /= 1024.0;
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit];
    if unit == 0 { format!("{n} B") } else { format!("{} {name}", significant(value, 3)) }
}

/// `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `0:00:42`, `2:13:05`, `3d 01:00:00`. Days, hours, minutes, seconds.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".into();
    }
    let s = seconds.round() as u64;
    let (days, hours, minutes, s) = (s / 86400, s / 3600 % 24, s / 60 % 60, s % 60);
    if days > 0 { format!("{days}d {hours:02}:{minutes:02}:{s:02}") } else { format!("{hours}:{minutes:02}:{s:02}") }
}

/// `1 rank`, `4 ranks`.
pub fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// With `digits` significant digits, never in powers of ten: `0.00123`, `12.3`, `1234`.
pub fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    // Rounding first: 9.996 at three digits is 10.0 and not 10.00.
    let rounded: f64 = format!("{value:.*e}", digits.saturating_sub(1)).parse().unwrap_or(value);
    let before = rounded.abs().log10().floor() as i64 + 1;
    format!("{rounded:.*}", (digits as i64 - before).max(0) as usize)
}

/// `2026-03-01 14:05 UTC` of seconds since 1970. Days to civil date as in Howard Hinnant's "chrono-compatible low-level
/// date algorithms".
pub fn date(seconds: f64) -> String {
    let s = seconds as i64;
    let days = s.div_euclid(86400) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + (month <= 2) as i64;
    let minute = s.rem_euclid(86400) / 60;
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_read_them() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(1 << 40), "1.00 TiB");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(duration(42.4), "0:00:42");
        assert_eq!(duration(3.0 * 86400.0 + 3600.0), "3d 01:00:00");
        assert_eq!(duration(f64::NAN), "-");
        assert_eq!(significant(9.996, 3), "10.0");
        assert_eq!(significant(0.0012345, 3), "0.00123");
        assert_eq!(significant(123_456.0, 3), "123000");
        assert_eq!(date(0.0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400.0 + 3660.0), "2000-02-29 01:01 UTC");
    }
}
