//! Everything that can be set, with its default. Nothing else in this room has a number of its own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::delta::Profile;

/// How a store is served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where to listen. Default: 127.0.0.1, a free port.
    pub listen: SocketAddr,
    /// TLS; `None` is plain HTTP.
    pub tls: Option<TlsOptions>,
    /// The tokens file. If it exists, even without a token in it, every request needs a token; it is read again
    /// when it changes. `None`, or a file that does not exist, asks for none.
    pub tokens: Option<PathBuf>,
    /// Requests without a token may read. Without a tokens file, nobody may do more.
    pub public_read: bool,
    /// Listen elsewhere than on loopback without TLS, or with nothing that tells who asks.
    pub insecure: bool,
    /// `/metrics` needs a token of role admin. Otherwise it is open, as `/healthz` and `/readyz` always are.
    pub metrics_need_admin: bool,
    /// A reverse proxy is in front: the last address of `X-Forwarded-For` is the client's.
    pub proxied: bool,
    /// Threads that wait for the store. Default: 8.
    pub threads: NonZeroUsize,
    /// Threads that wait for the network. Default: 2.
    pub workers: NonZeroUsize,
    /// Bounds.
    pub limits: ServeLimits,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            tls: None,
            tokens: None,
            public_read: false,
            insecure: false,
            metrics_need_admin: false,
            proxied: false,
            threads: NonZeroUsize::MIN.saturating_add(7),
            workers: NonZeroUsize::MIN.saturating_add(1),
            limits: ServeLimits::default(),
        }
    }
}

/// A certificate and its key, and who may connect.
#[derive(Clone)]
pub struct TlsOptions {
    /// PEM: the certificate, then those between it and its root.
    pub cert_pem: Vec<u8>,
    /// PEM: its key.
    pub key_pem: Vec<u8>,
    /// PEM: the authorities of client certificates. If given, who has none of them cannot connect.
    pub client_ca_pem: Option<Vec<u8>>,
}

// Keys are not for logs.
impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("client_certificates", &self.client_ca_pem.is_some())
            .finish_non_exhaustive()
    }
}

/// What one client, and all together, may ask of a server. Its memory is bounded by `in_flight_bytes_max`,
/// `updates_bytes_max`, twice `bodies_bytes_max`, twice `sweep_len_max` during a sweep, 20 KiB for each connection and
/// 256 KiB for each that sends a long body, what it takes to work out `updates` updates (about 500 bytes for each path
/// that differs), and what the store takes.
///
/// Of everything counted in bytes, and of updates and listings, one address (of IPv6, one /64) gets more only while it
/// then holds no more than is free: half if it is alone, a third if there are two. What comes free goes first to
/// who holds least.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Connections at once. For one more, the address with most connections loses one: the one that is idle longest, or
    /// its newest; if none has clearly most, the new one waits to be accepted. Default: 1024.
    pub connections: usize,
    /// Connections at once from one address (of IPv6, one /64). For one more, one of them that has sent no whole request
    /// is closed, or else the new one. Default: 256.
    pub connections_per_client: usize,
    /// Requests at work at once for one address; more get 429. Default: 256.
    pub streams_per_client: usize,
    /// Updates being worked out at once, each by a thread of its own. More wait in line for `stall_timeout`, then get
    /// 503. Default: 4.
    pub updates: usize,
    /// Bytes of updates that were worked out: how trees differ, and which chunks are new. They are kept for others who
    /// ask for the same, and for who comes back for the rest. Default: 64 MiB.
    pub updates_bytes_max: u64,
    /// The costliest deltas that are made for who asks for deltas; `None` is none at all, so that new chunks are sent as the
    /// store holds them. One takes 32 MiB of `in_flight_bytes_max` while it is made, and up to 300 MiB beside. Default:
    /// `Smallest`.
    pub deltas: Option<Profile>,
    /// Listings of everything in the store at once, each with a thread of its own. More wait in line for
    /// `stall_timeout`, then get 503. Default: 16.
    pub listings: usize,
    /// Bytes of answers being made or not yet sent, over all streams. Default: 64 MiB.
    pub in_flight_bytes_max: u64,
    /// Bytes of requests received but not yet kept, and of lists of what is being sent. Default: 64 MiB.
    pub bodies_bytes_max: u64,
    /// Bytes of one request's body. At least 4 MiB, so that a request of the most ids fits. Default: 16 MiB.
    pub body_len_max: u64,
    /// Bytes of the body of a sweep, which names everything that is to go. One sweep runs at a time. Default: 129 MiB.
    pub sweep_len_max: u64,
    /// Bytes of a request's line and headers. At least 8 KiB. Default: 16 KiB.
    pub header_len_max: usize,
    /// From the first byte of a request, or of a TLS handshake, to the end of its headers. Default: 10 s.
    pub header_timeout: Duration,
    /// Silence between requests. Default: 60 s.
    pub idle_timeout: Duration,
    /// Silence within a body, and how long a client may take less than `rate_min` of an answer. Default: 30 s.
    pub stall_timeout: Duration,
    /// Bytes a second that a client must send or take while there is something to send or take. Default: 1 KiB.
    pub rate_min: u64,
    /// One request with its answer. Default: 1 h.
    pub total_timeout: Duration,
    /// Bytes a second of all answers together. Default: no bound.
    pub limit_rate: Option<u64>,
    /// Least grace of a sweep that is asked for from elsewhere. Unless zero, the server's clock counts. Default: 1 h.
    pub prune_grace_min: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_client: 256,
            streams_per_client: 256,
            updates: 4,
            updates_bytes_max: 64 << 20,
            deltas: Some(Profile::Smallest),
            listings: 16,
            in_flight_bytes_max: 64 << 20,
            bodies_bytes_max: 64 << 20,
            body_len_max: 16 << 20,
            sweep_len_max: 129 << 20,
            header_len_max: 16 << 10,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
            rate_min: 1 << 10,
            total_timeout: Duration::from_secs(3600),
            limit_rate: None,
            prune_grace_min: Duration::from_secs(3600),
        }
    }
}
