use std::fmt::Write;

use maud::{Markup, html};

use super::{
    history::{SPAN, Sample},
    text,
};

/// The plot's area, in the units of its view box.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 150.0;
/// What is left of it for the scale, and below it for the times.
const LEFT: f64 = 84.0;
const BOTTOM: f64 = 24.0;
/// And above, for half of a number.
const TOP: f64 = 14.0;

/// One line of a plot: its name, and its value in bytes at each sample.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) value: fn(&Sample) -> Option<u64>,
}

/// Draws lines over the last ten minutes. Line `n` has the class `l{n}`.
pub(super) fn plot(title: &str, lines: &[Line], samples: &[Sample], now: &Sample) -> Markup {
    let all = || samples.iter().chain([now]);
    let values = all().flat_map(|sample| lines.iter().filter_map(|line| (line.value)(sample)));
    let top = scale(values.max().unwrap_or(0));
    html! {
        figure {
            figcaption {
                b { (title) }
                @for (n, line) in lines.iter().enumerate() {
                    @if let Some(value) = (line.value)(now) {
                        span class={ "key l" (n) } { i {} (line.name) " " b title={ (value) " bytes" } { (text::bytes(value)) } }
                    }
                }
            }
            svg viewBox={ "0 0 " (LEFT + WIDTH + 10.0) " " (TOP + HEIGHT + BOTTOM) } role="img"
                aria-label={ (title) " over the last ten minutes" } {
                @for quarter in [0_u64, 2, 4] {
                    @let y = TOP + HEIGHT * (1.0 - quarter as f64 / 4.0);
                    path class="grid" d={ "M" (LEFT) " " (y) "h" (WIDTH) } {}
                    text x=(LEFT - 6.0) y=(y + 4.0) text-anchor="end" { (text::round_bytes(top / 4 * quarter)) }
                }
                @for (minutes, anchor) in [(10_u32, "start"), (5, "middle"), (0, "end")] {
                    @let x = LEFT + WIDTH * (1.0 - f64::from(minutes) / 10.0);
                    text x=(x) y=(TOP + HEIGHT + BOTTOM - 5.0) text-anchor=(anchor) {
                        @if minutes == 0 { "now" } @else { "−" (minutes) " min" }
                    }
                }
                @for (n, line) in lines.iter().enumerate() {
                    path class={ "line l" (n) } d=(path(line, all(), now, top)) {}
                }
            }
        }
    }
}

/// The value at the top: a power of two, or three quarters of one.
fn scale(most: u64) -> u64 {
    let top = most
        .max(1024)
        .checked_next_power_of_two()
        .unwrap_or(1 << 63);
    if most <= top / 4 * 3 {
        top / 4 * 3
    } else {
        top
    }
}

/// The line as a path, with a gap where the value is not known. A value alone is a dot.
fn path<'a>(
    line: &Line,
    samples: impl Iterator<Item = &'a Sample>,
    now: &Sample,
    top: u64,
) -> String {
    let mut path = String::new();
    let mut is_open = false;
    for sample in samples {
        let age = now.at.saturating_duration_since(sample.at);
        let Some(value) = (line.value)(sample).filter(|_| age <= SPAN) else {
            is_open = false;
            continue;
        };
        let x = LEFT + WIDTH * (1.0 - age.as_secs_f64() / SPAN.as_secs_f64());
        let y = TOP + HEIGHT * (1.0 - value as f64 / top as f64);
        let command = if is_open { 'L' } else { 'M' };
        // A text never refuses.
        let _ = write!(path, "{command}{x:.0} {y:.1}");
        if !is_open {
            path.push_str("h0");
        }
        is_open = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn sample(at: Instant, resident: Option<u64>) -> Sample {
        Sample {
            at,
            resident,
            tracked: None,
            waiting: 0,
            arenas: 0,
            buffers: 0,
        }
    }

    const RESIDENT: Line = Line {
        name: "resident",
        value: |sample| sample.resident,
    };

    #[test]
    fn the_oldest_is_left_the_present_right_and_the_unknown_a_gap() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let now = sample(at(660), Some(0));
        let samples = [
            sample(at(0), Some(1 << 20)), // older than the plot
            sample(at(60), Some(1 << 20)),
            sample(at(360), None),
            sample(at(510), Some(1 << 19)),
        ];
        let path = path(&RESIDENT, samples.iter().chain([&now]), &now, 1 << 20);
        assert_eq!(path, "M84 14.0h0M504 89.0h0L644 164.0");
    }

    #[test]
    fn the_scale_holds_the_highest_value() {
        assert_eq!(scale(0), 768);
        assert_eq!([scale(1025), scale(1536), scale(1537)], [1536, 1536, 2048]);
        assert_eq!(scale(u64::MAX), 1 << 63);
    }

    #[test]
    fn what_is_not_known_is_absent_from_the_legend() {
        let now = sample(Instant::now(), None);
        let drawn = plot("Process", &[RESIDENT], &[], &now).into_string();
        assert!(
            !drawn.contains("resident") && drawn.contains("<svg"),
            "{drawn}"
        );
    }
}
