//! What must hold of the headers that say a deadline, whatever bytes come in.

use std::time::{Duration, UNIX_EPOCH};

use tower_memory::deadline_header::{DeadlineHeader, RequestStart};

/// Panics if something does not hold.
pub(crate) fn holds(data: &[u8]) {
    for &header in DeadlineHeader::ALL {
        reading(header, data);
        writing(header, data);
    }
    starting(data);
}

/// The grammar, said once more and in another way: digits counted, not parsed.
fn in_grammar(header: DeadlineHeader, value: &[u8]) -> bool {
    let digits = match header {
        DeadlineHeader::GrpcTimeout => {
            let Some((unit, digits)) = value.split_last() else {
                return false;
            };
            if !b"HMSmun".contains(unit) || digits.len() > 8 {
                return false;
            }
            digits
        }
        _ => {
            // What is beyond 64 bits is out of range.
            let significant: Vec<u8> = value.iter().copied().skip_while(|b| *b == b'0').collect();
            let most = u64::MAX.to_string();
            let longer = significant.len() > most.len();
            if longer || significant.len() == most.len() && *significant > *most.as_bytes() {
                return false;
            }
            value
        }
    };
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn reading(header: DeadlineHeader, value: &[u8]) {
    let parsed = header.parse(value);
    assert_eq!(
        parsed.is_some(),
        in_grammar(header, value),
        "{header:?}: {value:?}"
    );
    let Some(timeout) = parsed else {
        return;
    };
    let (nanos, digits) = match header {
        DeadlineHeader::GrpcTimeout => {
            let (unit, digits) = value.split_last().expect("in the grammar");
            let nanos = match unit {
                b'H' => 3_600_000_000_000,
                b'M' => 60_000_000_000,
                b'S' => 1_000_000_000,
                b'm' => 1_000_000,
                b'u' => 1_000,
                _ => 1_u128,
            };
            (nanos, digits)
        }
        _ => (1_000_000, value),
    };
    let digits = std::str::from_utf8(digits).expect("digits");
    let number: u128 = digits.trim_start_matches('0').parse().unwrap_or(0);
    assert_eq!(timeout.as_nanos(), number * nanos, "{header:?}: {value:?}");
    wrote(header, timeout);
}

/// Takes the data for a duration, and writes that.
fn writing(header: DeadlineHeader, data: &[u8]) {
    let mut bytes = [0_u8; 16];
    for (byte, from) in bytes.iter_mut().zip(data) {
        *byte = *from;
    }
    let number = u128::from_le_bytes(bytes);
    wrote(header, Duration::from_nanos(number as u64));
    wrote(
        header,
        Duration::new(number as u64, (number >> 64) as u32 % 1_000_000_000),
    );
}

/// What is written is read back as no more than it was, and as no less than the unit makes it.
fn wrote(header: DeadlineHeader, remaining: Duration) {
    let Some(value) = header.value(remaining) else {
        let least = match header {
            DeadlineHeader::GrpcTimeout => Duration::from_nanos(1),
            _ => Duration::from_millis(1),
        };
        assert!(remaining < least, "{header:?}: {remaining:?} is something");
        return;
    };
    let read = header.parse(value.as_bytes()).expect("what was written");
    assert!(
        !read.is_zero() && read <= remaining,
        "{header:?}: {remaining:?} as {value:?}"
    );
    // A thousandth of it is lost at most; hours and minutes are further apart than that.
    let most = match header {
        DeadlineHeader::GrpcTimeout => Duration::from_secs(99_999_999 * 3600),
        _ => Duration::from_millis(u64::MAX),
    };
    let lost = remaining.min(most) - read;
    let step = match header {
        DeadlineHeader::GrpcTimeout => remaining.min(most) / 10_000,
        _ => Duration::from_millis(1),
    };
    assert!(lost <= step, "{header:?}: {remaining:?} as {value:?}");
    let again = header.value(read).expect("something");
    assert_eq!(
        header.parse(again.as_bytes()),
        Some(read),
        "{header:?}: {value:?}"
    );
}

fn starting(value: &[u8]) {
    let Some(start) = RequestStart::parse(value) else {
        return;
    };
    let text = value.strip_prefix(b"t=").unwrap_or(value);
    assert!(text.iter().all(|b| b.is_ascii_digit() || *b == b'.'));
    let since = start.since_epoch();
    // From 2001 to 5138, and in nanoseconds as far as 64 bits go.
    let years = Duration::from_secs(1_000_000_000)..Duration::from_secs(100_000_000_000);
    assert!(years.contains(&since), "{value:?}: {since:?}");
    let late = UNIX_EPOCH + Duration::from_secs(200_000_000_000);
    assert_eq!(
        start.queued_at(late),
        Duration::from_secs(200_000_000_000) - since
    );
    assert_eq!(start.queued_at(UNIX_EPOCH), Duration::ZERO);
}
