//! What a caller decides about a remote store, and the counters it reads.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::address::RemoteAddress;
use crate::error::{Error, Result};

/// A secret that tells a server who asks. It is never shown, and wiped when dropped.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

const TOKEN_LEN_MAX: usize = 4096;

impl Token {
    /// Takes a token as it was given out; white space around it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for one that is empty, longer than 4096 bytes, or holds anything but visible ASCII.
    pub fn parse(text: &str) -> Result<Token> {
        let text = text.trim();
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if visible && !text.is_empty() && text.len() <= TOKEN_LEN_MAX {
            return Ok(Token(Zeroizing::new(text.to_owned())));
        }
        let reason = format!("must be 1 to {TOKEN_LEN_MAX} visible ASCII characters");
        Err(Error::Usage { what: "token".into(), reason })
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

/// A client's certificates and key, as PEM. Never shown, and wiped when dropped.
#[derive(Clone)]
pub struct ClientPem(Zeroizing<Vec<u8>>);

impl ClientPem {
    /// Takes the text of a PEM file; it is checked when a store is opened.
    pub fn new(pem: Vec<u8>) -> ClientPem {
        ClientPem(Zeroizing::new(pem))
    }

    pub(super) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

/// When a request that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// How often in a row a request may fail without getting any further; at least 1.
    pub attempts: u32,
    /// Longest wait after the first failure; it doubles with each. The wait is a random part, at least half, of that.
    pub base: Duration,
    /// The longest wait, whatever the count and whatever the server asks for.
    pub max: Duration,
}

impl Default for Retries {
    /// Five attempts, after up to half a second, one, two and four.
    fn default() -> Self {
        Self { attempts: 5, base: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

/// Waits that long and returns true, or returns false at once if the caller wants to stop. Asked with
/// [`Duration::ZERO`] to look only, about ten times a second while nothing arrives.
pub type Wait = Arc<dyn Fn(Duration) -> bool + Send + Sync>;

/// A clock.
pub type Now = Arc<dyn Fn() -> Instant + Send + Sync>;

/// How a remote store is opened.
#[derive(Clone)]
pub struct RemoteOptions {
    /// Sent with every request, but not over ssh.
    pub token: Option<Token>,
    /// Lets the token go over a connection that anybody between may read.
    pub insecure: bool,
    /// Certificates, as PEM, of whom to trust in place of the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Client certificates, leaf first, and their key, as PEM.
    pub client_pem: Option<ClientPem>,
    /// Most time to look up a host, and again to connect.
    pub connect: Duration,
    /// Longest silence of the other side, and longest time in which it sends less than a kilobyte or takes nothing.
    /// Ten times as long for requests that end only when something is durable.
    pub silence: Duration,
    /// When a request is tried again.
    pub retries: Retries,
    /// Most bytes a second in each direction, over all connections; `None` is no limit.
    pub limit_rate: Option<u64>,
    /// Further stores to read from, in order, with their own tokens: for what the first lacks, has damaged, or cannot
    /// send.
    pub mirrors: Vec<(RemoteAddress, Option<Token>)>,
    /// The program for ssh addresses and its first words; the host and the command there are added.
    pub ssh: Vec<OsString>,
    /// Makes the store over ssh if it is not there.
    pub create: bool,
    /// The command on the other side of ssh, as its shell is to read it; `serve --stdio PATH` is added, or
    /// `serve --stdio --create PATH`.
    pub ssh_command: String,
    /// Counts what moves.
    pub counters: Arc<Counters>,
    /// How to wait.
    pub wait: Wait,
    /// The clock.
    pub now: Now,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            token: None,
            insecure: false,
            ca_pem: None,
            client_pem: None,
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(60),
            retries: Retries::default(),
            limit_rate: None,
            mirrors: Vec::new(),
            ssh: vec!["ssh".into()],
            create: false,
            ssh_command: "floe".into(),
            counters: Arc::default(),
            wait: Arc::new(|time| {
                if !time.is_zero() {
                    std::thread::sleep(time);
                }
                true
            }),
            now: Arc::new(Instant::now),
        }
    }
}

/// What moved so far. Shared with the store; read it at any time.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Counters {
    /// Requests, tries that failed included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes received on connections: bodies, HTTP headers and TLS.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes sent, the same way.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn add_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_visible_ascii_and_never_shown() {
        assert_eq!(Token::parse(" abc.DEF_1\n").expect("a token").reveal(), "abc.DEF_1");
        for bad in ["", " \n", "hush hush", "hush\r\nX: y", "hushé", &"hush".repeat(2000)] {
            let error = Token::parse(bad).err().expect("no token");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
