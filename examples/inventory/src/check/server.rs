//! The service as another process, which can be killed.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use crate::BoxError;

/// Ends when it is dropped, without a warning.
pub(super) struct Server {
    process: Child,
    pub(super) addr: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(file: &Path, port: u16, stock: u32) -> Result<Command, BoxError> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("--file").arg(file);
    command.args(["--port", &port.to_string(), "--stock", &stock.to_string()]);
    Ok(command)
}

impl Server {
    pub(super) fn start(file: &Path, port: u16, stock: u32) -> Result<Self, BoxError> {
        Self::wait_for(command(file, port, stock)?)
    }

    /// Starts it so that no file can become longer than that, which a full disk does to it.
    pub(super) fn with_little_room(file: &Path, stock: u32, kib: usize) -> Result<Self, BoxError> {
        // In units of 512 bytes; the signal would end the process.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", 2 * kib);
        let direct = command(file, 0, stock)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .arg(direct.get_program())
            .args(direct.get_args());
        Self::wait_for(command)
    }

    fn wait_for(mut command: Command) -> Result<Self, BoxError> {
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = &mut process.stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let addr = line
            .strip_prefix("Listening on http://")
            .and_then(|line| line.split(' ').next());
        let addr = addr.and_then(|addr| addr.parse().ok());
        let Some(addr) = addr else {
            let _ = process.kill();
            let _ = process.wait();
            return Err(format!("the service did not start: {line:?}").into());
        };
        Ok(Self { process, addr })
    }

    /// Runs a service that cannot start, and returns what it says.
    pub(super) fn fails(file: &Path) -> Result<Output, BoxError> {
        Ok(command(file, 0, 1000)?.output()?)
    }
}
