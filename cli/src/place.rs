//! What a STORE or SOURCE argument means, and how it is opened: the only place that knows which stores there are.

mod credentials;
mod typed;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use floe::store::{RemoteAddress, RemoteOptions, RemoteStore, RocksOptions, RocksStore, Store, Token, Traffic};
use floe::{Error, Result};

use crate::args::Reach;
use crate::settings::Settings;

pub use typed::{Place, Scheme, Url};

/// A store, and what went over the network for it.
pub struct Opened {
    store: Box<dyn Store>,
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
    main: Option<Url>,
    mirrors: Vec<Url>,
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
            Place::Url(url) => self.remote(url, &self.mirrors),
        }
    }

    /// Opens a store that is there, to change it.
    pub fn write(&self, place: &Place) -> Result<Opened> {
        self.here_or_remote(place, false)
    }

    /// Opens a store, or makes it; behind a URL it must be there.
    pub fn create(&self, place: &Place) -> Result<Opened> {
        self.here_or_remote(place, true)
    }

    fn here_or_remote(&self, place: &Place, create: bool) -> Result<Opened> {
        match place {
            Place::Dir(path) => {
                let options = RocksOptions { create, ..RocksOptions::default() };
                Ok(Opened::here(RocksStore::open(path, &options)?))
            }
            Place::Url(url) => self.remote(url, &[]),
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

    // The token for a server: given for this command, or from the credentials file.
    fn token(&self, url: &Url) -> Result<Option<String>> {
        let given = match (&self.reach.token_file, &self.settings.token) {
            (Some(file), _) => Some(credentials::from_token_file(file)?),
            (None, Some(value)) => Some(credentials::from_variable("FLOE_TOKEN", value)?),
            (None, None) => None,
        };
        let given = given.filter(|_| self.main.as_ref().is_some_and(|main| main.same_server(url)));
        let file = self.settings.config_home.as_ref().map(|dir| dir.join("floe/credentials"));
        let token = match (given, file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => credentials::from_credentials(&file, url)?,
            (None, None) => None,
        };
        if token.is_some() && !url.is_private() && !self.reach.insecure {
            return Err(Error::Usage {
                what: format!("URL `{url}`"),
                reason: "a token would go over plain http, where others on the way can read it".to_owned(),
            });
        }
        Ok(token)
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
        if path.join("FORMAT").is_file() {
            return Ok(Kind::Store);
        }
        std::fs::metadata(path).map_err(|source| Error::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
        Err(Error::NotFound {
            what: "store and no synced directory".to_owned(),
            place: format!("`{}`", path.display()),
        })
    }
}
