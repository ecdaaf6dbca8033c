//! `floe completions SHELL` and `floe man DIR`

use std::io;

use clap::CommandFactory;
use clap_mangen::Man;
use floe::{Error, Result};
use serde::Serialize;

use crate::args::{self, Args};
use crate::output::Output;
use crate::report::End;
use crate::terms::{count, safe};

#[derive(Serialize)]
struct Script {
    shell: String,
    script: String,
}

#[derive(Serialize)]
struct Pages {
    pages: Vec<String>,
}

pub fn completions(args: &args::Completions, output: &Output) -> Result<End> {
    // The generator panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "floe", &mut script);
    if output.json() {
        let script = String::from_utf8_lossy(&script).into_owned();
        output.report("completions", &Script { shell: args.shell.to_string(), script }, &[])?;
        return Ok(End::Done);
    }
    io::Write::write_all(&mut io::stdout().lock(), &script).map_err(|source| Error::Io {
        action: "write to",
        path: "standard output".into(),
        source,
    })?;
    Ok(End::Done)
}

pub fn man(args: &args::Man, output: &Output) -> Result<End> {
    let failed = |source| Error::Io { action: "write manual pages to", path: args.dir.clone(), source };
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    let mut command = Args::command();
    command.build();
    let mut pages = Vec::new();
    let mut commands = vec![&command];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands());
        let path = Man::new(command.clone()).generate_to(&args.dir).map_err(failed)?;
        pages.push(path.to_string_lossy().into_owned());
    }
    let written = format!("{} in {}", count(pages.len() as u64, "page"), args.dir.display());
    output.report("man", &Pages { pages }, &[("written", safe(&written).into_owned())])?;
    Ok(End::Done)
}
