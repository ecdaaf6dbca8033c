//! Connections through a program's standard input and output: each is a process of its own, usually `ssh`.
//!
//! Invariant: no process outlives its connection, and none of its words reaches a terminal but as part of an error.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

use super::address::RemoteAddress;
use super::options::RemoteOptions;

// Of what a program says before it ends, this much of the beginning is kept.
const WORDS_LEN_MAX: u64 = 2048;
// How `floe` ends when another process holds the store.
const IN_USE: i32 = 6;
// How long a program that closed its output is given to say why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Starts a program for each connection.
#[derive(Debug)]
pub(super) struct ChildConnector {
    program: OsString,
    words: Vec<OsString>,
}

impl ChildConnector {
    /// The program that reaches an ssh address.
    pub fn new(address: &RemoteAddress, options: &RemoteOptions) -> ChildConnector {
        let mut words = options.ssh.iter().cloned();
        let program = words.next().unwrap_or_else(|| "ssh".into());
        let mut words: Vec<OsString> = words.collect();
        if let Some(port) = address.port() {
            words.extend(["-p".into(), port.to_string().into()]);
        }
        let host = address.host().trim_start_matches('[').trim_end_matches(']');
        let place = address.user().map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
        let path = match address.path().strip_prefix("/~/") {
            Some(below_home) => format!("./{below_home}"),
            None => address.path().to_owned(),
        };
        let create = if options.create { "--create " } else { "" };
        let command = format!("{} serve --stdio {create}{}", options.ssh_command, quoted(&path));
        words.extend([place.into(), command.into()]);
        ChildConnector { program, words }
    }
}

// As one word for the shell on the other side.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Connector for ChildConnector {
    type Out = ChildTransport;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<ChildTransport>, Error> {
        // One socket in place of two pipes: it knows timeouts.
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&self.program);
        command.args(&self.words).stderr(Stdio::piped());
        command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs));
        let mut child = command.spawn().map_err(|error| {
            let program = self.program.to_string_lossy();
            io::Error::new(error.kind(), format!("cannot run `{program}`: {error}"))
        })?;
        // What the command still holds of the other end must go, or its end would never be seen.
        drop(command);
        let words = match child.stderr.take().map(last_words).transpose() {
            Ok(words) => words,
            Err(error) => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::Io(error));
            }
        };
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(ChildTransport { child, ours, buffers, words: words.map(Mutex::new), heard: false }))
    }
}

// Reads all that a program says to its standard error, so that it never waits for a reader.
fn last_words(mut from: impl Read + Send + 'static) -> io::Result<Receiver<String>> {
    let (tell, told) = sync_channel(1);
    std::thread::Builder::new().spawn(move || {
        let mut words = Vec::new();
        // Words that cannot be read are none.
        let _ = from.by_ref().take(WORDS_LEN_MAX).read_to_end(&mut words);
        let _ = io::copy(&mut from, &mut io::sink());
        // Nobody may be left to hear it.
        let _ = tell.send(String::from_utf8_lossy(&words).trim().to_owned());
    })?;
    Ok(told)
}

pub(super) struct ChildTransport {
    child: Child,
    ours: UnixStream,
    buffers: LazyBuffers,
    words: Option<Mutex<Receiver<String>>>,
    heard: bool,
}

impl ChildTransport {
    // Why a program ended that never answered. It may be chance if it is ssh's own end, 255, or if the store is in use,
    // as by the process before this one.
    fn ended(&mut self) -> Error {
        let words = self.words.take().and_then(|told| told.into_inner().ok()?.recv_timeout(LAST_WORDS).ok());
        let words = words.unwrap_or_default();
        let status = (0..50).find_map(|turn| {
            std::thread::sleep(Duration::from_millis(if turn == 0 { 0 } else { 10 }));
            self.child.try_wait().ok().flatten()
        });
        let locked_out =
            ["Permission denied", "Host key verification failed"].iter().any(|w| words.contains(w));
        let kind = match status.and_then(|status| status.code()) {
            Some(255) if locked_out => io::ErrorKind::PermissionDenied,
            Some(IN_USE) => io::ErrorKind::ResourceBusy,
            Some(code) if ![0, 255].contains(&code) => io::ErrorKind::NotFound,
            _ => io::ErrorKind::UnexpectedEof,
        };
        let how = status.map_or_else(|| "it closed its output".to_owned(), |status| status.to_string());
        let words = if words.is_empty() { words } else { format!(": {words}") };
        Error::Io(io::Error::new(kind, format!("the program to connect ended ({how}){words}")))
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

// A socket's timeout of zero would be none at all.
fn bound(timeout: &NextTimeout) -> Option<Duration> {
    let after = *timeout.after;
    (after < Duration::from_secs(u64::from(u32::MAX))).then(|| after.max(Duration::from_millis(1)))
}

fn timed<T>(result: io::Result<T>, reason: Timeout) -> Result<T, Error> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(reason),
        _ => Error::Io(error),
    })
}

impl Transport for ChildTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.ours.set_write_timeout(bound(&timeout))?;
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        match self.ours.write_all(output) {
            Err(error) if is_gone(&error) && !self.heard => Err(self.ended()),
            other => timed(other, timeout.reason),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.ours.set_read_timeout(bound(&timeout))?;
        let read = loop {
            match self.ours.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_gone(&error) && !self.heard => return Err(self.ended()),
                other => break timed(other, timeout.reason)?,
            }
        };
        if read == 0 && !self.heard {
            return Err(self.ended());
        }
        self.heard = true;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for ChildTransport {
    fn drop(&mut self) {
        // Every request was answered, or its answer is no longer wanted. A program that ended already is only reaped.
        let _ = self.ours.shutdown(std::net::Shutdown::Both);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl std::fmt::Debug for ChildTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChildTransport({})", self.child.id())
    }
}

/// For connections that need no address.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_shell_reads_the_path_as_one_word() {
        for (address, expected) in [
            ("ssh://host/srv/store", vec!["host", "floe serve --stdio '/srv/store'"]),
            (
                "ssh://me@[::1]:22/~/it's; $HOME",
                vec!["-p", "22", "me@::1", r"floe serve --stdio './it'\''s; $HOME'"],
            ),
        ] {
            let address = RemoteAddress::parse(address).expect("an address");
            let made = ChildConnector::new(&address, &RemoteOptions::default());
            assert_eq!(
                (made.program, made.words),
                ("ssh".into(), expected.into_iter().map(Into::into).collect())
            );
        }
    }
}
