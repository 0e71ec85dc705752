//! Figures and names as text for people.

use std::{borrow::Cow, time::Duration};

use maud::{Markup, html};

/// Longer names are cut off on the page.
const LONGEST: usize = 80;

/// Bytes with three digits: `512 B`, `1.50 KiB`, `17.2 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = digits_after_point(value);
    format!("{value:.digits$} {}", UNITS[unit])
}

fn digits_after_point(value: f64) -> usize {
    match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    }
}

/// The same without a fraction of zero, for a scale.
pub(super) fn round_bytes(number: u64) -> String {
    let text = bytes(number);
    match text.split_once('.') {
        Some((whole, rest)) => {
            let (fraction, unit) = rest.split_once(' ').unwrap_or((rest, ""));
            match fraction.trim_end_matches('0') {
                "" => format!("{whole} {unit}"),
                fraction => format!("{whole}.{fraction} {unit}"),
            }
        }
        None => text,
    }
}

/// A mean of counts: with one digit after the point while that matters.
pub(super) fn mean(mean: f64) -> String {
    if mean < 99.95 {
        format!("{mean:.1}")
    } else {
        count(mean.round() as u64)
    }
}

/// A count with thin spaces between groups of three digits.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

/// A time with three digits.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (value, unit) = match seconds {
        s if s < 999.5e-9 => (s * 1e9, "ns"),
        s if s < 999.5e-6 => (s * 1e6, "µs"),
        s if s < 0.9995 => (s * 1e3, "ms"),
        s if s < 120.0 => (s, "s"),
        s if s < 7200.0 => (s / 60.0, "min"),
        s => (s / 3600.0, "h"),
    };
    let digits = digits_after_point(value);
    format!("{value:.digits$} {unit}")
}

/// A share of hits, or `None` of nothing.
pub(super) fn rate(hits: u64, misses: u64) -> Option<String> {
    let all = hits.saturating_add(misses);
    (all > 0).then(|| format!("{:.1} %", hits as f64 * 100.0 / all as f64))
}

/// A name such that it shows what it is: without characters that are invisible, break lines or turn the direction
/// of the text, and not longer than a table bears.
pub(super) fn name(name: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_control() && !is_invisible(c);
    if name.len() <= LONGEST && name.chars().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let mut text = String::new();
    for c in name.chars() {
        if text.len() >= LONGEST {
            text.push('…');
            break;
        }
        if is_plain(c) {
            text.push(c);
        } else {
            text.extend(c.escape_default());
        }
    }
    Cow::Owned(text)
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

/// A cell with bytes for people, and the exact number as its title. Not known is empty.
pub(super) fn byte_cell(number: Option<u64>) -> Markup {
    html! {
        @if let Some(number) = number {
            td title={ (number) " bytes" } { (bytes(number)) }
        } @else {
            td {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        let shown = [0, 1023, 1024, 1536, 10_240, 1_047_552, 18_035_507, u64::MAX].map(bytes);
        let expected = [
            "0 B", "1023 B", "1.00 KiB", "1.50 KiB", "10.0 KiB", "1.00 MiB", "17.2 MiB", "16.0 EiB",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_scale_has_no_fraction_of_zero() {
        let shown = [0, 1536, 3072, 16 << 20, 100 << 10].map(round_bytes);
        assert_eq!(shown, ["0 B", "1.5 KiB", "3 KiB", "16 MiB", "100 KiB"]);
    }

    #[test]
    fn a_mean_has_a_fraction_while_it_matters() {
        assert_eq!([mean(0.0), mean(99.94)], ["0.0", "99.9"]);
        assert_eq!(mean(10_508.6), "10\u{2009}509");
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let nanos = [
            0,
            999,
            1_000,
            1_500_000,
            999_400_000,
            999_600_000,
            90_000_000_000,
        ];
        let shown = nanos.map(|nanos| time(Duration::from_nanos(nanos)));
        let expected = [
            "0.00 ns", "999 ns", "1.00 µs", "1.50 ms", "999 ms", "1.00 s", "90.0 s",
        ];
        assert_eq!(shown, expected);
        assert_eq!(time(Duration::from_secs(10_800)), "3.00 h");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1\u{2009}234\u{2009}567");
    }

    #[test]
    fn a_rate_of_nothing_is_absent() {
        assert_eq!(rate(0, 0), None);
        assert_eq!(rate(3, 1).as_deref(), Some("75.0 %"));
    }

    #[test]
    fn a_name_shows_what_is_invisible_and_is_cut() {
        assert_eq!(name("/items/{n}"), "/items/{n}");
        assert_eq!(name("/a\nb\u{202e}c\u{200b}"), "/a\\nb\\u{202e}c\\u{200b}");
        let long = name(&"é".repeat(5000)).into_owned();
        assert_eq!(long, "é".repeat(LONGEST / 2) + "…");
    }
}
