//! The profile of a program that has the allocator installed, read by an independent decoder.
//!
//! Sampling is one for the process, so the tests take turns.

use std::{
    collections::BTreeMap,
    hint::black_box,
    io::Read,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use prost::Message;
use tower_memory::{
    Account, TrackingAllocator,
    account::HeapUsage,
    profile::{Profile, Stacks, Value},
};

#[path = "profile/drift.rs"]
mod drift;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// pprof's `profile.proto`, as far as it is read here.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ValueType {
        #[prost(int64, tag = "1")]
        pub(crate) r#type: i64,
        #[prost(int64, tag = "2")]
        pub(crate) unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Label {
        #[prost(int64, tag = "1")]
        pub(crate) key: i64,
        #[prost(int64, tag = "2")]
        pub(crate) str: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub(crate) location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub(crate) value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub(crate) label: Vec<Label>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Mapping {
        #[prost(uint64, tag = "1")]
        pub(crate) id: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) memory_start: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) memory_limit: u64,
        #[prost(bool, tag = "7")]
        pub(crate) has_functions: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Line {
        #[prost(uint64, tag = "1")]
        pub(crate) function_id: u64,
        #[prost(int64, tag = "2")]
        pub(crate) line: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Location {
        #[prost(uint64, tag = "1")]
        pub(crate) id: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) address: u64,
        #[prost(message, repeated, tag = "4")]
        pub(crate) line: Vec<Line>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Function {
        #[prost(uint64, tag = "1")]
        pub(crate) id: u64,
        #[prost(int64, tag = "2")]
        pub(crate) name: i64,
        #[prost(int64, tag = "3")]
        pub(crate) system_name: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub(crate) sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub(crate) mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub(crate) location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub(crate) function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub(crate) string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub(crate) time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub(crate) duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub(crate) period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub(crate) period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub(crate) comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub(crate) default_sample_type: i64,
    }
}

impl proto::Profile {
    fn of(profile: &Profile, shown: Value) -> Self {
        let mut file = Vec::new();
        profile.write_pprof(shown, &mut file).expect("to memory");
        let mut bytes = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&file[..]);
        decoder.read_to_end(&mut bytes).expect("gzip");
        let decoded = Self::decode(&bytes[..]).expect("protobuf");
        assert_eq!(decoded.string_table[0], "");
        decoded
    }

    fn text(&self, number: i64) -> &str {
        &self.string_table[number as usize]
    }

    fn labels(&self, sample: &proto::Sample) -> BTreeMap<&str, &str> {
        let pairs = sample.label.iter();
        let labels: BTreeMap<_, _> = pairs
            .map(|label| (self.text(label.key), self.text(label.str)))
            .collect();
        assert_eq!(labels.len(), sample.label.len(), "a label is there once");
        labels
    }

    /// The functions of a sample, innermost first.
    fn functions(&self, sample: &proto::Sample) -> Vec<&str> {
        let mut names = Vec::new();
        for id in &sample.location_id {
            let location = self.location.iter().find(|location| location.id == *id);
            for line in &location.expect("a location").line {
                let found = self
                    .function
                    .iter()
                    .find(|function| function.id == line.function_id);
                names.push(self.text(found.expect("a function").name));
            }
        }
        names
    }
}

/// Starts sampling at `rate`, which stays until the guard is dropped.
fn turn(rate: u64) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Profile::start(rate).expect("installed");
    turn
}

/// Has the calling thread notice a new rate.
fn arm() {
    drop(black_box(vec![0_u8; 64 << 10]));
}

/// The sums of a route: allocated objects and bytes, and those in use.
fn of_route(profile: &Profile, route: &str) -> [i64; 4] {
    let mut sums = [0; 4];
    let rows = profile
        .rows()
        .iter()
        .filter(|row| row.route() == Some(route));
    for row in rows {
        let values = [
            Value::AllocatedObjects,
            Value::AllocatedBytes,
            Value::InUseObjects,
            Value::InUseBytes,
        ];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += row.value(value);
        }
    }
    sums
}

#[inline(never)]
fn block(size: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(size))
}

#[test]
fn a_profile_of_each_block_has_the_figures_of_the_account() {
    let _turn = turn(1);
    let account = Account::labelled("exact");
    let (kept, usage) = account.in_scope(|| {
        let mut kept: Vec<Vec<u8>> = Vec::with_capacity(100);
        for n in 0..100 {
            let mut bytes = block(64 + n);
            // Small and large, in place and elsewhere; and back.
            bytes.reserve_exact(1000);
            bytes.reserve_exact(200_000 * (n % 2));
            bytes.shrink_to(500);
            if n % 4 == 0 {
                kept.push(bytes);
            }
        }
        let usage = account.usage().expect("installed").heap;
        (kept, usage)
    });
    let HeapUsage {
        allocations,
        bytes_allocated,
        ..
    } = usage;
    let live: usize = kept.iter().map(Vec::capacity).sum();
    let list = kept.capacity() * size_of::<Vec<u8>>();
    let objects = kept.len() as i64 + 1;
    assert_eq!(
        of_route(&Profile::snapshot(), "exact"),
        [
            allocations as i64,
            bytes_allocated as i64,
            objects,
            (live + list) as i64
        ]
    );
    drop(kept);
    let [.., objects, bytes] = of_route(&Profile::snapshot(), "exact");
    assert_eq!((objects, bytes), (0, 0));
}

#[test]
fn blocks_that_other_threads_free_later_are_not_in_use() {
    const THREADS: usize = 4;
    const BLOCKS: usize = 5000;
    let _turn = turn(1);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel()).unzip();
    thread::scope(|threads| {
        for (at, receiver) in receivers.into_iter().enumerate() {
            let senders = senders.clone();
            threads.spawn(move || {
                arm();
                let account = Account::labelled("handed on");
                for n in 0..BLOCKS {
                    let bytes = account.in_scope(|| block(64 + n % 700));
                    let to = (at + n) % THREADS;
                    senders[to]
                        .send(bytes)
                        .expect("it receives until all have sent");
                    while let Ok(bytes) = receiver.try_recv() {
                        drop(bytes);
                    }
                }
                drop(senders);
                receiver.into_iter().for_each(drop);
            });
        }
        drop(senders);
    });
    let bytes: usize = (0..BLOCKS).map(|n| 64 + n % 700).sum();
    assert_eq!(
        of_route(&Profile::snapshot(), "handed on"),
        [(THREADS * BLOCKS) as i64, (THREADS * bytes) as i64, 0, 0]
    );
}

#[test]
fn estimates_from_few_samples_are_within_their_interval() {
    const RATE: u64 = 64 << 10;
    const ROUNDS: usize = 40;
    let _turn = turn(RATE);
    // Two kinds of blocks in one place, and one that grows.
    let mut kept = Vec::new();
    let account = Account::labelled("estimated");
    let before = Profile::snapshot();
    let usage_before = account.usage().expect("installed").heap;
    for _ in 0..ROUNDS {
        for n in 0..2000 {
            let bytes = account.in_scope(|| {
                let mut bytes = block(if n % 8 == 0 { 3000 } else { 100 });
                bytes.reserve_exact(bytes.capacity() * 2);
                bytes
            });
            if n % 10 == 0 {
                kept.push(bytes);
            }
        }
    }
    let usage = account.usage().expect("installed").heap - usage_before;
    let profile = Profile::snapshot().since(&before);
    let [_, allocated, _, in_use] = of_route(&profile, "estimated");
    let live: usize = kept.iter().map(Vec::capacity).sum();
    for (estimate, truth) in [(allocated, usage.bytes_allocated), (in_use, live as u64)] {
        // The deviation of a sum of blocks that are smaller than the rate. At four of them, one run in
        // 16 000 fails.
        let deviation = (RATE as f64 * truth as f64).sqrt();
        let error = estimate as f64 - truth as f64;
        assert!(
            error.abs() < 4.0 * deviation,
            "{estimate} of {truth} +- {deviation}"
        );
        // So that it says something.
        assert!(deviation < 0.1 * truth as f64, "{truth} +- {deviation}");
    }
}

#[test]
fn frees_are_noticed_after_sampling_has_stopped() {
    let turn = turn(1);
    let account = Account::labelled("stopped");
    let kept = account.in_scope(|| block(1000));
    Profile::stop();
    assert_eq!(Profile::rate(), None);
    arm();
    let unseen = account.in_scope(|| block(1000));
    assert_eq!(
        of_route(&Profile::snapshot(), "stopped"),
        [1, 1000, 1, 1000]
    );
    drop((kept, unseen));
    assert_eq!(of_route(&Profile::snapshot(), "stopped"), [1, 1000, 0, 0]);
    drop(turn);
}

#[test]
fn live_samples_without_room_are_counted() {
    const BLOCKS: usize = 1_000_000;
    let _turn = turn(1);
    let account = Account::labelled("crowded");
    let (samples_before, bytes_before) = Profile::snapshot().dropped();
    let mut kept: Vec<Vec<u8>> = Vec::with_capacity(BLOCKS);
    account.in_scope(|| kept.extend((0..BLOCKS).map(|_| block(64))));
    let profile = Profile::snapshot();
    let (samples, bytes) = profile.dropped();
    let dropped = (samples - samples_before) as i64;
    let [objects, allocated, in_use, space] = of_route(&profile, "crowded");
    assert_eq!((objects, allocated), (BLOCKS as i64, 64 * BLOCKS as i64));
    assert_eq!(in_use + dropped, BLOCKS as i64);
    assert_eq!(space + (bytes - bytes_before) as i64, 64 * BLOCKS as i64);
    assert!(
        in_use > 50_000 && dropped > 900_000,
        "{in_use} in use, {dropped} dropped"
    );
    let decoded = proto::Profile::of(&profile, Value::InUseBytes);
    let mut comments = decoded.comment.iter().map(|comment| decoded.text(*comment));
    let shown =
        comments.any(|comment| comment.contains(&format!("dropped: {samples} live samples")));
    assert!(shown);
    drop(kept);
    assert_eq!(of_route(&Profile::snapshot(), "crowded")[2..], [0, 0]);
}

#[test]
fn a_decoder_reads_four_figures_and_one_route_label_of_each_sample() {
    let _turn = turn(1);
    let hostile = format!("/a \"b\"\n;\\{}", "x".repeat(10 << 10));
    let accounts = ["/decoded", hostile.as_str()].map(Account::labelled);
    let kept: Vec<_> = accounts
        .iter()
        .map(|account| account.in_scope(|| block(5000)))
        .collect();
    let profile = Profile::snapshot().resolve();
    let decoded = proto::Profile::of(&profile, Value::AllocatedBytes);

    let types = decoded.sample_type.iter();
    let types: Vec<_> = types
        .map(|one| (decoded.text(one.r#type), decoded.text(one.unit)))
        .collect();
    let expected = [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ];
    assert_eq!(types, expected);
    assert_eq!(decoded.text(decoded.default_sample_type), "alloc_space");
    assert_eq!(decoded.period, 1);
    let period = decoded.period_type.as_ref().expect("a type");
    assert_eq!(
        (decoded.text(period.r#type), decoded.text(period.unit)),
        ("space", "bytes")
    );
    assert!(decoded.time_nanos > 1_700_000_000_000_000_000);
    assert_eq!(decoded.duration_nanos, 0);

    assert_eq!(decoded.sample.len(), profile.rows().len());
    for route in ["/decoded", hostile.as_str()] {
        let mut samples = decoded.sample.iter();
        let sample = samples
            .find(|sample| decoded.labels(sample).get("route") == Some(&route))
            .expect("the route");
        assert_eq!(sample.value, [1, 5000, 1, 5000]);
        assert!(!sample.location_id.is_empty());
        let functions = decoded.functions(sample);
        match profile.stacks() {
            // Whatever allocated is cut off.
            Stacks::FramePointers => {
                assert!(functions[0].contains("profile::block"), "{functions:?}")
            }
            _ => assert_eq!(functions, ["(no stack)"]),
        }
    }
    for location in &decoded.location {
        let mapping = decoded
            .mapping
            .iter()
            .find(|mapping| mapping.id == location.mapping_id);
        if let Some(mapping) = mapping {
            let range = mapping.memory_start..mapping.memory_limit;
            assert!(range.contains(&location.address) && mapping.has_functions);
        }
    }
    // Else pprof shortens the name.
    for function in &decoded.function {
        let name = decoded.text(function.name);
        assert!(name != decoded.text(function.system_name) || name == "(no stack)");
    }
    let says_missing = decoded
        .comment
        .iter()
        .any(|comment| decoded.text(*comment).starts_with("no stacks"));
    assert_eq!(says_missing, profile.stacks() == Stacks::Missing);
    drop(kept);
}

#[test]
fn folded_text_has_one_line_for_each_row_whatever_its_names() {
    let _turn = turn(1);
    let account = Account::labelled("/folded \"x\"\n;y");
    let kept = account.in_scope(|| block(3000));
    let profile = Profile::snapshot().resolve();
    let mut text = Vec::new();
    profile
        .write_folded(Value::InUseBytes, &mut text)
        .expect("to memory");
    let text = String::from_utf8(text).expect("text");
    let rows = profile.rows().iter().filter(|row| row.in_use.bytes > 0);
    assert_eq!(text.lines().count(), rows.count());
    let mut lines = text.lines();
    let line = lines
        .find(|line| line.starts_with("/folded_\"x\"?:y"))
        .expect("the route");
    let (stack, value) = line.rsplit_once(' ').expect("a value");
    assert_eq!(value, "3000");
    assert!(!stack.contains(' '));
    if profile.stacks() == Stacks::FramePointers {
        assert!(stack.ends_with("profile::block"), "{stack}");
    }
    drop(kept);
}

#[test]
fn what_makes_a_profile_is_in_none() {
    let _turn = turn(1);
    let account = Account::labelled("maker");
    let kept = account.in_scope(|| {
        let profile = Profile::snapshot().resolve();
        profile
            .write_pprof(Value::InUseBytes, std::io::sink())
            .expect("to nowhere");
        drop(profile);
        block(700)
    });
    assert_eq!(of_route(&Profile::snapshot(), "maker"), [1, 700, 1, 700]);
    drop(kept);
}

#[test]
fn a_difference_has_what_came_in_between() {
    let _turn = turn(1);
    let account = Account::labelled("between");
    let (early, kept) = account.in_scope(|| (block(1000), block(300)));
    let before = Profile::snapshot();
    drop(early);
    let late = account.in_scope(|| block(200));
    let difference = Profile::snapshot().since(&before);
    assert_eq!(of_route(&difference, "between"), [1, 200, 0, -800]);
    let decoded = proto::Profile::of(&difference, Value::InUseBytes);
    let values: Vec<i64> = decoded
        .sample
        .iter()
        .filter(|sample| decoded.labels(sample).get("route") == Some(&"between"))
        .map(|sample| sample.value[3])
        .collect();
    assert_eq!(values.iter().sum::<i64>(), -800);
    assert!(decoded.duration_nanos > 0);
    drop((kept, late));
}
