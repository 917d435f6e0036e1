//! Times and sizes as people read them.

use std::time::{Duration, SystemTime};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How long ago a time was: `3 weeks ago`. Empty for what is no time (RFC 3339).
pub fn ago(time: &str, now: SystemTime) -> String {
    let Some(seconds) = seconds_since_1970(time) else { return String::new() };
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let age = now.duration_since(then).unwrap_or_default().as_secs();
    let (count, unit) = match age {
        0..MINUTE => (age, "second"),
        MINUTE..HOUR => (age / MINUTE, "minute"),
        HOUR..DAY => (age / HOUR, "hour"),
        DAY.. if age < 14 * DAY => (age / DAY, "day"),
        _ if age < 60 * DAY => (age / (7 * DAY), "week"),
        _ if age < 730 * DAY => (age / (30 * DAY), "month"),
        _ => (age / (365 * DAY), "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// `12.3MB`, in powers of 1000 as Docker has them.
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "B";
    for larger in units {
        if tenths < 10_000 {
            break;
        }
        tenths /= 1000;
        unit = larger;
    }
    match (unit, tenths) {
        ("B", _) | (_, 1000..) => format!("{}{unit}", tenths / 10),
        _ => format!("{}.{}{unit}", tenths / 10, tenths % 10),
    }
}

/// `2026-11-24T12:00:00[.9](Z|+01:00)`, as seconds; none before 1970.
fn seconds_since_1970(time: &str) -> Option<u64> {
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin with March have the leap day at their end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days - 719_468;
    let zone = time.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.split_at_checked(1)? {
        ("Z", "") => 0,
        (sign @ ("+" | "-"), zone) => {
            let (hours, minutes) = zone.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()?.checked_mul(60)?.checked_add(minutes.parse().ok()?)?;
            if sign == "+" { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from(seconds.checked_add(offset.checked_mul(60)?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_zones() {
        for (time, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00.123456789Z", Some(951_825_600)),
            ("2026-11-24T13:30:00+01:00", Some(1_795_523_400)),
            ("2026-11-24T10:00:00-02:30", Some(1_795_523_400)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-24", None),
            ("0001-01-01T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(seconds_since_1970(time), seconds, "{time}");
        }
    }

    #[test]
    fn ages_are_in_the_largest_unit_that_fits() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_523_400);
        for (time, age) in [
            ("2026-11-24T12:29:59Z", "1 second ago"),
            ("2026-11-24T11:00:00Z", "1 hour ago"),
            ("2026-11-14T12:30:00Z", "10 days ago"),
            ("2026-10-24T12:30:00Z", "4 weeks ago"),
            ("2016-11-24T12:30:00Z", "10 years ago"),
            ("2030-01-01T00:00:00Z", "0 seconds ago"),
            ("never", ""),
        ] {
            assert_eq!(ago(time, now), age, "{time}");
        }
    }

    #[test]
    fn sizes_have_three_digits_or_so() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0kB"),
            (12_345_678, "12.3MB"),
            (123_456_789, "123MB"),
            (9_999_999_999, "9.9GB"),
            (u64::MAX, "18446744TB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }
}
