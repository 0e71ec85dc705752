//! The format of pprof (`profile.proto`), gzipped.

use std::{collections::HashMap, fs, io, time::SystemTime};

use flate2::{Compression, write::GzEncoder};

use super::{
    proto::Message,
    row::Value,
    snapshot::{Profile, Stacks},
    symbols::{Frame, Function},
};
use crate::account::unsampled;

/// The fields of the messages, by their names in `profile.proto`.
mod field {
    pub(super) const SAMPLE_TYPE: u64 = 1;
    pub(super) const SAMPLE: u64 = 2;
    pub(super) const MAPPING: u64 = 3;
    pub(super) const LOCATION: u64 = 4;
    pub(super) const FUNCTION: u64 = 5;
    pub(super) const STRING_TABLE: u64 = 6;
    pub(super) const TIME_NANOS: u64 = 9;
    pub(super) const DURATION_NANOS: u64 = 10;
    pub(super) const PERIOD_TYPE: u64 = 11;
    pub(super) const PERIOD: u64 = 12;
    pub(super) const COMMENT: u64 = 13;
    pub(super) const DEFAULT_SAMPLE_TYPE: u64 = 14;
}

/// The function of a sample whose stack is not known. A sample without a location is not shown.
const NO_STACK: &str = "(no stack)";

impl Profile {
    /// Writes the profile in pprof's format, gzipped, with the four figures of a Go heap profile. `shown` is
    /// the one that tools show first.
    ///
    /// A sample has the labels `route` and `task`, each at most once: `go tool pprof
    /// -tagfocus=route=/items/{n}`. Comments (`-comments`) say the rate, whether there are stacks, and what
    /// was dropped. [Resolve](Self::resolve) it first: `go tool pprof` finds no names of Rust functions.
    ///
    /// # Errors
    ///
    /// Those of `writer`.
    pub fn write_pprof(&self, shown: Value, writer: impl io::Write) -> io::Result<()> {
        unsampled(|| {
            let mut encoder = GzEncoder::new(writer, Compression::fast());
            io::Write::write_all(&mut encoder, &Encoder::default().encode(self, shown))?;
            encoder.finish()?;
            Ok(())
        })
    }
}

/// Texts by number. The first one is empty.
struct Strings {
    numbers: HashMap<Box<str>, u64>,
    all: Vec<Box<str>>,
}

impl Default for Strings {
    fn default() -> Self {
        let mut strings = Self {
            numbers: HashMap::new(),
            all: Vec::new(),
        };
        strings.number("");
        strings
    }
}

impl Strings {
    fn number(&mut self, text: &str) -> u64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.all.len() as u64;
        self.all.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }
}

/// A part of a file that is mapped as code.
struct Mapping {
    from: u64,
    to: u64,
    offset: u64,
    file: Box<str>,
}

#[derive(Default)]
struct Encoder {
    strings: Strings,
    mappings: Vec<Mapping>,
    /// By address and hidden functions. Numbers begin at one.
    locations: HashMap<(usize, usize), u64>,
    functions: HashMap<(Box<str>, Box<str>), u64>,
    made: Message,
}

impl Encoder {
    fn encode(mut self, profile: &Profile, shown: Value) -> Vec<u8> {
        let mut all = Message::default();
        for value in Value::ALL {
            let value_type = self.value_type(value.as_str(), value.unit());
            all.message(field::SAMPLE_TYPE, &value_type);
        }
        self.mappings = mappings();
        for row in &profile.rows {
            let mut locations: Vec<u64> = row
                .frames
                .iter()
                .map(|frame| self.location(frame))
                .collect();
            if locations.is_empty() {
                locations.push(self.no_stack());
            }
            let mut sample = Message::default();
            sample.packed(1, locations);
            sample.packed(2, Value::ALL.map(|value| row.value(value) as u64));
            for (key, text) in [("route", row.route()), ("task", row.task())] {
                if let Some(text) = text {
                    let mut label = Message::default();
                    label.number(1, self.strings.number(key));
                    label.number(2, self.strings.number(text));
                    sample.message(3, &label);
                }
            }
            all.message(field::SAMPLE, &sample);
        }
        for (at, mapping) in self.mappings.iter().enumerate() {
            let mut message = Message::default();
            message.number(1, at as u64 + 1);
            message.number(2, mapping.from);
            message.number(3, mapping.to);
            message.number(4, mapping.offset);
            message.number(5, self.strings.number(&mapping.file));
            // Functions, files, lines and inlined calls are there, so no tool looks for them.
            for flag in 7..=10 {
                message.number(flag, u64::from(profile.is_resolved));
            }
            all.message(field::MAPPING, &message);
        }
        self.about(profile, shown, &mut all);
        // Texts last, when all have been numbered.
        for text in &self.strings.all {
            all.bytes(field::STRING_TABLE, text.as_bytes());
        }
        let mut bytes = all.into_bytes();
        bytes.extend(self.made.into_bytes());
        bytes
    }

    fn about(&mut self, profile: &Profile, shown: Value, all: &mut Message) {
        let since = profile.taken.duration_since(SystemTime::UNIX_EPOCH);
        let nanos = |time: std::time::Duration| time.as_nanos() as u64;
        all.number(field::TIME_NANOS, since.map_or(0, nanos));
        all.number(field::DURATION_NANOS, profile.period.map_or(0, nanos));
        let period_type = self.value_type("space", "bytes");
        all.message(field::PERIOD_TYPE, &period_type);
        all.number(field::PERIOD, profile.rate.unwrap_or(0));
        for comment in comments(profile) {
            let number = self.strings.number(&comment);
            all.number(field::COMMENT, number);
        }
        let number = self.strings.number(shown.as_str());
        all.number(field::DEFAULT_SAMPLE_TYPE, number);
    }

    fn value_type(&mut self, name: &str, unit: &str) -> Message {
        let mut message = Message::default();
        message.number(1, self.strings.number(name));
        message.number(2, self.strings.number(unit));
        message
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        let next = self.locations.len() as u64 + 1;
        let number = *self
            .locations
            .entry((frame.address, frame.hidden))
            .or_insert(next);
        if number == next {
            let address = frame.address as u64;
            let mapping = self
                .mappings
                .iter()
                .position(|mapping| (mapping.from..mapping.to).contains(&address));
            let mut message = Message::default();
            message.number(1, number);
            message.number(2, mapping.map_or(0, |at| at as u64 + 1));
            message.number(3, address);
            for function in frame.functions() {
                let mut line = Message::default();
                line.number(1, self.function(function));
                line.number(2, u64::from(function.line));
                message.message(4, &line);
            }
            self.made.message(field::LOCATION, &message);
        }
        number
    }

    fn no_stack(&mut self) -> u64 {
        let next = self.locations.len() as u64 + 1;
        // No call returns to address zero.
        let number = *self.locations.entry((0, 0)).or_insert(next);
        if number == next {
            let function = Function {
                name: NO_STACK.into(),
                linked: NO_STACK.into(),
                file: Box::default(),
                line: 0,
            };
            let mut line = Message::default();
            line.number(1, self.function(&function));
            let mut message = Message::default();
            message.number(1, number);
            message.message(4, &line);
            self.made.message(field::LOCATION, &message);
        }
        number
    }

    fn function(&mut self, function: &Function) -> u64 {
        let next = self.functions.len() as u64 + 1;
        let key = (function.name.clone(), function.file.clone());
        let number = *self.functions.entry(key).or_insert(next);
        if number == next {
            let mut message = Message::default();
            message.number(1, number);
            message.number(2, self.strings.number(&function.name));
            message.number(3, self.strings.number(&function.linked));
            message.number(4, self.strings.number(&function.file));
            self.made.message(field::FUNCTION, &message);
        }
        number
    }
}

fn comments(profile: &Profile) -> Vec<String> {
    let mut comments = vec![match profile.rate {
        Some(rate) => format!("tower-memory: one sample each {rate} bytes on average"),
        None => "tower-memory: sampling is off".to_owned(),
    }];
    if profile.stacks == Stacks::Missing {
        comments.push(
            "no stacks: the program keeps no frame pointers (RUSTFLAGS=\"-C force-frame-pointers=yes\")"
                .to_owned(),
        );
    }
    let (samples, bytes) = profile.dropped;
    if samples > 0 {
        comments.push(format!(
            "dropped: {samples} live samples for {bytes} bytes found no room; in use is too low by them"
        ));
    }
    comments
}

/// The code that is mapped, where the system tells.
fn mappings() -> Vec<Mapping> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(mapping).collect()
}

fn mapping(line: &str) -> Option<Mapping> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut parts = line.splitn(6, ' ');
    let (from, to) = parts.next()?.split_once('-')?;
    if !parts.next()?.contains('x') {
        return None;
    }
    let offset = hex(parts.next()?)?;
    let file = parts.nth(2)?.trim_start();
    file.starts_with('/').then_some(())?;
    Some(Mapping {
        from: hex(from)?,
        to: hex(to)?,
        offset,
        file: file.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_code_of_a_file() {
        let line = "5581c2f0a000-5581c2f8b000 r-xp 0001a000 fe:01 1234     /opt/a b/app";
        let mapping = mapping(line).expect("code");
        assert_eq!(
            (mapping.from, mapping.to),
            (0x5581_c2f0_a000, 0x5581_c2f8_b000)
        );
        assert_eq!((mapping.offset, &*mapping.file), (0x1a000, "/opt/a b/app"));
        for other in [
            "5581c2f0a000-5581c2f8b000 rw-p 0001a000 fe:01 1234 /opt/app",
            "7ffd1c5f2000-7ffd1c5f4000 r-xp 00000000 00:00 0 [vdso]",
            "",
        ] {
            assert!(super::mapping(other).is_none(), "{other}");
        }
    }
}
