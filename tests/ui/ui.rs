//! What must not compile, each case for its own reason, and what must. `docs/soundness.md` says what
//! each case is about.

#![forbid(unsafe_code)]

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
    process::Command,
};

use trybuild::TestCases;

/// The compiler that wrote `fail/*.stderr`: others use other words. A new one writes them with
/// `TRYBUILD=overwrite cargo test -p tower-memory-ui`; then change the version here.
const SNAPSHOTS: &str = "1.95";

/// Where [`uncompared`] finds its cases.
const COPY: &str = "TOWER_MEMORY_UI_COPY";

/// In one: dependencies would be compiled once to be run, and once to be checked.
#[test]
fn what_must_compile_does_and_what_must_not_fails_for_its_own_reason() {
    let compiler = compiler();
    let cases = TestCases::new();
    cases.pass("pass/*.rs");
    if env::var_os("TRYBUILD").is_some() || compiler.starts_with(&format!("rustc {SNAPSHOTS}.")) {
        cases.compile_fail("fail/*.rs");
        return;
    }
    // Not `eprintln`, which the test harness keeps to itself.
    let warned = writeln!(
        io::stderr(),
        "\nWARNING: this is {compiler}, but tests/ui/fail/*.stderr were written by {SNAPSHOTS}.\n\
         WARNING: of each case only the error's code is compared.\n",
    );
    warned.expect("stderr is open");
    for (case, error) in errors_of("fail") {
        let snapshot = Path::new("fail").join(case).with_extension("stderr");
        let snapshot = fs::read_to_string(&snapshot).expect("each case has a snapshot");
        assert_eq!(code(&error), code(&snapshot), "{error}");
    }
}

/// What the compiler says about these shows the standard library's source where that is installed. So
/// there are no snapshots, and the first line of a case is the error's code and its reason. Values with
/// drop glue are refused in the compiler's last step only, which `cargo check` leaves out; the error
/// must name the type and the line of the case.
#[test]
fn what_must_not_compile_says_why_in_its_first_line() {
    for (name, error) in errors_of("fail_reason") {
        let case = fs::read_to_string(Path::new("fail_reason").join(&name)).expect("readable");
        let first = case
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("//! "));
        let (expected, reason) = first
            .and_then(|line| line.split_once(": "))
            .expect("a reason");
        assert_eq!(code(&error), expected, "{error}");
        assert!(error.contains(reason), "{error}");
        if expected == "error[E0080]" {
            let (_, place) = error
                .split_once("note: the above error was encountered while instantiating")
                .expect("the call");
            let (call, place) = place.split_once("--> ").expect("a place");
            assert!(call.contains("Row"), "{error}");
            let line = case.lines().position(|line| line.contains("// refused"));
            let line = line.expect("the line that is refused") + 1;
            assert!(place.contains(&format!("{name}:{line}:")), "{error}");
        }
    }
}

/// The cases of `folder` by file name, and why each does not compile; panics if one does.
fn errors_of(folder: &str) -> Vec<(String, String)> {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy).expect("a writable target directory");
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of cases") {
        let entry = entry.expect("a readable folder");
        let name = entry.file_name().into_string().expect("UTF-8");
        if name.ends_with(".rs") {
            fs::copy(entry.path(), copy.join(&name)).expect("a writable target directory");
            cases.push(name);
        }
    }
    assert!(!cases.is_empty(), "{folder} is empty");
    // To write down what it finds, and compare nothing, trybuild is told by the environment.
    let run = Command::new(env::current_exe().expect("the test's own path"))
        .args(["--exact", "uncompared", "--ignored", "--nocapture"])
        .envs([("TRYBUILD", "overwrite".as_ref()), (COPY, copy.as_os_str())])
        .output()
        .expect("the test can run itself");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let with_error = |name: String| {
        let error = fs::read_to_string(copy.join(&name).with_extension("stderr"));
        (name, error.expect("one for each case"))
    };
    cases.into_iter().map(with_error).collect()
}

#[test]
#[ignore = "the other tests run it, in a process of its own"]
fn uncompared() {
    let Some(copy) = env::var_os(COPY) else {
        return;
    };
    let cases = TestCases::new();
    // With a case that compiles, trybuild builds the others, too, and does not only check them.
    cases.pass("pass/handles_are_send_sync_and_clone.rs");
    cases.compile_fail(Path::new(&copy).join("*.rs"));
}

fn compiler() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output();
    String::from_utf8_lossy(&version.expect("rustc can be run").stdout)
        .trim_end()
        .to_owned()
}

/// `error[E0597]`, or `error` where it has no code.
fn code(error: &str) -> &str {
    error.split(':').next().unwrap_or_default()
}
