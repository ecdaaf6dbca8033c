//! `floe completions SHELL` and `floe man DIR`

use std::io;

use clap::CommandFactory;
use floe::{Error, Result};

use crate::args::{self, Args};
use crate::report::End;

pub fn completions(args: &args::Completions) -> Result<End> {
    // The generator panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "floe", &mut script);
    io::Write::write_all(&mut io::stdout().lock(), &script).map_err(|source| Error::Io {
        action: "write to",
        path: "standard output".into(),
        source,
    })?;
    Ok(End::Done)
}

pub fn man(args: &args::Man) -> Result<End> {
    let failed = |source| Error::Io { action: "write manual pages to", path: args.dir.clone(), source };
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Args::command(), &args.dir).map_err(failed)?;
    Ok(End::Done)
}
