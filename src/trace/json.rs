//! A snapshot in the trace-event format, which Perfetto and Chrome read.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::{
    event::{Event, Kind},
    snapshot::{ThreadEvents, TraceSnapshot},
};

impl TraceSnapshot {
    /// Writes the snapshot in the [trace-event format], for <https://ui.perfetto.dev> or `chrome://tracing`: a track
    /// for each thread, with a slice for each poll and a mark for each cancellation and each chunk that an arena took.
    ///
    /// About 150 bytes an event, which compress well. A slow writer delays no request: the snapshot is a copy.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    ///
    /// # Examples
    ///
    /// See [`trace`](super).
    ///
    /// [trace-event format]: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    pub fn write_json(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
        let mut writer = Writer {
            snapshot: self,
            to: &mut to,
            pid: std::process::id(),
        };
        writer.all()?;
        to.write_all(b"]}\n")
    }
}

struct Writer<'a, W> {
    snapshot: &'a TraceSnapshot,
    to: &'a mut W,
    pid: u32,
}

impl<W: Write> Writer<'_, W> {
    fn all(&mut self) -> io::Result<()> {
        let pid = self.pid;
        write!(
            self.to,
            r#"{{"ph":"M","name":"process_name","pid":{pid},"tid":0,"args":{{"name":"tower-memory"}}}}"#
        )?;
        for thread in &self.snapshot.threads {
            self.thread(thread)?;
        }
        self.to.write_all(b"\n")
    }

    fn thread(&mut self, thread: &ThreadEvents) -> io::Result<()> {
        let (pid, tid) = (self.pid, thread.id);
        write!(
            self.to,
            ",\n{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{pid},\"tid\":{tid},\"args\":{{\"name\":"
        )?;
        self.text(&thread.name)?;
        self.to.write_all(b"}}")?;
        for event in &thread.events {
            if event.kind.is_poll() {
                self.slice(thread, event)?;
            } else {
                self.mark(thread, event)?;
            }
        }
        if let Some(event) = &thread.running {
            self.head("B", thread, event)?;
            self.args(event, "\"running\":true")?;
        }
        Ok(())
    }

    fn slice(&mut self, thread: &ThreadEvents, event: &Event) -> io::Result<()> {
        self.head("X", thread, event)?;
        let rate = &self.snapshot.rate;
        // Both ends are rounded: a part of a slice does not stick out of it.
        let end = rate.nanos(event.end);
        let nanos = end.saturating_sub(rate.nanos(event.start)).max(0);
        write!(self.to, ",\"dur\":{}.{:03}", nanos / 1000, nanos % 1000)?;
        let bytes = match self.snapshot.counts_bytes {
            true => format!("\"bytes\":{}", event.value),
            false => String::new(),
        };
        self.args(event, &bytes)
    }

    fn mark(&mut self, thread: &ThreadEvents, event: &Event) -> io::Result<()> {
        self.head("i", thread, event)?;
        self.to.write_all(b",\"s\":\"t\"")?;
        let value = match event.kind {
            Kind::ArenaGrowth | Kind::Closed => format!("\"bytes\":{}", event.value),
            _ => String::new(),
        };
        self.args(event, &value)
    }

    /// What all events have, up to the arguments.
    fn head(&mut self, phase: &str, thread: &ThreadEvents, event: &Event) -> io::Result<()> {
        let nanos = self.snapshot.rate.nanos(event.start).max(0);
        write!(self.to, ",\n{{\"ph\":\"{phase}\",\"name\":")?;
        let name = match event.kind {
            Kind::Request | Kind::Body => event.origin.route().map(Cow::Borrowed),
            Kind::ArenaGrowth => None,
            _ => event.origin.task().map(Cow::Owned),
        };
        self.text(name.as_deref().unwrap_or(event.kind.as_str()))?;
        let (kind, pid, tid) = (event.kind.as_str(), self.pid, thread.id);
        write!(
            self.to,
            ",\"cat\":\"{kind}\",\"pid\":{pid},\"tid\":{tid},\"ts\":{}.{:03}",
            nanos / 1000,
            nanos % 1000
        )
    }

    fn args(&mut self, event: &Event, more: &str) -> io::Result<()> {
        write!(
            self.to,
            ",\"args\":{{\"request\":{}",
            event.origin.request()
        )?;
        if let Some(route) = event.origin.route() {
            self.to.write_all(b",\"route\":")?;
            self.text(route)?;
        }
        if let Some(task) = event.origin.task() {
            self.to.write_all(b",\"task\":")?;
            self.text(&task)?;
        }
        if !more.is_empty() {
            write!(self.to, ",{more}")?;
        }
        self.to.write_all(b"}}")
    }

    /// A text as JSON.
    fn text(&mut self, text: &str) -> io::Result<()> {
        self.to.write_all(b"\"")?;
        for part in text.split_inclusive(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
            let mut chars = part.chars();
            let last = chars.next_back();
            match last {
                Some(c) if c.is_control() || matches!(c, '"' | '\\') => {
                    // Control characters have up to two bytes in UTF-8, and four digits.
                    write!(self.to, "{}\\u{:04x}", chars.as_str(), u32::from(c))?;
                }
                _ => self.to.write_all(part.as_bytes())?,
            }
        }
        self.to.write_all(b"\"")
    }
}
