//! One file a verb: settings -> one call of the engine -> output.

mod diff;
mod log;
mod ls;
mod pages;
mod plan;
mod prune;
mod publish;
mod sync;
mod verify;

use floe::Result;

use crate::args::Verb;
use crate::output::Output;
use crate::report::End;
use crate::settings::Settings;

/// Does what was asked.
pub fn run(verb: &Verb, settings: &Settings, output: &Output) -> Result<End> {
    match verb {
        Verb::Publish(args) => publish::run(args, settings, output),
        Verb::Sync(args) => sync::run(args, settings, output),
        Verb::Plan(args) => plan::run(args, settings, output),
        Verb::Diff(args) => diff::run(args, output),
        Verb::Ls(args) => ls::run(args, output),
        Verb::Log(args) => log::run(args, output),
        Verb::Verify(args) => verify::run(args, settings, output),
        Verb::Prune(args) => prune::run(args, settings, output),
        Verb::Completions(args) => pages::completions(args, output),
        Verb::Man(args) => pages::man(args, output),
    }
}

/// The end of a verb that can tell by its exit code that there was nothing to do.
fn end(unchanged: bool, exit_unchanged: bool) -> End {
    if unchanged && exit_unchanged { End::Unchanged } else { End::Done }
}
