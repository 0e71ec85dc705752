//! What the system's files say: limits of containers, processes and the machine, and what is in use.
//!
//! All of them are read below a root directory, which is another one in tests.

use std::{
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
};

/// No file that is read is longer. Longer ones are cut off.
const LONGEST: u64 = 64 << 10;

/// cgroup v1 writes "no limit" as the largest multiple of a page below 2^63.
const UNLIMITED: u64 = 1 << 60;

/// A limit, and where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) bytes: u64,
    pub(super) source: &'static str,
}

/// The root of the files.
#[derive(Debug, Clone)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn under(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.0.join(path)).ok()?;
        file.take(LONGEST).read_to_end(&mut bytes).ok()?;
        // A long file may be cut within a character.
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The smallest limit that is in force, or else the machine's memory. If nothing can be read: what was
    /// tried.
    pub(super) fn limit(&self) -> Result<Found, Vec<&'static str>> {
        let mut tried = Vec::new();
        let mut least: Option<Found> = None;
        let mut add = |source, bytes: Option<u64>| match bytes {
            Some(bytes) if least.is_none_or(|least| bytes < least.bytes) => {
                least = Some(Found { bytes, source });
            }
            Some(_) => {}
            None => tried.push(source),
        };
        add("cgroup v2", self.cgroup_v2());
        add("cgroup v1", self.cgroup_v1());
        add("RLIMIT_DATA", self.rlimit("Max data size"));
        add("RLIMIT_AS", self.rlimit("Max address space"));
        add("machine", self.machine());
        least.ok_or(tried)
    }

    /// The path of the process's control group: of version 2 without a controller, of version 1 with one.
    fn cgroup(&self, controller: Option<&str>) -> Option<PathBuf> {
        let text = self.read("proc/self/cgroup")?;
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            let is_it = match controller {
                None => number == "0" && names.is_empty(),
                Some(controller) => names.split(',').any(|name| name == controller),
            };
            is_it.then(|| PathBuf::from(path))
        })
    }

    /// The directories of a control group and its parents, as far as they are visible.
    fn chain(&self, mount: &str, group: &Path) -> Vec<PathBuf> {
        let mut directory = PathBuf::from(mount);
        let mut chain = vec![directory.clone()];
        for part in group.components() {
            match part {
                Component::Normal(name) => {
                    directory.push(name);
                    chain.push(directory.clone());
                }
                Component::RootDir | Component::CurDir => {}
                // Outside of what this container sees.
                Component::ParentDir | Component::Prefix(_) => break,
            }
        }
        chain
    }

    fn cgroup_v2(&self) -> Option<u64> {
        let group = self.cgroup(None)?;
        let chain = self.chain("sys/fs/cgroup", &group);
        let limits = chain.iter().flat_map(|directory| {
            ["memory.max", "memory.high"].map(|name| bytes(&self.read(directory.join(name))?))
        });
        limits.flatten().min()
    }

    fn cgroup_v1(&self) -> Option<u64> {
        let group = self.cgroup(Some("memory"))?;
        let chain = self.chain("sys/fs/cgroup/memory", &group);
        let limits = chain.iter().flat_map(|directory| {
            let whole = self
                .read(directory.join("memory.stat"))
                .and_then(|text| bytes(field(&text, "hierarchical_memory_limit")?));
            let own = self
                .read(directory.join("memory.limit_in_bytes"))
                .and_then(|text| bytes(&text));
            [whole, own]
        });
        limits.flatten().min()
    }

    /// A soft limit of the process.
    fn rlimit(&self, name: &str) -> Option<u64> {
        let text = self.read("proc/self/limits")?;
        bytes(field(&text, name)?)
    }

    fn machine(&self) -> Option<u64> {
        kibibytes(&self.read("proc/meminfo")?, "MemTotal:")
    }

    /// Bytes that the process has mapped and touched.
    pub(super) fn resident(&self) -> Option<u64> {
        kibibytes(&self.read("proc/self/status")?, "VmRSS:")
    }

    /// The share of the last ten seconds in which a task waited for memory, from 0 to 1.
    ///
    /// Of the control group if it tells, since the machine's other processes are not what this one can mend.
    pub(super) fn stalled(&self) -> Option<f64> {
        let group = self.cgroup(None).and_then(|group| {
            let own = self.chain("sys/fs/cgroup", &group).pop()?;
            self.read(own.join("memory.pressure"))
        });
        let text = group.or_else(|| self.read("proc/pressure/memory"))?;
        let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let percent = some
            .split_whitespace()
            .find_map(|word| word.strip_prefix("avg10="))?;
        let percent: f64 = percent.parse().ok()?;
        (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
    }
}

/// Resident bytes of this process; `None` where the system does not tell.
#[cfg(feature = "debug")]
pub(crate) fn resident_bytes() -> Option<u64> {
    Files::under("/").resident()
}

/// The first word after a name at the start of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A number of bytes that limits something. `None` for `max`, `unlimited`, absurd numbers, and no number.
fn bytes(text: &str) -> Option<u64> {
    let bytes: u64 = text.trim().parse().ok()?;
    (bytes < UNLIMITED).then_some(bytes)
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// A directory that is removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn with(files: &[(&str, &str)]) -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("tower-memory-{}-{number}", std::process::id());
            let root = Self(std::env::temp_dir().join(name));
            for (path, text) in files {
                root.write(path, text);
            }
            root
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn limit(&self) -> Result<(u64, &'static str), Vec<&'static str>> {
            let found = Files::under(&self.0).limit();
            found.map(|found| (found.bytes, found.source))
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");
    const ALL: u64 = 16 << 20;

    #[test]
    fn the_least_of_all_parents_counts() {
        let root = Root::with(&[
            MACHINE,
            ("proc/self/cgroup", "0::/a/b c/d\n"),
            ("sys/fs/cgroup/a/memory.max", "9000000\n"),
            ("sys/fs/cgroup/a/memory.high", "max\n"),
            ("sys/fs/cgroup/a/b c/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b c/memory.high", "8000000"),
            ("sys/fs/cgroup/a/b c/d/memory.max", "max"),
        ]);
        assert_eq!(root.limit(), Ok((8_000_000, "cgroup v2")));
        root.write("sys/fs/cgroup/a/b c/d/memory.max", "7000000\n");
        assert_eq!(root.limit(), Ok((7_000_000, "cgroup v2")));
        fs::remove_dir_all(root.0.join("sys")).unwrap();
        assert_eq!(root.limit(), Ok((ALL, "machine")), "removed while running");
    }

    #[test]
    fn version_one_is_read_where_its_controller_is_and_the_lesser_of_both_counts() {
        let root = Root::with(&[
            MACHINE,
            (
                "proc/self/cgroup",
                "5:cpu,cpuacct:/x\n4:memory:/x/y\n0::/\n",
            ),
            (
                "sys/fs/cgroup/memory/x/y/memory.stat",
                "cache 5\nhierarchical_memory_limit 6000000\nrss 4\n",
            ),
            (
                "sys/fs/cgroup/memory/x/y/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        assert_eq!(root.limit(), Ok((6_000_000, "cgroup v1")));
        root.write("sys/fs/cgroup/memory.max", "5000000\n");
        assert_eq!(root.limit(), Ok((5_000_000, "cgroup v2")));
        root.write(
            "sys/fs/cgroup/memory/x/y/memory.stat",
            "hierarchical_memory_limit 9223372036854771712\n",
        );
        fs::remove_file(root.0.join("sys/fs/cgroup/memory.max")).unwrap();
        assert_eq!(root.limit(), Ok((ALL, "machine")));
    }

    #[test]
    fn a_file_without_a_limit_is_passed_over() {
        let huge = "7".repeat(1 << 20);
        for text in [
            "",
            "\n",
            "max",
            "max\n",
            "-5\n",
            "18446744073709551616\n",
            "9223372036854771712",
            "12x",
            "0x10",
            "1 2",
            "\u{0}",
            huge.as_str(),
        ] {
            let root = Root::with(&[
                MACHINE,
                ("proc/self/cgroup", "0::/a\n"),
                ("sys/fs/cgroup/a/memory.max", text),
            ]);
            let shown = &text[..text.len().min(30)];
            assert_eq!(root.limit(), Ok((ALL, "machine")), "{shown:?}");
        }
    }

    #[test]
    fn a_file_of_version_one_without_a_limit_is_passed_over() {
        for text in [
            "",
            "hierarchical_memory_limit",
            "hierarchical_memory_limit \n",
            "hierarchical_memory_lim",
            "cache 1\nhierarchical_memory_limit -1\n",
            "hierarchical_memory_limit 18446744073709551616\n",
            "hierarchical_memory_limit 9223372036854771712\n",
            "total_hierarchical_memory_limit 5\n",
        ] {
            let root = Root::with(&[
                MACHINE,
                ("proc/self/cgroup", "4:memory:/x\n"),
                ("sys/fs/cgroup/memory/x/memory.stat", text),
            ]);
            assert_eq!(root.limit(), Ok((ALL, "machine")), "{text:?}");
        }
    }

    #[test]
    fn a_path_that_leads_out_of_the_container_ends_at_its_root() {
        for group in ["0::/../../other\n", "0::/..", "0::/", "0::"] {
            let root = Root::with(&[
                MACHINE,
                ("proc/self/cgroup", group),
                ("sys/fs/cgroup/memory.max", "4000000"),
                ("sys/fs/other/memory.max", "1"),
                ("sys/other/memory.max", "1"),
                ("other/memory.max", "1"),
            ]);
            assert_eq!(root.limit(), Ok((4_000_000, "cgroup v2")), "{group:?}");
        }
        for group in ["", "nonsense", "0:", "::", "0::\0"] {
            let root = Root::with(&[MACHINE, ("proc/self/cgroup", group)]);
            assert_eq!(root.limit(), Ok((ALL, "machine")), "{group:?}");
        }
    }

    #[test]
    fn limits_of_the_process_count() {
        let limits = |data: &str, space: &str| {
            let lines = format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max data size             {data}            unlimited            bytes\n\
                 Max address space         {space}           unlimited            bytes\n"
            );
            Root::with(&[MACHINE, ("proc/self/limits", &lines)]).limit()
        };
        assert_eq!(limits("unlimited", "unlimited"), Ok((ALL, "machine")));
        assert_eq!(
            limits("3000000", "unlimited"),
            Ok((3_000_000, "RLIMIT_DATA"))
        );
        assert_eq!(limits("3000000", "2000000"), Ok((2_000_000, "RLIMIT_AS")));
    }

    #[test]
    fn nothing_readable_says_what_was_tried() {
        let tried = Root::with(&[]).limit().unwrap_err();
        assert_eq!(
            tried,
            [
                "cgroup v2",
                "cgroup v1",
                "RLIMIT_DATA",
                "RLIMIT_AS",
                "machine"
            ]
        );
    }

    #[test]
    fn use_and_stalls_are_read() {
        let root = Root::with(&[
            ("proc/self/status", "Name:\tx\nVmRSS:\t    1234 kB\n"),
            (
                "proc/pressure/memory",
                "some avg10=12.50 avg60=3.00 avg300=0.10 total=5\nfull avg10=99.00 total=1\n",
            ),
        ]);
        let files = Files::under(&root.0);
        assert_eq!(files.resident(), Some(1234 * 1024));
        assert_eq!(files.stalled(), Some(0.125));
        root.write("proc/self/cgroup", "0::/a\n");
        root.write(
            "sys/fs/cgroup/a/memory.pressure",
            "some avg10=2.00 total=1\n",
        );
        assert_eq!(files.stalled(), Some(0.02), "the group's own");
        fs::remove_file(root.0.join("sys/fs/cgroup/a/memory.pressure")).unwrap();
        root.write("proc/pressure/memory", "some avg10=NaN");
        root.write("proc/self/status", "VmRSS: 99999999999999999999 kB");
        assert_eq!((files.stalled(), files.resident()), (None, None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_a_limit_and_this_process_uses_less() {
        let files = Files::under("/");
        let limit = files.limit().unwrap();
        assert!(files.resident().unwrap() < limit.bytes, "{limit:?}");
    }
}
