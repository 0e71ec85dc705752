//! Command-line arguments shared by the examples.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process,
};

pub(crate) struct Args {
    pub(crate) check: bool,
    pub(crate) addr: SocketAddr,
}

/// Returns the value of the current argument.
pub(crate) type Value<'a> = dyn FnMut() -> Result<String, String> + 'a;

impl Args {
    /// Parses the command line. Exits the process on `--help` and on errors.
    #[allow(dead_code, reason = "some examples have more arguments")]
    pub(crate) fn parse(example: &str, default_port: u16) -> Self {
        Self::parse_with(example, default_port, "", |_, _| None)
    }

    /// Like `parse`, with further arguments. `own_usage` describes them. `own` is called for each
    /// unknown word, with a function that returns its value, and returns `None` if it is unknown.
    pub(crate) fn parse_with(
        example: &str,
        default_port: u16,
        own_usage: &str,
        own: impl FnMut(&str, &mut Value<'_>) -> Option<Result<(), String>>,
    ) -> Self {
        let own_usage = match own_usage {
            "" => String::new(),
            usage => format!("  {usage}\n"),
        };
        let usage = format!(
            "usage: {example} [--check | --port PORT | --addr IP:PORT]\n\n{own_usage}  \
             --check         serve on a free port, send requests, check the responses, and exit\n  \
             --port PORT     listen on 127.0.0.1:PORT (default: $PORT, or {default_port})\n  \
             --addr IP:PORT  listen on this address\n  \
             --help          print this help"
        );
        match Self::read(env::args().skip(1), default_port, own) {
            Ok(Some(args)) => args,
            Ok(None) => {
                println!("{usage}");
                process::exit(0);
            }
            Err(error) => {
                eprintln!("{example}: {error}\n\n{usage}");
                process::exit(2);
            }
        }
    }

    /// Returns `None` for `--help`.
    fn read(
        mut words: impl Iterator<Item = String>,
        default_port: u16,
        mut own: impl FnMut(&str, &mut Value<'_>) -> Option<Result<(), String>>,
    ) -> Result<Option<Self>, String> {
        let mut check = false;
        let mut addr = None;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--check" => check = true,
                "--port" => addr = Some(local(port("--port", &value()?)?)),
                "--addr" => {
                    let text = value()?;
                    let parsed = text.parse();
                    addr = Some(parsed.map_err(|_| {
                        format!("invalid --addr {text:?}: expected IP:PORT, such as 127.0.0.1:{default_port}")
                    })?);
                }
                "--help" | "-h" => return Ok(None),
                _ => match own(&word, &mut value) {
                    Some(read) => read?,
                    None => return Err(format!("unknown argument {word:?}")),
                },
            }
        }
        let addr = match addr {
            Some(addr) => addr,
            None if check => local(0),
            None => local(match env::var("PORT") {
                Ok(text) => port("PORT", &text)?,
                Err(_) => default_port,
            }),
        };
        Ok(Some(Self { check, addr }))
    }
}

fn port(name: &str, text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| {
        format!(
            "invalid {name} {text:?}: expected a number from 0 to {}",
            u16::MAX
        )
    })
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
