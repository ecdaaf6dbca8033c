//! What a STORE or SOURCE argument means, and how it is opened: the only place that knows which stores there are.

mod credentials;
mod typed;

use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use floe::store::{
    ClientPem, Counters, RemoteAddress, RemoteOptions, RemoteScheme, RemoteStore, Retries, RocksOptions,
    RocksStore, Store, Token,
};
use floe::{ChunkId, Error, Result};
use serde::Serialize;

use crate::args::{Mirrors, Reach};
use crate::output::Output;
use crate::settings::Settings;
use crate::terms;

pub use typed::Place;

/// What went over the network: headers and TLS included, tries that failed too.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Moved {
    /// Bytes received.
    pub bytes_fetched: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Requests.
    pub requests: u64,
}

impl Moved {
    /// Of two stores together.
    pub fn and(self, other: Moved) -> Moved {
        Moved {
            bytes_fetched: self.bytes_fetched + other.bytes_fetched,
            bytes_sent: self.bytes_sent + other.bytes_sent,
            requests: self.requests + other.requests,
        }
    }

    /// A line of a table, if anything moved.
    pub fn line(self) -> Option<(&'static str, String)> {
        let Moved { bytes_fetched, bytes_sent, requests } = self;
        let (sent, fetched) = (terms::bytes(bytes_sent), terms::bytes(bytes_fetched));
        let requests = terms::count(requests, "request");
        (self.requests > 0).then(|| ("network", format!("{sent} sent, {fetched} received in {requests}")))
    }
}

/// A store that was opened.
pub struct Opened {
    store: Box<dyn Store>,
    counters: Option<Arc<Counters>>,
}

impl Opened {
    fn here(store: RocksStore) -> Opened {
        Opened { store: Box::new(store), counters: None }
    }

    /// What went over the network so far; `None` for a directory.
    pub fn counters(&self) -> Option<&Counters> {
        self.counters.as_deref()
    }

    /// The same as a report tells it: nothing for a directory.
    pub fn moved(&self) -> Moved {
        let told = |of: fn(&Counters) -> u64| self.counters().map_or(0, of);
        Moved {
            bytes_fetched: told(Counters::received),
            bytes_sent: told(Counters::sent),
            requests: told(Counters::requests),
        }
    }
}

impl Deref for Opened {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

/// Opens stores, each as its place wants it.
pub struct Opener<'a> {
    reach: &'a Reach,
    settings: &'a Settings,
    stop: Arc<AtomicBool>,
    // Where a token goes that was given for this command: to this server and to no other.
    main: Option<RemoteAddress>,
    mirrors: Vec<RemoteAddress>,
}

impl<'a> Opener<'a> {
    /// `main` is what the command is about: the token of --token-file or FLOE_TOKEN is for its server alone.
    pub fn new(main: &Place, reach: &'a Reach, settings: &'a Settings, output: &Output) -> Opener<'a> {
        Opener { reach, settings, stop: output.stop(), main: main.url().cloned(), mirrors: Vec::new() }
    }

    /// With further URLs of the same content.
    pub fn with_mirrors(self, mirrors: &Mirrors) -> Result<Opener<'a>> {
        let url = |text: &String| match Place::parse(text)? {
            Place::Url(url) => Ok(url),
            Place::Dir(_) => Err(Error::Usage {
                what: format!("mirror `{}`", text.escape_debug()),
                reason: "must be a URL that begins with http://, https:// or ssh://".to_owned(),
            }),
        };
        Ok(Opener { mirrors: mirrors.mirror.iter().map(url).collect::<Result<_>>()?, ..self })
    }

    /// Opens a store that is there, to read it beside other readers.
    pub fn read(&self, place: &Place) -> Result<Opened> {
        match place {
            Place::Dir(path) => Ok(Opened::here(RocksStore::open_read_only(path)?)),
            Place::Url(url) => self.remote(url, &self.mirrors, false),
        }
    }

    /// Opens a store that is there, to change it.
    pub fn write(&self, place: &Place) -> Result<Opened> {
        self.here_or_remote(place, &RocksOptions::default())
    }

    /// Opens a store that is there, to mend it: also one whose database is damaged.
    pub fn mend(&self, place: &Place) -> Result<Opened> {
        self.here_or_remote(place, &RocksOptions { salvage: true, ..RocksOptions::default() })
    }

    /// Opens a store, or makes it, also over ssh; behind another URL it must be there.
    pub fn create(&self, place: &Place) -> Result<Opened> {
        self.here_or_remote(place, &RocksOptions { create: true, ..RocksOptions::default() })
    }

    fn here_or_remote(&self, place: &Place, options: &RocksOptions) -> Result<Opened> {
        match place {
            Place::Dir(path) => Ok(Opened::here(RocksStore::open(path, options)?)),
            Place::Url(url) => self.remote(url, &[], options.create),
        }
    }

    /// Where the fingerprints are kept of directories published into a store: in it, or for a URL with the user's
    /// caches, if the user has such.
    pub fn fingerprints(&self, store: &Place) -> Result<Option<PathBuf>> {
        let dir = match (store, &self.settings.cache_home) {
            (Place::Dir(path), _) => path.join("sources"),
            (Place::Url(url), Some(caches)) => {
                caches.join("floe/sources").join(ChunkId::of(url.to_string().as_bytes()).to_string())
            }
            (Place::Url(_), None) => return Ok(None),
        };
        std::fs::create_dir_all(&dir).map_err(|source| Error::Io {
            action: "create",
            path: dir.clone(),
            source,
        })?;
        Ok(Some(dir))
    }

    fn remote(&self, url: &RemoteAddress, mirrors: &[RemoteAddress], create: bool) -> Result<Opened> {
        let counters = Arc::new(Counters::default());
        let reach = self.reach;
        let mirror = |url: &RemoteAddress| Ok((url.clone(), self.token(url)?));
        let stop = Arc::clone(&self.stop);
        let options = RemoteOptions {
            token: self.token(url)?,
            insecure: reach.insecure,
            ca_pem: reach.ca.as_deref().map(read_pem).transpose()?,
            client_pem: match (&reach.client_cert, &reach.client_key) {
                (Some(cert), Some(key)) => {
                    Some(ClientPem::new([read_pem(cert)?, read_pem(key)?].join(&b'\n')))
                }
                _ => None,
            },
            connect: reach.timeout,
            silence: reach.timeout,
            retries: Retries { attempts: reach.retries.saturating_add(1), ..Retries::default() },
            limit_rate: reach.limit_rate,
            mirrors: mirrors.iter().map(mirror).collect::<Result<_>>()?,
            ssh: self.settings.ssh.iter().map(Into::into).collect(),
            create,
            ssh_command: reach.ssh_floe.clone(),
            counters: Arc::clone(&counters),
            wait: Arc::new(move |time| wait(time, &stop)),
            ..RemoteOptions::default()
        };
        Ok(Opened { store: Box::new(RemoteStore::open(url, options)?), counters: Some(counters) })
    }

    // The token for a server: given for this command, or from the credentials file. ssh knows who asks.
    fn token(&self, url: &RemoteAddress) -> Result<Option<Token>> {
        if url.scheme() == RemoteScheme::Ssh {
            return Ok(None);
        }
        if self.main.as_ref().is_some_and(|main| typed::same_server(main, url)) {
            match (&self.reach.token_file, &self.settings.token) {
                (Some(file), _) => return credentials::from_token_file(file).map(Some),
                (None, Some(value)) => return credentials::from_variable("FLOE_TOKEN", value).map(Some),
                (None, None) => {}
            }
        }
        let Some(dir) = &self.settings.config_home else { return Ok(None) };
        credentials::from_credentials(&dir.join("floe/credentials"), url)
    }
}

/// Most bytes of a file of certificates: those of a whole system are a quarter of it.
const PEM_LEN_MAX: u64 = 1 << 20;

/// The text of a file of certificates or keys.
pub fn read_pem(path: &Path) -> Result<Vec<u8>> {
    let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(PEM_LEN_MAX + 1).read_to_end(&mut pem).map_err(failed)?;
    if pem.len() as u64 > PEM_LEN_MAX {
        let what = format!("length of `{}`", path.display());
        return Err(Error::Limit { what, actual: pem.len() as u64, max: PEM_LEN_MAX });
    }
    Ok(pem)
}

// In short pieces, so that Ctrl-C ends it.
fn wait(time: Duration, stop: &AtomicBool) -> bool {
    let until = Instant::now() + time;
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        match until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return true,
            left => std::thread::sleep(left.min(Duration::from_millis(50))),
        }
    }
}

/// What is at a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A store.
    Store,
    /// A directory that `floe sync` made.
    Replica(&'a Path),
}

impl Kind<'_> {
    /// What it is called.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Store => "store",
            Kind::Replica(_) => "replica",
        }
    }
}

impl Place {
    /// Tells a store from a replica.
    pub fn kind(&self) -> Result<Kind<'_>> {
        let Place::Dir(path) = self else { return Ok(Kind::Store) };
        // A replica may hold a published file FORMAT; a store holds no `.floe`.
        if path.join(".floe").is_dir() {
            return Ok(Kind::Replica(path));
        }
        // A store that lost the one is told by the other.
        if path.join("FORMAT").is_file() || path.join("db/CURRENT").is_file() {
            return Ok(Kind::Store);
        }
        std::fs::metadata(path).map_err(|source| Error::Io { action: "open", path: path.clone(), source })?;
        Err(Error::NotFound {
            what: "store and no synced directory".to_owned(),
            place: format!("`{}`", path.display()),
        })
    }
}
