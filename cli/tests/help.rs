//! The help is what a newcomer reads first: every word of it is reviewed. `UPDATE_GOLDEN=1` rewrites the files.

use std::fs;
use std::path::Path;

use crate::support::Place;

const VERBS: &[&str] = &[
    "",
    "publish",
    "sync",
    "plan",
    "diff",
    "ls",
    "log",
    "verify",
    "prune",
    "mirror",
    "serve",
    "serve token",
    "serve token create",
    "serve token list",
    "serve token revoke",
    "completions",
    "man",
];

#[test]
fn every_help_is_as_reviewed() {
    let place = Place::new();
    let mut changed = Vec::new();
    for verb in VERBS {
        let args: Vec<_> = verb.split_whitespace().chain(["--help"]).collect();
        let ran = place.floe(&args);
        assert_eq!((ran.exit, ran.stderr.as_str()), (0, ""), "{verb}");
        let long = ran.stdout.lines().find(|line| line.chars().count() > 100);
        assert_eq!(long, None, "help of `{verb}` is too wide");
        let name = if verb.is_empty() {
            "help.txt".to_owned()
        } else {
            format!("help-{}.txt", verb.replace(' ', "-"))
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &ran.stdout).expect("the golden file");
        } else if fs::read_to_string(&path).unwrap_or_default() != ran.stdout {
            changed.push(format!("{}:\n{}", path.display(), ran.stdout));
        }
    }
    assert!(changed.is_empty(), "run again with UPDATE_GOLDEN=1 and review:\n{}", changed.join("\n"));
}

#[test]
fn every_verb_has_golden_help() {
    let help = Place::new().floe(&["--help"]).stdout;
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let verbs: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    let ours: Vec<_> = VERBS.iter().copied().filter(|verb| !verb.is_empty() && !verb.contains(' ')).collect();
    assert_eq!(verbs, ours);
}

#[test]
fn completions_and_pages_for_every_verb() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = place.floe(&["completions", shell]);
        assert_eq!(ran.exit, 0, "{shell}");
        assert!(ran.stdout.contains("keep-last"), "{shell}");
    }
    assert_eq!(place.floe(&["man", "pages/man1"]).exit, 0);
    for verb in VERBS {
        let page =
            if verb.is_empty() { "floe.1".to_owned() } else { format!("floe-{}.1", verb.replace(' ', "-")) };
        let text = fs::read_to_string(place.path("pages/man1").join(&page)).expect(&page);
        assert!(text.contains(".TH"), "{page}");
    }
}
