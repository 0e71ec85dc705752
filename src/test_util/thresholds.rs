use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    thread,
};

use super::measure::Measured;

/// The variable that has the file written anew.
const BLESS: &str = "TOWER_MEMORY_BLESS";

/// What the requests of each route may allocate, in a file that is kept with the tests.
///
/// A line has allocations, bytes, method and route. Lines that begin with `#` are ignored:
///
/// ```text
/// # allocations  bytes  request
/// 12  2048  GET /items/{n}
/// ```
///
/// With `TOWER_MEMORY_BLESS=1` the file is written anew, with the largest figures of each route and method that was
/// checked; lines of others stay. Several tests may share a file only if one of them checks all routes, since
/// each writes what it has read.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_memory::{MemoryLayer, TrackingAllocator, test_util::{Thresholds, measure}};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// # let path = std::env::temp_dir().join(format!("thresholds-{}.txt", std::process::id()));
/// # std::fs::write(&path, "10 4096 GET /empty\n")?;
/// let layer = MemoryLayer::builder().route("/empty").build().expect("valid");
/// let app = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// // In a test: Thresholds::open("tests/allocations.txt")
/// let mut thresholds = Thresholds::open(&path)?;
/// thresholds.check(&measure(app.oneshot(Request::new(()))).await);
/// thresholds.finish()?;
/// # std::fs::remove_file(path)
/// # }
/// ```
#[derive(Debug)]
#[must_use = "only `finish` reports what was found"]
pub struct Thresholds {
    path: PathBuf,
    kept: BTreeMap<String, Figures>,
    seen: BTreeMap<String, Figures>,
    bless: bool,
    is_finished: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Figures {
    allocations: u64,
    bytes: u64,
}

impl Thresholds {
    /// Reads the file. With `TOWER_MEMORY_BLESS=1` it need not exist.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a line is none: [`io::ErrorKind::InvalidData`] with its number.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let bless = env::var_os(BLESS).is_some_and(|value| value == "1");
        Self::read(path.as_ref(), bless)
    }

    fn read(path: &Path, bless: bool) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if bless && error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let path = path.display();
                return Err(io::Error::new(
                    error.kind(),
                    format!("{path}: {error} ({BLESS}=1 makes it)"),
                ));
            }
            Ok(text) => text,
        };
        let mut kept = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((request, figures)) = parse(line) else {
                let (path, number) = (path.display(), at + 1);
                let what = format!("{path}:{number}: not `allocations bytes METHOD route`: {line}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            };
            kept.insert(request, figures);
        }
        Ok(Self {
            path: path.to_owned(),
            kept,
            seen: BTreeMap::new(),
            bless,
            is_finished: false,
        })
    }

    /// Takes the figures of a request, for [`finish`](Self::finish). Of several for one route and method, the
    /// largest count.
    ///
    /// # Panics
    ///
    /// Panics if the request's allocations are not known: no [`TrackingAllocator`](crate::TrackingAllocator) is
    /// installed.
    pub fn check(&mut self, measured: &Measured) {
        let report = &measured.report;
        let Some(usage) = &report.usage else {
            panic!("the allocations of a request are not known: is a TrackingAllocator installed?");
        };
        // What a line can hold.
        let route = report.route.as_str().replace(char::is_control, "?");
        let request = format!("{} {route}", report.method);
        let figures = Figures {
            allocations: usage.allocations,
            bytes: usage.bytes_allocated,
        };
        let seen = self.seen.entry(request).or_insert(figures);
        seen.allocations = seen.allocations.max(figures.allocations);
        seen.bytes = seen.bytes.max(figures.bytes);
    }

    /// Compares what was checked with the file, or writes the file with `TOWER_MEMORY_BLESS=1`.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    ///
    /// # Panics
    ///
    /// Panics if a request allocated more than its line allows, or has none, with one line for each.
    pub fn finish(mut self) -> io::Result<()> {
        self.is_finished = true;
        if self.bless {
            return fs::write(&self.path, self.to_string());
        }
        let lines: Vec<String> = self.violations().collect();
        assert!(
            lines.is_empty(),
            "{} ({BLESS}=1 rewrites it):\n{}",
            self.path.display(),
            lines.join("\n")
        );
        Ok(())
    }

    fn violations(&self) -> impl Iterator<Item = String> {
        self.seen.iter().filter_map(|(request, seen)| {
            let Figures { allocations, bytes } = seen;
            let Some(most) = self.kept.get(request) else {
                return Some(format!(
                    "{request}: {allocations} allocations, {bytes} bytes, and no line"
                ));
            };
            let is_more = *allocations > most.allocations || *bytes > most.bytes;
            is_more.then(|| {
                format!(
                    "{request}: {allocations} allocations, {bytes} bytes, more than {} and {}",
                    most.allocations, most.bytes
                )
            })
        })
    }
}

fn parse(line: &str) -> Option<(String, Figures)> {
    let (allocations, rest) = line.split_once(char::is_whitespace)?;
    let (bytes, request) = rest.trim_start().split_once(char::is_whitespace)?;
    let request = request.trim_start();
    request.contains(' ').then_some(())?;
    let figures = Figures {
        allocations: allocations.parse().ok()?,
        bytes: bytes.parse().ok()?,
    };
    Some((request.to_owned(), figures))
}

/// The file, with what was seen.
impl fmt::Display for Thresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Written by {BLESS}=1: allocations, bytes, request.")?;
        let mut all = self.kept.clone();
        all.extend(
            self.seen
                .iter()
                .map(|(request, figures)| (request.clone(), *figures)),
        );
        for (request, Figures { allocations, bytes }) in all {
            writeln!(f, "{allocations} {bytes} {request}")?;
        }
        Ok(())
    }
}

impl Drop for Thresholds {
    fn drop(&mut self) {
        // A test that forgets it would never fail.
        if !self.is_finished && !thread::panicking() {
            panic!("Thresholds::finish was not called");
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        env::temp_dir().join(format!("tower-memory-{}-{name}.txt", std::process::id()))
    }

    fn seen(thresholds: &mut Thresholds, request: &str, allocations: u64, bytes: u64) {
        let figures = Figures { allocations, bytes };
        thresholds.seen.insert(request.to_owned(), figures);
    }

    #[test]
    fn more_than_the_file_allows_is_a_violation_and_so_is_a_route_without_a_line() {
        let path = file("more");
        fs::write(
            &path,
            "# a comment\n\n  3   100  GET /a b/{c}\n1 10 GET /less\n",
        )
        .expect("written");
        let mut thresholds = Thresholds::read(&path, false).expect("valid");
        seen(&mut thresholds, "GET /a b/{c}", 4, 100);
        seen(&mut thresholds, "GET /less", 1, 10);
        seen(&mut thresholds, "POST /less", 1, 10);
        let violations: Vec<_> = thresholds.violations().collect();
        assert_eq!(
            violations,
            [
                "GET /a b/{c}: 4 allocations, 100 bytes, more than 3 and 100",
                "POST /less: 1 allocations, 10 bytes, and no line",
            ]
        );
        let result = std::panic::catch_unwind(|| thresholds.finish());
        assert!(result.is_err());
        fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_blessed_file_has_what_was_seen_and_the_lines_of_others() {
        let path = file("bless");
        let mut thresholds = Thresholds::read(&path, true).expect("it need not exist");
        seen(&mut thresholds, "GET /a", 4, 100);
        seen(&mut thresholds, "GET /b", 1, 7);
        thresholds.finish().expect("written");
        let mut thresholds = Thresholds::read(&path, true).expect("valid");
        seen(&mut thresholds, "GET /b", 2, 8);
        thresholds.finish().expect("written");
        let text = fs::read_to_string(&path).expect("written");
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines, ["4 100 GET /a", "2 8 GET /b"]);
        let mut thresholds = Thresholds::read(&path, false).expect("valid");
        seen(&mut thresholds, "GET /b", 2, 8);
        thresholds.finish().expect("no more than that");
        fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_line_that_is_none_is_an_error_with_its_number() {
        let path = file("none");
        for line in ["GET /a", "1 GET /a", "-1 2 GET /a", "1 2 /a"] {
            fs::write(&path, format!("1 2 GET /b\n{line}\n")).expect("written");
            let error = Thresholds::read(&path, false).expect_err("no line");
            assert!(error.to_string().contains(":2: "), "{error}");
        }
        fs::remove_file(&path).expect("removed");
        let error = Thresholds::read(&path, false).expect_err("no file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[should_panic(expected = "finish was not called")]
    fn thresholds_that_are_not_finished_fail_the_test() {
        let path = file("forgotten");
        drop(Thresholds::read(&path, true));
    }
}
