//! The words of `floe serve` and `floe serve token`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use floe::serve::Role;

use super::Deltas;
use super::reach::{duration, size};

/// Serve a store to other machines, over http or https
///
/// Listens until Ctrl-C or SIGTERM, then lets running requests end for the time of --grace. Without a token file
/// everyone who can connect may do everything, so floe then listens on this machine only, unless --insecure is given.
/// `floe serve token create` makes the first token, and from then on every request needs one.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Examples:
  floe serve ./store                                         at http://127.0.0.1:7400
  floe serve token create --store ./store --role publish     prints a token for a client
  floe serve ./store --listen 0.0.0.0:7400 --tls-cert cert.pem --tls-key key.pem
  floe serve ./store --listen 127.0.0.1:0 --json             a free port, told in the first object

A process that serves a store has it alone: others use its URL, or wait.
A store directory with the name `token` is given as ./token.")]
pub struct Serve {
    #[command(subcommand)]
    pub verb: Option<ServeVerb>,
    /// The store: a directory
    #[arg(value_name = "STORE", required = true)]
    pub store: Option<PathBuf>,
    /// Where to listen, as ADDRESS:PORT; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", conflicts_with = "stdio")]
    pub listen: String,
    /// Make the store if it does not exist
    #[arg(long)]
    pub create: bool,
    /// Serve one connection over standard input and output, as ssh:// does on the other side; asks for no token
    #[arg(long)]
    pub stdio: bool,
    /// The certificate (PEM), then those between it and its root: serves https
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key (PEM) of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Let only clients connect that have a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,
    /// The token file [default: the file `tokens` in STORE]
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Let everyone read; tokens are needed for the rest
    #[arg(long)]
    pub public_read: bool,
    /// Listen on other addresses than this machine's own without TLS, or without tokens
    #[arg(long)]
    pub insecure: bool,
    /// Show /metrics only to a token of role admin
    #[arg(long)]
    pub private_metrics: bool,
    /// A reverse proxy is in front: take a client's address from the last of X-Forwarded-For
    #[arg(long)]
    pub proxied: bool,
    /// How to log to standard error; FLOE_LOG filters
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log: LogAs,
    /// How long running requests may go on after Ctrl-C or SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub grace: Duration,
    #[command(flatten)]
    pub limits: Limits,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogAs {
    /// One line for people
    Text,
    /// One JSON object a line
    Json,
}

/// What one client, and all together, may ask of the server.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits of the server")]
pub struct Limits {
    /// Connections at once; for one more, the address with most of them loses one, an idle one first
    #[arg(long, value_name = "N", default_value = "1024")]
    pub max_connections: NonZeroUsize,
    /// Connections at once from one address (of IPv6, one /64); for one more, one that asked nothing yet is closed, or else the new one
    #[arg(long, value_name = "N", default_value = "256")]
    pub max_client_connections: NonZeroUsize,
    /// Requests at work at once for one address; more are told to come again
    #[arg(long, value_name = "N", default_value = "256")]
    pub max_client_streams: NonZeroUsize,
    /// Updates being worked out at once; more wait for --stall-timeout and are then told to come again
    #[arg(long, value_name = "N", default_value = "4")]
    pub max_updates: NonZeroUsize,
    /// Memory for updates that were worked out, which all who ask for the same share
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    pub max_update_memory: u64,
    /// The costliest deltas that are made for clients that ask for deltas
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Deltas::Smallest)]
    pub deltas: Deltas,
    /// Listings of everything in the store at once, as prune and verify ask for; more wait as updates do
    #[arg(long, value_name = "N", default_value = "16")]
    pub max_listings: NonZeroUsize,
    /// Memory for answers that were read but not yet sent. Of this, of the other memory and of updates one address never gets more than it leaves: half if it is alone
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    pub max_in_flight: u64,
    /// Memory for requests that were received but not yet stored, and for lists of what is being sent
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    pub max_bodies: u64,
    /// Length of the body of one request
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = size)]
    pub max_body: u64,
    /// Length of the body of a prune, which names everything that goes
    #[arg(long, value_name = "SIZE", default_value = "129M", value_parser = size)]
    pub max_prune_body: u64,
    /// Length of the line and headers of a request, at least 8K
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = size)]
    pub max_headers: u64,
    /// Time for the headers of a request, or for a TLS handshake
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub header_timeout: Duration,
    /// Silence between two requests of a connection; less if there are too many connections
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub idle_timeout: Duration,
    /// Silence within a request or an answer, and time to send or take less than --min-rate of it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub stall_timeout: Duration,
    /// One request with its answer, however fast
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub total_timeout: Duration,
    /// What a client must send or take in a second, over each --stall-timeout, while there is something to send or take
    #[arg(long, value_name = "RATE", default_value = "1K", value_parser = size)]
    pub min_rate: u64,
    /// What all answers together take in a second, at most [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = size)]
    pub limit_rate: Option<u64>,
    /// Least grace of a prune that comes over the network: publishers may rely on chunks that no name needs yet
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub min_prune_grace: Duration,
}

#[derive(Debug, Subcommand)]
pub enum ServeVerb {
    Token(Token),
}

/// Make, list and revoke the tokens that tell a server who asks
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Token {
    #[command(subcommand)]
    pub verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    Create(TokenCreate),
    /// List the tokens of a store: what each allows and until when, but not the tokens themselves
    List(TokensAt),
    /// Make a token useless, at once, for servers that run, too
    Revoke(TokenRevoke),
}

/// Make a token and print it, once
///
/// The store keeps only its hash: a token that is lost cannot be shown again, only revoked. A server that runs takes
/// it at once. After the first token every request needs one (but see `floe serve --public-read`).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  floe serve token create --store ./store --role read
  (umask 077; floe serve token create --store ./store --role publish --app game --expires 90d > token)

With --app a token of role read or publish sees and binds only names of that app, and one of role admin also unbinds
them. What concerns the whole store (prune, verify, repair, private metrics) it may not do, whatever its role; and chunks
and nodes are not told apart by app: any token reads those whose ids it knows.

A token is given to a client in a file (--token-file), in FLOE_TOKEN, or on a line `URL TOKEN` in
~/.config/floe/credentials. Both files must not be accessible to others (chmod 600).")]
pub struct TokenCreate {
    #[command(flatten)]
    pub at: TokensAt,
    /// What it allows: read; publish, too; or admin: all, also prune and repair (not with --app)
    #[arg(long, value_name = "ROLE", value_parser = ["read", "publish", "admin"])]
    pub role: String,
    /// Only for names of this app, the part before the @; see below
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
    /// How long it is good, as in `90d` [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub expires: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub struct TokenRevoke {
    #[command(flatten)]
    pub at: TokensAt,
    /// The token's id, as `list` shows it, or how it begins
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Where the tokens are.
#[derive(Debug, clap::Args)]
pub struct TokensAt {
    /// The store: a directory
    #[arg(long, value_name = "STORE")]
    pub store: PathBuf,
    /// The token file [default: the file `tokens` in STORE]
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
}

impl TokenCreate {
    /// The role.
    pub fn role(&self) -> floe::Result<Role> {
        self.role.parse()
    }
}
