//! The `floe` command: a thin shell over the library. Words in, one verb, a report out.
#![warn(missing_docs)]

/// Writes a line to stderr. Unlike `eprintln!` it does not end the process where nobody reads any more.
macro_rules! say {
    ($($word:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($word)*)));
    }};
}

mod args;
mod cmd;
mod meter;
mod output;
mod report;
mod settings;
mod terms;

use std::process::ExitCode;

use clap::Parser;

use args::Args;
use output::Output;
use settings::Settings;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return report::usage(&error, std::env::args_os().any(|arg| arg == "--json")),
    };
    let output = Output::new(&args.common);
    let result = Settings::new(&args.common).and_then(|settings| cmd::run(&args.verb, &settings, &output));
    let result = result.and_then(|end| output.flush().map(|()| end));
    ExitCode::from(report::exit(result, (&args.verb).into(), &output))
}
