//! The paths, and what is read through them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::{StatusCode, Uri, header};
use axum::routing::{MethodFilter, on};

use crate::delta::Profile;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef, NodeId};
use crate::limits::{CHUNK_LEN_MAX, NODE_LEN_MAX};
use crate::store::wire::{
    Hello, IDS_MAX, LIMIT_PACK, NameJson, PROTOCOL, UpdateJson, chunk_ids, node_ids, path, unpack_ids,
    unpack_refs, version_of,
};
use crate::store::{AppName, Name, Store};

use super::answer::{self, Answer, Refused};
use super::body::{Received, receive};
use super::limits::Client;
use super::site::{Ask, Needs, Rule, Site, Takes, carry_out};
use super::stream::{self, Wanted, counted, items};
use super::tokens::Role;
use super::{upkeep, writes};

/// What errors call the other side's bytes.
pub(super) const PLACE: &str = "the request";
const UPDATE_FORMAT: u32 = 1;

/// Everything that this server answers.
pub(super) fn routes(site: &Arc<Site>) -> Router {
    const READ: Needs = Needs::Role(Role::Read);
    const PUBLISH: Needs = Needs::Role(Role::Publish);
    const ADMIN: Needs = Needs::Whole(Role::Admin);
    const UNBIND: Needs = Needs::Role(Role::Admin);
    let metrics = if site.options.metrics_need_admin { ADMIN } else { Needs::Nothing };
    let name = format!("{}/{{app}}/{{label}}", path::NAMES);
    let (chunk, node) = (format!("{}/{{id}}", path::CHUNKS), format!("{}/{{id}}", path::NODES));
    let get = MethodFilter::GET;
    let post = MethodFilter::POST;
    let set = Routes { site: Arc::clone(site), router: Router::new() };
    let set = set
        .add("health", "/healthz", get, Needs::Nothing, Takes::Nothing, healthy)
        .add("ready", "/readyz", get, Needs::Nothing, Takes::Nothing, ready)
        .add("metrics", "/metrics", get, metrics, Takes::Nothing, show_metrics)
        .add("hello", path::PREFIX, get, READ, Takes::Nothing, hello)
        .add("names", path::NAMES, get, READ, Takes::Nothing, names)
        .add("name", &name, get, READ, Takes::Nothing, resolve)
        .add("bind", &name, MethodFilter::PUT, PUBLISH, Takes::Json, writes::bind)
        .add("unbind", &name, MethodFilter::DELETE, UNBIND, Takes::Nothing, writes::unbind)
        .add("chunk", &chunk, get, READ, Takes::Nothing, one_chunk)
        .add("node", &node, get, READ, Takes::Nothing, one_node)
        .add("chunks/read", path::CHUNKS_READ, post, READ, Takes::Binary, read_chunks)
        .add("nodes/read", path::NODES_READ, post, READ, Takes::Binary, read_nodes)
        .add("chunks/lens", path::CHUNKS_LENS, post, READ, Takes::Binary, frame_lens)
        .add("update", path::UPDATE, post, READ, Takes::Json, update);
    let set = set
        .add("chunks/lack", path::CHUNKS_LACK, post, PUBLISH, Takes::Binary, writes::lacks_chunks)
        .add("nodes/lack", path::NODES_LACK, post, PUBLISH, Takes::Binary, writes::lacks_nodes)
        .add("chunks/prove", path::CHUNKS_PROVE, post, PUBLISH, Takes::Binary, writes::prove_chunks)
        .add("nodes/prove", path::NODES_PROVE, post, PUBLISH, Takes::Binary, writes::prove_nodes)
        .add("chunks/put", path::CHUNKS, post, PUBLISH, Takes::Binary, writes::put_chunks)
        .add("nodes/put", path::NODES, post, PUBLISH, Takes::Binary, writes::put_nodes)
        .add("flush", path::FLUSH, post, PUBLISH, Takes::Nothing, writes::flush)
        .add("repair/chunks", path::REPAIR_CHUNKS, post, ADMIN, Takes::Binary, writes::repair_chunks)
        .add("repair/nodes", path::REPAIR_NODES, post, ADMIN, Takes::Binary, writes::repair_nodes)
        .add("upkeep/chunks", path::UPKEEP_CHUNKS, get, ADMIN, Takes::Nothing, upkeep::list_chunks)
        .add("upkeep/nodes", path::UPKEEP_NODES, get, ADMIN, Takes::Nothing, upkeep::list_nodes)
        .add("upkeep/state", path::UPKEEP_STATE, get, ADMIN, Takes::Nothing, upkeep::state)
        .add("upkeep/sweep", path::UPKEEP_SWEEP, post, ADMIN, Takes::Binary, upkeep::sweep);
    let (none, other) = (Arc::clone(site), Arc::clone(site));
    set.router
        .fallback(move |request: Request| async move {
            let (head, body) = request.into_parts();
            carry_out(none, OTHER, (head, body, Vec::new()), no_path).await
        })
        .method_not_allowed_fallback(move |request: Request| async move {
            let (head, body) = request.into_parts();
            carry_out(other, OTHER, (head, body, Vec::new()), no_method).await
        })
}

const OTHER: Rule = Rule { route: "other", needs: Needs::Nothing, takes: Takes::Nothing };

async fn no_path(_: Ask) -> Answer {
    Err(Refused::not_found("such path"))
}

async fn no_method(_: Ask) -> Answer {
    Err(Refused::no_method())
}

struct Routes {
    site: Arc<Site>,
    router: Router,
}

impl Routes {
    fn add<F, W>(
        self,
        route: &'static str,
        path: &str,
        method: MethodFilter,
        needs: Needs,
        takes: Takes,
        work: F,
    ) -> Self
    where
        F: Fn(Ask) -> W + Copy + Send + Sync + 'static,
        W: Future<Output = Answer> + Send,
    {
        let site = Arc::clone(&self.site);
        let carry = move |request: Request| {
            let site = Arc::clone(&site);
            async move {
                let (mut head, body) = request.into_parts();
                let args = match RawPathParams::from_request_parts(&mut head, &()).await {
                    Ok(args) => args.iter().map(|(_, value)| value.to_owned()).collect(),
                    // Bytes that are no text are in no name.
                    Err(_) => vec!["\u{fffd}".to_owned(); 2],
                };
                carry_out(site, Rule { route, needs, takes }, (head, body, args), work).await
            }
        };
        Routes { router: self.router.route(path, on(method, carry)), ..self }
    }
}

impl Ask {
    /// The name in the path, if the caller may use it.
    pub fn name(&self) -> Result<Name, Refused> {
        let part = |at: usize| self.args.get(at).map(String::as_str).unwrap_or_default();
        let name = Name::parse(&format!("{}@{}", part(0), part(1)))?;
        self.may_use(name.app())?;
        Ok(name)
    }

    fn may_use(&self, app: &AppName) -> Result<(), Refused> {
        match &self.caller.app {
            Some(own) if own != app => Err(Refused::denied(
                format!("application `{app}`"),
                format!("the token is for `{own}` alone"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn id(&self) -> &str {
        self.args.first().map(String::as_str).unwrap_or_default()
    }

    /// Its body, whole.
    pub async fn received(self) -> Result<(Arc<Site>, Client, Received), Refused> {
        let Ask { site, client, head, body, .. } = self;
        let len_max = site.options.limits.body_len_max;
        let received = receive(&site, client, &head.headers, body, len_max).await?;
        Ok((site, client, received))
    }
}

async fn healthy(_: Ask) -> Answer {
    Ok(answer::text(StatusCode::OK, "ok\n"))
}

async fn ready(ask: Ask) -> Answer {
    Ok(match ask.site.is_ready() {
        true => answer::text(StatusCode::OK, "ready\n"),
        false => answer::text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    })
}

async fn show_metrics(ask: Ask) -> Answer {
    let site = &ask.site;
    let stored = site.bridge.read(|store| store.stored_bytes()).await.ok();
    let now = super::metrics::Now {
        in_flight: site.in_flight.taken(),
        bodies: site.bodies.taken(),
        updates: site.plans.taken(),
        stored,
        ready: site.is_ready(),
    };
    let mut response = answer::text(StatusCode::OK, site.metrics.text(now));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}

async fn hello(ask: Ask) -> Answer {
    let limits = &ask.site.options.limits;
    let named =
        |pairs: &[(&str, u64)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let hello = Hello {
        protocol: PROTOCOL,
        server: format!("floe {}", env!("CARGO_PKG_VERSION")),
        formats: BTreeMap::from([("update".to_owned(), UPDATE_FORMAT), ("node".to_owned(), 1)]),
        limits: named(&[
            (LIMIT_PACK, limits.body_len_max),
            ("ids", IDS_MAX as u64),
            ("sweep_bytes", limits.sweep_len_max),
            ("chunk_bytes", u64::from(CHUNK_LEN_MAX)),
            ("node_bytes", NODE_LEN_MAX as u64),
            ("prune_grace_s", limits.prune_grace_min.as_secs()),
        ]),
    };
    answer::changing(&hello, &format!("\"{}\"", env!("CARGO_PKG_VERSION")), &ask.head.headers)
}

async fn names(ask: Ask) -> Answer {
    let app = match app_of(&ask.head.uri)? {
        Some(app) => {
            ask.may_use(&app)?;
            Some(app)
        }
        None => ask.caller.app.clone(),
    };
    let records = ask.site.bridge.read(move |store| store.names(app.as_ref())).await?;
    let names: Vec<_> = records.iter().map(NameJson::of).collect();
    let bytes = answer::json_bytes(&names)?;
    let mut hasher = blake3::Hasher::new();
    for name in &names {
        hasher.update(format!("{} {} {}\n", name.name, name.version, name.sequence).as_bytes());
    }
    let body = counted(&ask.site, ask.client, bytes).await;
    Ok(answer::changing_body(body, &format!("\"{}\"", hasher.finalize().to_hex()), &ask.head.headers))
}

// `?app=`, once or not at all. An application's name needs no escapes.
fn app_of(uri: &Uri) -> Result<Option<AppName>> {
    let query = uri.query().unwrap_or_default();
    let mut pairs = query.split('&').filter(|pair| !pair.is_empty());
    match (pairs.next().map(|pair| pair.strip_prefix("app=")), pairs.next()) {
        (None, _) => Ok(None),
        (Some(Some(app)), None) => AppName::parse(app).map(Some),
        _ => {
            let reason = "only `?app=NAME` is known".to_owned();
            Err(Error::Usage { what: format!("query `{}`", query.escape_debug()), reason })
        }
    }
}

async fn resolve(ask: Ask) -> Answer {
    let name = ask.name()?;
    let wanted = name.clone();
    let record = ask.site.bridge.read(move |store| store.resolve(&wanted)).await?;
    let record = record.ok_or_else(|| Refused::not_found(format!("name `{name}`")))?;
    let etag = format!("\"{}-{}\"", record.version, record.sequence);
    answer::changing(&NameJson::of(&record), &etag, &ask.head.headers)
}

async fn one_chunk(ask: Ask) -> Answer {
    let id: ChunkId = ask.id().parse()?;
    let job = move |store: &dyn Store| {
        let mut found = None;
        store.read_chunks(&[ChunkRef { id, len: CHUNK_LEN_MAX }], &mut |_, frame| {
            found = frame;
            Ok(())
        })?;
        Ok(found)
    };
    let found = ask.site.bridge.read(job).await?;
    let frame = found.ok_or_else(|| Refused::not_found(format!("chunk {id}")))?;
    let public = ask.site.gate.is_public();
    let body = counted(&ask.site, ask.client, frame.into_bytes()).await;
    // Weak: the same bytes may be framed in another way some day.
    Ok(answer::immutable(body, &format!("W/\"{id}\""), public, &ask.head.headers))
}

async fn one_node(ask: Ask) -> Answer {
    let id: NodeId = ask.id().parse()?;
    let job = move |store: &dyn Store| {
        let mut found = None;
        store.read_nodes(&[id], &mut |_, bytes| {
            found = bytes;
            Ok(())
        })?;
        Ok(found)
    };
    let found = ask.site.bridge.read(job).await?;
    let bytes = found.ok_or_else(|| Refused::not_found(format!("node {id}")))?;
    let public = ask.site.gate.is_public();
    let body = counted(&ask.site, ask.client, bytes).await;
    Ok(answer::immutable(body, &format!("\"{id}\""), public, &ask.head.headers))
}

async fn read_chunks(ask: Ask) -> Answer {
    let (site, client, received) = ask.received().await?;
    let wanted = unpack_refs(&received.bytes, PLACE)?;
    items(&site, client, Wanted::Chunks(wanted), received.into_share()).await
}

async fn read_nodes(ask: Ask) -> Answer {
    let (site, client, received) = ask.received().await?;
    let wanted = node_ids(unpack_ids(&received.bytes, PLACE)?);
    items(&site, client, Wanted::Nodes(wanted), received.into_share()).await
}

async fn frame_lens(ask: Ask) -> Answer {
    let (site, client, received) = ask.received().await?;
    let ids = chunk_ids(unpack_ids(&received.bytes, PLACE)?);
    let lens = site.bridge.read(move |store| store.frame_lens(&ids)).await?;
    let bytes: Vec<u8> = lens.into_iter().flat_map(|len| len.unwrap_or(u32::MAX).to_le_bytes()).collect();
    Ok(answer::binary(counted(&site, client, bytes).await))
}

async fn update(ask: Ask) -> Answer {
    let (site, client, received) = ask.received().await?;
    let update: UpdateJson = serde_json::from_slice(&received.bytes).map_err(|error| Error::Usage {
        what: "the request for an update".to_owned(),
        reason: error.to_string(),
    })?;
    let have = update.have.as_deref().map(version_of).transpose()?;
    let want = version_of(&update.want)?;
    let none = || Refused::not_found(format!("update to version {want}"));
    if update.format < UPDATE_FORMAT {
        return Err(none());
    }
    let asked = update.profile.as_deref().and_then(Profile::named).filter(|_| have.is_some());
    let profile = asked.zip(site.options.limits.deltas).map(|(asked, most)| asked.min(most));
    let plan = site.plans.get(&site, client, (have, want, profile)).await?.ok_or_else(none)?;
    stream::update(&site, client, plan, (update.from_unit, update.from_byte)).await
}
