//! Numbers for Prometheus. No secret is among them, and no label takes what a client wrote.

use std::fmt::Write as _;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type ByRoute = [(&'static str, String); 2];
type ByReason = [(&'static str, &'static str); 1];

/// What is counted.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<ByRoute, Counter>,
    refused: Family<ByReason, Counter>,
    pub bytes_out: Counter,
    pub bytes_in: Counter,
    pub requests_open: Gauge,
    pub connections_open: Gauge,
    in_flight: Gauge,
    bodies: Gauge,
    updates: Gauge,
    stored: Gauge,
    ready: Gauge,
}

/// What is asked for only when somebody looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub in_flight: usize,
    pub bodies: usize,
    pub updates: usize,
    pub stored: Option<u64>,
    pub ready: bool,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("floe");
        let requests = Family::<ByRoute, Counter>::default();
        let refused = Family::<ByReason, Counter>::default();
        let (bytes_out, bytes_in) = (Counter::default(), Counter::default());
        let gauges: [Gauge; 7] = Default::default();
        let [requests_open, connections_open, in_flight, bodies, updates, stored, ready] = gauges;
        registry.register("requests", "Requests answered", requests.clone());
        registry.register("refused", "Requests and connections refused", refused.clone());
        registry.register_with_unit("sent", "Bytes of answers", Unit::Bytes, bytes_out.clone());
        registry.register_with_unit("received", "Bytes of bodies", Unit::Bytes, bytes_in.clone());
        registry.register("requests_open", "Requests at work, streams included", requests_open.clone());
        registry.register("connections_open", "Connections", connections_open.clone());
        registry.register_with_unit("in_flight", "Answers read but not sent", Unit::Bytes, in_flight.clone());
        registry.register_with_unit("bodies", "Bodies received but not kept", Unit::Bytes, bodies.clone());
        registry.register_with_unit("updates", "Updates that were worked out", Unit::Bytes, updates.clone());
        registry.register_with_unit("stored", "The store on disk", Unit::Bytes, stored.clone());
        registry.register("ready", "1 unless the server is stopping", ready.clone());
        Self {
            registry,
            requests,
            refused,
            bytes_out,
            bytes_in,
            requests_open,
            connections_open,
            in_flight,
            bodies,
            updates,
            stored,
            ready,
        }
    }

    /// One request of `route` was answered with `status`.
    pub fn request(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&[("route", route.to_owned()), ("status", status.to_string())]).inc();
    }

    /// Something was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// The text that Prometheus reads.
    pub fn text(&self, now: Now) -> String {
        self.in_flight.set(signed(now.in_flight as u64));
        self.bodies.set(signed(now.bodies as u64));
        self.updates.set(signed(now.updates as u64));
        self.ready.set(i64::from(now.ready));
        if let Some(stored) = now.stored {
            self.stored.set(signed(stored));
        }
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            text.clear();
            let _ = writeln!(text, "# {error}");
        }
        text
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
