use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::digits::number;
use crate::cancel::DeadlineSource;

/// A header that carries the time a request has left.
///
/// # Examples
///
/// ```
/// use tower_memory::{cancel::DeadlineSource, deadline_header::DeadlineHeader};
///
/// let header = DeadlineHeader::GrpcTimeout;
/// assert_eq!(header.name(), "grpc-timeout");
/// assert_eq!(header.deadline_source(), DeadlineSource::GrpcTimeout);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadlineHeader {
    /// `x-envoy-expected-rq-timeout-ms`: milliseconds, set by Envoy for the service behind it.
    EnvoyExpectedRqTimeout,
    /// `grpc-timeout`: at most 8 digits and a unit.
    GrpcTimeout,
    /// `x-request-timeout-ms`: milliseconds.
    RequestTimeout,
}

/// The units of `grpc-timeout`, finest first.
const GRPC_UNITS: [(u8, Duration); 6] = [
    (b'n', Duration::from_nanos(1)),
    (b'u', Duration::from_micros(1)),
    (b'm', Duration::from_millis(1)),
    (b'S', Duration::from_secs(1)),
    (b'M', Duration::from_secs(60)),
    (b'H', Duration::from_secs(3600)),
];

const GRPC_DIGITS: usize = 8;

/// The largest number of eight digits.
const GRPC_MAX: u128 = 99_999_999;

impl DeadlineHeader {
    /// All headers, in the order of their names. Later versions may add more.
    pub const ALL: &'static [Self] = &[
        Self::EnvoyExpectedRqTimeout,
        Self::GrpcTimeout,
        Self::RequestTimeout,
    ];

    /// Returns the name of the header.
    #[must_use]
    pub const fn name(self) -> HeaderName {
        // Evaluated at compile time: `from_static` would validate the text at each call.
        match self {
            Self::EnvoyExpectedRqTimeout => {
                const { HeaderName::from_static("x-envoy-expected-rq-timeout-ms") }
            }
            Self::GrpcTimeout => const { HeaderName::from_static("grpc-timeout") },
            Self::RequestTimeout => const { HeaderName::from_static("x-request-timeout-ms") },
        }
    }

    /// Returns the source of deadlines set by this header.
    #[must_use]
    pub const fn deadline_source(self) -> DeadlineSource {
        match self {
            Self::EnvoyExpectedRqTimeout => DeadlineSource::EnvoyExpectedRqTimeout,
            Self::GrpcTimeout => DeadlineSource::GrpcTimeout,
            Self::RequestTimeout => DeadlineSource::RequestTimeout,
        }
    }

    /// Parses a value of this header. Zero means that no time is left.
    ///
    /// Returns `None` if the value does not follow the grammar of the header, which allows neither
    /// spaces nor signs, or if it exceeds 64 bits of milliseconds.
    #[doc(hidden)] // for the properties and the fuzz target
    #[must_use]
    pub fn parse(self, value: &[u8]) -> Option<Duration> {
        match self {
            Self::GrpcTimeout => {
                let (unit, digits) = value.split_last()?;
                let (_, each) = GRPC_UNITS.into_iter().find(|(name, _)| name == unit)?;
                let number = number(digits).filter(|_| digits.len() <= GRPC_DIGITS)?;
                each.checked_mul(u32::try_from(number).ok()?)
            }
            Self::EnvoyExpectedRqTimeout | Self::RequestTimeout => {
                number(value).map(Duration::from_millis)
            }
        }
    }

    /// Returns the header value for `remaining`, rounded down to the resolution of the header.
    ///
    /// Returns `None` if that rounds to zero, which some servers read as "no limit". `grpc-timeout`
    /// uses the finest unit whose number has at most 8 digits. Times above the maximum of the header
    /// are written as that maximum.
    #[doc(hidden)] // for the properties and the fuzz target
    #[must_use]
    pub fn value(self, remaining: Duration) -> Option<HeaderValue> {
        match self {
            Self::GrpcTimeout => {
                let (unit, number) = GRPC_UNITS
                    .into_iter()
                    .map(|(unit, each)| (unit, remaining.as_nanos() / each.as_nanos()))
                    .find(|(_, number)| *number <= GRPC_MAX)
                    .unwrap_or((b'H', GRPC_MAX));
                let text = (number > 0).then(|| format!("{number}{}", char::from(unit)))?;
                HeaderValue::try_from(text).ok()
            }
            Self::EnvoyExpectedRqTimeout | Self::RequestTimeout => {
                let millis = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
                (millis > 0).then(|| HeaderValue::from(millis))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc(value: &str) -> Option<Duration> {
        DeadlineHeader::GrpcTimeout.parse(value.as_bytes())
    }

    #[test]
    fn each_unit_of_grpc_timeout_is_what_the_specification_says() {
        assert_eq!(grpc("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(grpc("2M"), Some(Duration::from_secs(120)));
        assert_eq!(grpc("2S"), Some(Duration::from_secs(2)));
        assert_eq!(grpc("2m"), Some(Duration::from_millis(2)));
        assert_eq!(grpc("2u"), Some(Duration::from_micros(2)));
        assert_eq!(grpc("2n"), Some(Duration::from_nanos(2)));
        assert_eq!(grpc("0n"), Some(Duration::ZERO));
        assert_eq!(grpc("00000001S"), Some(Duration::from_secs(1)));
        assert_eq!(
            grpc("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
    }

    #[test]
    fn what_is_not_of_the_grammar_is_refused() {
        for value in [
            "",
            "S",
            "1",
            "1s",
            "1h",
            "1 S",
            " 1S",
            "1S ",
            "+1S",
            "-1S",
            "1.5S",
            "1Sm",
            "SS",
            "123456789n",
            "000000001S",
            "0x1S",
            "1\u{661}S",
        ] {
            assert_eq!(grpc(value), None, "{value:?}");
        }
        for header in [
            DeadlineHeader::RequestTimeout,
            DeadlineHeader::EnvoyExpectedRqTimeout,
        ] {
            for value in ["", "1m", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "1,1"] {
                assert_eq!(header.parse(value.as_bytes()), None, "{value:?}");
            }
            assert_eq!(header.parse(b"18446744073709551616"), None);
            let most = Duration::from_millis(u64::MAX);
            assert_eq!(header.parse(b"18446744073709551615"), Some(most));
            assert_eq!(header.parse(b"0"), Some(Duration::ZERO));
        }
    }

    #[test]
    fn grpc_timeout_is_written_in_the_finest_unit_that_fits() {
        let header = DeadlineHeader::GrpcTimeout;
        for (nanos, value) in [
            (1_u128, "1n"),
            (99_999_999, "99999999n"),
            (100_000_000, "100000u"),
            (1_999_999_999, "1999999u"),
            (99_999_999_999, "99999999u"),
            (100_000_000_000, "100000m"),
            (99_999_999_999_999, "99999999m"),
            (100_000_000_000_000, "100000S"),
        ] {
            let remaining = Duration::from_nanos(u64::try_from(nanos).expect("64 bits"));
            assert_eq!(header.value(remaining).expect("some"), value);
        }
        let seconds = |seconds| header.value(Duration::from_secs(seconds)).expect("some");
        assert_eq!(seconds(99_999_999), "99999999S");
        assert_eq!(seconds(100_000_000), "1666666M");
        assert_eq!(seconds(6_000_000_000), "1666666H");
        assert_eq!(header.value(Duration::MAX).expect("some"), "99999999H");
    }

    #[test]
    fn nothing_is_written_where_nothing_would_remain() {
        for &header in DeadlineHeader::ALL {
            assert_eq!(header.value(Duration::ZERO), None);
        }
        let short = Duration::from_nanos(999_999);
        assert_eq!(DeadlineHeader::RequestTimeout.value(short), None);
        let milli = Duration::from_nanos(1_999_999);
        let value = DeadlineHeader::EnvoyExpectedRqTimeout.value(milli);
        assert_eq!(value.expect("some"), "1");
    }
}
