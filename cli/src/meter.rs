//! How far a verb is: a bar on a terminal, now and then a line elsewhere, or nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floe::Phase;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terms;

/// Time between two plain lines; a verb that is done sooner prints none.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress on stderr.
pub struct Meter(Kind);

enum Kind {
    None,
    Bar(ProgressBar),
    Lines(Lines),
}

struct Lines {
    done: AtomicU64,
    state: Mutex<LineState>,
}

struct LineState {
    phase: Option<Phase>,
    total: Option<u64>,
    began: Instant,
    last: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Things,
}

impl Meter {
    /// Shows nothing.
    pub fn none() -> Meter {
        Meter(Kind::None)
    }

    /// A bar that is drawn over itself.
    pub fn bar() -> Meter {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        Meter(Kind::Bar(bar))
    }

    /// A line at most every few seconds.
    pub fn lines() -> Meter {
        let now = Instant::now();
        let state = LineState { phase: None, total: None, began: now, last: now };
        Meter(Kind::Lines(Lines { done: AtomicU64::new(0), state: Mutex::new(state) }))
    }

    /// A phase begins.
    pub fn phase(&self, phase: Phase, total: Option<u64>) {
        match &self.0 {
            Kind::None => {}
            Kind::Bar(bar) => {
                bar.reset();
                match total {
                    Some(total) => bar.set_length(total),
                    None => bar.unset_length(),
                }
                bar.set_style(style(phase, total));
                bar.set_message(words(phase).0);
                bar.enable_steady_tick(Duration::from_millis(100));
            }
            Kind::Lines(lines) => {
                let Ok(mut state) = lines.state.lock() else { return };
                lines.done.store(0, Ordering::Relaxed);
                *state = LineState { phase: Some(phase), total, began: Instant::now(), last: state.last };
            }
        }
    }

    /// The phase got further.
    pub fn advance(&self, amount: u64) {
        match &self.0 {
            Kind::None => {}
            Kind::Bar(bar) => bar.inc(amount),
            Kind::Lines(lines) => {
                let done = lines.done.fetch_add(amount, Ordering::Relaxed) + amount;
                // Whoever finds the state taken leaves the line to the other.
                if let Ok(mut state) = lines.state.try_lock()
                    && state.last.elapsed() >= LINE_EVERY
                {
                    state.last = Instant::now();
                    say!("{}", line(&state, done));
                }
            }
        }
    }

    /// Does `print` while no bar is on the screen.
    pub fn hidden<R>(&self, print: impl FnOnce() -> R) -> R {
        match &self.0 {
            Kind::Bar(bar) => bar.suspend(print),
            _ => print(),
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Kind::Bar(bar) = &self.0 {
            bar.disable_steady_tick();
            bar.finish_and_clear();
        }
    }
}

fn words(phase: Phase) -> (&'static str, Unit) {
    match phase {
        Phase::Scan => ("looking for files", Unit::Things),
        Phase::Publish => ("storing", Unit::Bytes),
        Phase::Plan => ("comparing", Unit::Things),
        Phase::Fetch => ("receiving", Unit::Bytes),
        Phase::Mirror => ("copying", Unit::Bytes),
        Phase::Build => ("building", Unit::Bytes),
        Phase::Swap => ("switching", Unit::Things),
        Phase::Verify => ("verifying", Unit::Bytes),
        Phase::Mark => ("finding what is needed", Unit::Things),
        Phase::Sweep => ("removing", Unit::Things),
        _ => ("working", Unit::Things),
    }
}

fn style(phase: Phase, total: Option<u64>) -> ProgressStyle {
    let template = match (words(phase).1, total) {
        (Unit::Bytes, Some(_)) => {
            "{msg} [{wide_bar}] {percent}% of {binary_total_bytes} {binary_bytes_per_sec} {eta} left"
        }
        (Unit::Bytes, None) => "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}",
        (Unit::Things, Some(_)) => "{msg} [{wide_bar}] {human_pos}/{human_len} {eta} left",
        (Unit::Things, None) => "{spinner} {msg} {human_pos}",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn line(state: &LineState, done: u64) -> String {
    let (words, unit) = state.phase.map_or(("working", Unit::Things), words);
    let show = |count: u64| if unit == Unit::Bytes { terms::bytes(count) } else { count.to_string() };
    let seconds = state.began.elapsed().as_secs_f64().max(0.001);
    let rate = done as f64 / seconds;
    let mut line = format!("{words}: {}", show(done));
    if let Some(total) = state.total {
        line += &format!(" of {}", show(total));
    }
    line += &format!(", {}/s", show(rate as u64));
    if let Some(total) = state.total
        && rate >= 1.0
    {
        let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate).min(1e9));
        line += &format!(", {} left", terms::elapsed(Duration::from_secs(left.as_secs())));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_well_formed() {
        for total in [None, Some(7)] {
            for phase in [Phase::Scan, Phase::Publish] {
                style(phase, total);
            }
        }
    }

    #[test]
    fn lines_say_how_much_and_how_long() {
        let Some(began) = Instant::now().checked_sub(Duration::from_secs(10)) else { return };
        let state = LineState { phase: Some(Phase::Publish), total: Some(3 << 20), began, last: began };
        let line = line(&state, 1 << 20);
        assert!(line.starts_with("storing: 1.00 MiB of 3.00 MiB, "), "{line}");
        assert!(line.ends_with(" left"), "{line}");
    }
}
