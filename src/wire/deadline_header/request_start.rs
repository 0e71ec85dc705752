use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderName;

use super::digits::number;

/// `x-request-start`: the time at which a proxy received the request. The module describes its
/// values.
#[doc(hidden)] // for the properties and the fuzz target
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestStart {
    since_epoch: Duration,
}

/// The smallest number read as a unit, and the unit in nanoseconds. Each threshold is a thousand times
/// the one before. A unit covers numbers up to a hundred times its threshold.
const UNITS: [(u64, u64); 4] = [
    (1_000_000_000, 1_000_000_000),
    (1_000_000_000_000, 1_000_000),
    (1_000_000_000_000_000, 1_000),
    (1_000_000_000_000_000_000, 1),
];

impl RequestStart {
    /// The name of the header.
    pub const NAME: HeaderName = HeaderName::from_static("x-request-start");

    /// Parses a value of the header. The first nine digits of a fraction count.
    ///
    /// Returns `None` unless the value is an optional `t=`, digits and an optional fraction, and
    /// results in a supported year in one of the units.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = value.strip_prefix(b"t=").unwrap_or(value);
        let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
            Some(dot) => (&text[..dot], Some(&text[dot + 1..])),
            None => (text, None),
        };
        let units = number(whole)?;
        let (_, each) = UNITS
            .into_iter()
            .find(|(least, _)| units >= *least && units / 100 < *least)?;
        let mut nanos = u128::from(units) * u128::from(each);
        if let Some(fraction) = fraction {
            let (counted, rest) = fraction.split_at(fraction.len().min(9));
            if !rest.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let denominator = counted.iter().fold(1_u128, |scale, _| scale * 10);
            nanos += u128::from(number(counted)?) * u128::from(each) / denominator;
        }
        Some(Self {
            // In range: the units end long before 64 bits of seconds.
            since_epoch: Duration::new(
                (nanos / 1_000_000_000) as u64,
                (nanos % 1_000_000_000) as u32,
            ),
        })
    }

    /// Returns the time since the Unix epoch.
    #[must_use]
    pub const fn since_epoch(self) -> Duration {
        self.since_epoch
    }

    /// Returns how long the request had been waiting at `now`, or zero if its start is later than
    /// `now`.
    #[must_use]
    pub fn queued_at(self, now: SystemTime) -> Duration {
        // A clock before 1970 is wrong.
        now.duration_since(UNIX_EPOCH)
            .map_or(Duration::ZERO, |now| now.saturating_sub(self.since_epoch))
    }

    /// Returns how much later than `now` the start is, or zero.
    #[must_use]
    pub fn ahead_of(self, now: SystemTime) -> Duration {
        now.duration_since(UNIX_EPOCH)
            .map_or(Duration::ZERO, |now| self.since_epoch.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Option<Duration> {
        let start = RequestStart::parse(value.as_bytes());
        start.map(RequestStart::since_epoch)
    }

    #[test]
    fn the_unit_follows_from_the_size() {
        let time = Some(Duration::new(1_700_000_000, 123_456_789));
        let micros = Some(Duration::new(1_700_000_000, 123_456_000));
        let millis = Some(Duration::new(1_700_000_000, 123_000_000));
        let seconds = Some(Duration::from_secs(1_700_000_000));
        for (value, expected) in [
            ("1700000000", seconds),
            ("1700000000.123", millis),
            ("1700000000.123456", micros),
            ("1700000000.1234567891234", time),
            ("1700000000123", millis),
            ("1700000000123.456", micros),
            ("1700000000123456", micros),
            ("1700000000123456789", time),
        ] {
            assert_eq!(parse(value), expected, "{value}");
            assert_eq!(parse(&format!("t={value}")), expected, "t={value}");
        }
    }

    #[test]
    fn what_is_no_time_of_this_age_is_refused() {
        for value in [
            "",
            "t=",
            "t",
            "0",
            "1",
            "999999999",
            "100000000000",
            "999999999999",
            "now",
            "-1",
            "1700000000.",
            ".5",
            "1700000000.5s",
            "1700000000.12345678901x",
            "1700000000 ",
            "t=t=1700000000",
            "18446744073709551616",
            "99999999999999999999999999",
        ] {
            assert_eq!(parse(value), None, "{value:?}");
        }
    }

    #[test]
    fn the_ranges_of_the_units_do_not_meet() {
        for pair in UNITS.windows(2) {
            assert!(pair[0].0 * 100 < pair[1].0);
        }
    }
}
